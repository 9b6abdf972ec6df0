"""Activation Procrustes: rotations of heads and orders of neurons by what they do on inputs, in place of weights."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from redteam.anatomy import Side, Site, Sites, Stacks
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import Orthogonal, Permutation, SignedPermutation
from redteam.symmetry.canonicals import canonical_side
from redteam.symmetry.fitting import apply_gauges, looked_up, require_same, sites_by_kind
from redteam.symmetry.gauges import Gauge
from redteam.views import AttackerView
from redteam_attacks.activations import Moment, cut, dressed, moments
from redteam_attacks.training import Size

_ROTATED = ("qk", "vo")
_ALPHA = 0.9  # RegMean's: finite samples overstate how alike inputs are


@attack(
    "activation-procrustes",
    breaks={
        *((kind, group) for kind in _ROTATED for group in (Permutation, SignedPermutation, Orthogonal)),
        ("mlp", Permutation),
    },
    needs=Needs.ANCHOR | Needs.COMPANIONS,
    targets=("rotation", "permutation", "signed-permutation"),
    keeps_function=True,
    paper="activation matching, Git Re-Basin, arXiv:2209.04836; Schönemann, Psychometrika 1966, for rotations",
)
def activation_procrustes(
    view: AttackerView,
    *,
    samples: Size = 256,
    inputs: Literal["shared", "own"] = "shared",
    sites: Sites = ("qk", "vo", "mlp"),
) -> Checkpoint:
    """max over R of ⟨R, E a₀ aᵀ⟩, with a and a₀ what a head (an MLP) of the protected model and of the base computes.

    With shared inputs, both maps of a layer read what the base's layer reads on inputs of the attacker's own tasks, in
    units of their root mean square: queries, keys, values and what enters a neuron are compared, and what output maps
    make of a unit of it. With own inputs each network runs by itself, and what output maps read is compared: another
    basis of the residual stream then makes no difference, but what earlier layers have learned adds up. Means are taken
    off, and with them every additive freedom. R is orthogonal at heads, exact by the singular value decomposition, and
    a permutation of neurons. The function stays; a diagonal defeats it, as it does `procrustes`. It costs a forward
    pass over the samples, or two.

    Args:
        view: Grants the base, companions and inputs of their tasks.
        samples: Inputs of each task; all where there are fewer.
        inputs: Whether both maps read the base's inputs, or each its own network's.
        sites: Kinds of sites to fit.

    Raises:
        Inapplicable: If the attacker has no task of its own, or the network does not hold a map as its checkpoint does.
        IllegalGauge: If a rotation is not legal at heads, as where a rotary embedding turns queries and keys.
    """
    protected, anchor = view.protected, view.anchor
    batches = [
        batch
        for kind in sites
        for batch in sites_by_kind(protected, (kind,), Orthogonal() if kind in _ROTATED else Permutation())
    ]
    for batch in batches:
        require_same(batch, protected, anchor)
    base, shared = dressed(anchor, protected), inputs == "shared"
    found = [site for batch in batches for site in batch]
    sides = [side for site in found for side in site.sides if not (shared and side.columns)]
    read = moments(view, (base,) if shared else (base, protected), sides, samples)
    gauges = {site.label: _fit(site, protected, anchor, read) for site in found}

    for batch in batches:
        protected = apply_gauges(protected, batch, looked_up(gauges), anchor)
    return protected


def _fit(site: Site, protected: Checkpoint, anchor: Checkpoint, read: Mapping[str, Moment]) -> Gauge:
    cross = torch.stack([_crossed(site, side, protected, anchor, read) for side in site.sides]).sum(0)
    eye = torch.eye(site.width, dtype=cross.dtype, device=cross.device).expand(site.heads, -1, -1)
    moving, target = Stacks(eye, eye[:, :, :0]), Stacks(cross, eye[:, :, :0])
    return (Orthogonal() if site.kind in _ROTATED else Permutation()).fit(moving, target)


def _crossed(site: Site, side: Side, protected: Checkpoint, anchor: Checkpoint, read: Mapping[str, Moment]) -> Tensor:
    """E a₀ aᵀ of the activations on one side, [B, n, n]; of an output map whose inputs were not read, its weights'."""
    if side.linear.weight not in read:
        ours, theirs = (canonical_side(side, one, site.heads) for one in (protected, anchor))
        return theirs @ ours.mT
    covariance = read[side.linear.weight].covariance
    if side.columns:  # what the map reads is the activation
        units = covariance.reshape(site.heads, side.share, site.width, site.heads, side.share, site.width)
        crossed: Tensor = torch.einsum("brnbrm->bnm", units)
    else:
        if torch.allclose(covariance, covariance.T):  # own inputs may lie in different bases
            covariance = _ALPHA * covariance + (1 - _ALPHA) * torch.diag(covariance.diagonal())
        covariance = covariance / covariance.diagonal().abs().mean().clamp_min(torch.finfo(covariance.dtype).tiny)
        ours, theirs = (cut(side, side.linear.read(one).weight, site.heads) for one in (protected, anchor))
        crossed = torch.einsum("bnri,ij,bmrj->bnm", theirs, covariance, ours)
    return crossed
