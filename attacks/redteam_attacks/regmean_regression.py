"""RegMean regression: the tied fit with every input direction counted as often as inputs take it."""

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from redteam.anatomy import Affine, Side, Site, Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.symmetry.canonicals import without_freedom
from redteam.symmetry.fitting import apply_gauges, looked_up, require_same, sites_by_kind
from redteam.symmetry.gauges import Gauge
from redteam.symmetry.groups import largest_legal_group
from redteam.views import AttackerView
from redteam_attacks.activations import Moment, dressed, moments, weighed
from redteam_attacks.tied import CLAIMS, LOCKS
from redteam_attacks.training import Size

_KINDS: Sites = ("qk", "vo", "mlp")


@attack(
    "regmean-regression",
    breaks={claim for claim in CLAIMS if claim[0] in _KINDS},
    needs=Needs.ANCHOR | Needs.COMPANIONS,
    targets=[name for name in LOCKS if name != "null-shift"],
    keeps_function=True,
    paper="the Gram matrices of RegMean, arXiv:2212.09849, in a gauge fit",
)
def regmean_regression(
    view: AttackerView,
    *,
    samples: Size = 256,
    alpha: Annotated[float, Range(0.0, 1.0)] = 0.9,
    sites: Sites = _KINDS,
) -> Checkpoint:
    """min over G of ‖(G·left − left₀) C^½‖² + ‖(G⁻ᵀ·right − right₀) C′^½‖², over the largest legal group of each site.

    RegMean asks of a merged layer that it answer each model's inputs as that model does, which weighs a weight's error
    by the inputs' Gram matrix. Here left and right are a site's maps with their norms folded in and additive freedoms
    taken off, C is the covariance of what a map reads in the base on inputs of the attacker's own tasks, with a mean
    eigenvalue of 1 and everything off the diagonal multiplied by alpha, as RegMean does; output maps, whose columns
    are the moving ones, are compared as they are. C is an identity in `gauge-fit`. In float64, all heads of a site at
    once; the function stays. It costs a forward pass over the samples and what `gauge-fit` does.

    Args:
        view: Grants the base, companions and inputs of their tasks.
        samples: Inputs of each task; all where there are fewer.
        alpha: RegMean's, 0.9 there; 0 weighs single inputs alone.
        sites: Kinds of sites to fit, of query/key and value/output pairs and neurons.

    Raises:
        Inapplicable: If the attacker has no task of its own, or the network does not hold a map as its checkpoint does.
        IllegalGauge: If the architecture has no such sites.
    """
    protected, anchor = view.protected, view.anchor
    kinds = [kind for kind in _KINDS if kind in sites]
    batches = [found for kind in kinds for found in sites_by_kind(protected, (kind,), None)]
    for batch in batches:
        require_same(batch, protected, anchor)
    read = moments(view, (dressed(anchor, protected),), weighed(site for batch in batches for site in batch), samples)

    for batch in batches:
        gauges = {site.label: _fit(site, protected, anchor, read, alpha) for site in batch}
        protected = apply_gauges(protected, batch, looked_up(gauges), anchor)
    return protected


def _fit(site: Site, protected: Checkpoint, anchor: Checkpoint, read: Mapping[str, Moment], alpha: float) -> Gauge:
    roots = [None if s.columns else _root(s, anchor, read[s.linear.weight], alpha) for s in site.sides]
    moving, target = (
        site.stacked(*(_weighed(side, one, root) for side, root in zip(site.sides, roots, strict=True)))
        for one in (protected, anchor)
    )
    return largest_legal_group(site).fit(moving, target)


def _weighed(side: Side, checkpoint: Checkpoint, root: Tensor | None) -> Affine:
    affine = without_freedom(side.linear, side.linear.read(checkpoint), checkpoint)
    return affine if root is None else Affine(affine.weight @ root, None)


def _root(side: Side, anchor: Checkpoint, moment: Moment, alpha: float) -> Tensor:
    """C^½, [in, in], of inputs before the norm's gain, since that is folded into what reads it."""
    covariance = moment.covariance
    if side.linear.norm is not None:
        gain, _ = side.linear.norm.read(anchor)
        small = gain.abs() <= 1e-6 * gain.abs().max()  # such an input says nothing
        back = torch.where(small, 0.0, 1 / gain)
        covariance = back[:, None] * covariance * back
    diagonal = torch.diag(covariance.diagonal())
    shrunk = alpha * covariance + (1 - alpha) * diagonal
    values, vectors = torch.linalg.eigh(shrunk / shrunk.diagonal().mean())
    root: Tensor = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return root
