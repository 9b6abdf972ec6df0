"""Activation Procrustes: rotations of heads and orders of neurons by what they do on inputs, in place of weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from redteam.anatomy import Side, Site, Sites, Stacks
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import Orthogonal, Permutation, SignedPermutation
from redteam.symmetry.fitting import require_same, sites_by_kind
from redteam.symmetry.gauges import Gauge
from redteam.symmetry.shifts import Parts, Whole, toward
from redteam.views import AttackerView
from redteam_attacks.activations import Moment, cut, dressed, moments
from redteam_attacks.training import Size

_ROTATED = ("qk", "vo")


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
def activation_procrustes(view: AttackerView, *, samples: Size = 256, sites: Sites = ("qk", "vo", "mlp")) -> Checkpoint:
    """max over R of ⟨R, E a₀ aᵀ⟩, with a and a₀ what a head (an MLP) computes in the protected network and the base's.

    Both networks read the same inputs, of the attacker's own tasks. Activations are a query's, key's, value's and
    neuron's outputs, and what the output maps read, all less their means: no additive freedom moves those, and neither
    does another basis of the residual stream, which procrustes on weights takes for a difference. R is orthogonal at
    heads, exact by the singular value decomposition, and a permutation of neurons. The function stays; a diagonal
    defeats it, as it does `procrustes`. It costs two forward passes over the samples.

    Args:
        view: Grants the base, companions and inputs of their tasks.
        samples: Inputs of each task; all where there are fewer.
        sites: Kinds of sites to fit.

    Raises:
        Inapplicable: If the attacker has no task of its own, or the network does not hold a map as its checkpoint does.
        IllegalGauge: If a rotation is not legal at heads, as where a rotary embedding turns queries and keys.
    """
    protected, anchor = view.protected, view.anchor
    batches = [
        found
        for kind in sites
        for found in sites_by_kind(protected, (kind,), Orthogonal() if kind in _ROTATED else Permutation())
    ]
    for batch in batches:
        require_same(batch, protected, anchor)
    read = moments(
        view,
        (dressed(anchor, protected), protected),
        (side for batch in batches for site in batch for side in site.sides),
        samples,
    )
    gauges = {site.label: _fit(site, protected, anchor, read) for batch in batches for site in batch}

    def change(site: Site, parts: Parts, gauge: Gauge) -> Parts:
        return toward(site, parts.moved(site, gauge), Parts.read(site, anchor))

    for batch in batches:
        protected = protected.transform([Whole(site, change) for site in batch], lambda place: gauges[place.site.label])
    return protected


def _fit(site: Site, protected: Checkpoint, anchor: Checkpoint, read: Mapping[str, Moment]) -> Gauge:
    cross = torch.stack([_crossed(site, side, protected, anchor, read) for side in site.sides]).sum(0)
    eye = torch.eye(site.width, dtype=cross.dtype).expand(site.heads, -1, -1)
    moving, target = Stacks(eye, eye[:, :, :0]), Stacks(cross, eye[:, :, :0])
    return (Orthogonal() if site.kind in _ROTATED else Permutation()).fit(moving, target)


def _crossed(site: Site, side: Side, protected: Checkpoint, anchor: Checkpoint, read: Mapping[str, Moment]) -> Tensor:
    """E a₀ aᵀ of the activations on one side, [B, n, n], relative to their size so that no side outweighs another."""
    covariance = read[side.linear.weight].covariance
    if side.columns:  # what the map reads is the activation
        units = covariance.reshape(site.heads, side.share, site.width, site.heads, side.share, site.width)
        cross = torch.einsum("brnbrm->bnm", units)
    else:
        ours, theirs = (cut(side, side.linear.read(one).weight, site.heads) for one in (protected, anchor))
        cross = torch.einsum("bnri,ij,bmrj->bnm", theirs, covariance, ours)
    size: Tensor = cross.norm().clamp_min(torch.finfo(cross.dtype).tiny)
    return cross / size
