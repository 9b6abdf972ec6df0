"""Balance: the form of a site in which both of its sides have one Gram matrix. No anchor is needed, no key matters.

A gauge G turns `A = left leftᵀ` into `G A Gᵀ` and `B = right rightᵀ` into `G⁻ᵀ B G⁻¹`. Every group that scales is a
compact part K (rotations, phases, signs, orders) times a part P that stretches, G = K P, and of P one element alone
makes A and B equal on what K doesn't touch: for general linear gauges the positive definite S with

    S A S = S⁻¹ B S⁻¹,   S² = A^-½ (A^½ B A^½)^½ A^-½

for planes and rows the root of the ratio of their lengths. Copies of one model under any keys come out the same but for
an element of K, which a closed form finds. Between balanced models both parts are, to first order in what lies between
them, the tied fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from redteam.anatomy import Layout, Site, Stacks, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry.fitting import require_same, sites_by_kind
from redteam.symmetry.gauges import BlockGauge, Gauge, MatrixGauge, MonomialGauge, PlanarGauge, planes_of
from redteam.symmetry.groups import Group, largest_legal_group
from redteam.symmetry.matrix_groups import GeneralLinear, Orthogonal
from redteam.symmetry.permutations import Permutation, SignedPermutation
from redteam.symmetry.rotary import PartialPlanar, Planar
from redteam.symmetry.scalings import Monomial, PositiveMonomial, PositiveScaling, Scaling
from redteam.symmetry.shifts import SiteMaps, SiteRewrite, remove_shifts, restore
from redteam.symmetry.solvers import require_finite
from redteam.symmetry.tied_robust import WEAK, balance, row_scale

Turn = Literal["fit", "axes"]
"""How the compact part is chosen: the closest to the balanced anchor, or by each model's own principal axes."""

Pairs = tuple[Literal["qk", "vo", "mlp"], ...]
PAIRS: Pairs = ("qk", "vo", "mlp")
"""The kinds of sites that have two sides."""


def balanced(checkpoint: Checkpoint, kinds: Iterable[str] = PAIRS) -> Checkpoint:
    """A checkpoint with every site of some kinds balanced, additive freedoms taken off; lazy, and the function stays.

    Copies of one model under any keys agree up to an element of each site's compact part: a rotation of every general
    linear head, a phase of every plane, an order and signs of rows. Heads whose product lacks rank are factored anew
    (`factored`), since no gauge balances them.

    Args:
        checkpoint: Under any lock of these sites.
        kinds: Of `PAIRS`; those that the architecture lacks are passed over.

    Raises:
        BadInput: If the architecture is not known, or, when a tensor is read, if one holds NaN or infinity.
    """

    def change(site: Site, parts: SiteMaps, amount: None) -> SiteMaps:
        parts = _of_full_rank(site, parts)
        gauge = stretch(largest_legal_group(site), _stacks(site, parts))
        return parts if gauge is None else parts.moved(site, gauge)

    kinds = _there(checkpoint, kinds)
    found = remove_shifts(checkpoint, kinds)
    for sites in sites_by_kind(checkpoint, kinds, None):
        found = found.transform([SiteRewrite(site, change) for site in sites], _nothing)
    return found


def balanced_like(
    protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str] = PAIRS, *, turn: Turn = "fit"
) -> Checkpoint:
    """A checkpoint brought to its balanced form, and from there to where the anchor's would be taken to the anchor.

    With S the stretch of the protected model, S₀ the anchor's and K an element of the compact part, the gauge is
    `S₀⁻¹ K S`: what is merged with the anchor's relatives, as they are, is what their balanced forms would give. Lazy;
    the function stays, and additive freedoms take the anchor's amounts.

    Args:
        protected: Under any lock of these sites.
        anchor: The public base, or another relative.
        kinds: As in `balanced`.
        turn: K. `"fit"` is the closest to the balanced anchor. `"axes"` takes general linear heads to their principal
            axes, in order of size and with the sign of the rows' third moment, so that the anchor is put into the same
            canonical form as the protected model, and nothing is fitted; elsewhere K is 1.

    Raises:
        Inapplicable: If the anchor has other tensors.
        BadInput: As `balanced`.
    """
    kinds = _there(protected, kinds)
    batches = sites_by_kind(protected, kinds, None)
    for sites in batches:
        require_same(sites, protected, anchor)
    found, target = remove_shifts(protected, kinds), remove_shifts(anchor, kinds)

    def change(site: Site, parts: SiteMaps, amount: None) -> SiteMaps:
        group, theirs = largest_legal_group(site), _stacks(site, SiteMaps.read(site, target))
        parts = _of_full_rank(site, parts)
        ours = _stacks(site, parts)
        if turn == "axes" and isinstance(group, GeneralLinear):
            steps: list[Gauge] = [MatrixGauge(_axes(ours)), MatrixGauge(torch.linalg.inv(_axes(theirs)))]
        else:
            own, other = stretch(group, ours), stretch(group, theirs)
            ours, theirs = (x if p is None else x.moved(p) for x, p in ((ours, own), (theirs, other)))
            between = [compact(group, ours, theirs)] if turn == "fit" else []
            steps = [*([own] if own else []), *between, *([other.inverse()] if other else [])]
        for gauge in steps:
            parts = parts.moved(site, gauge)
        return parts

    for sites in batches:
        found = found.transform([SiteRewrite(site, change) for site in sites], _nothing)
    return restore(found, anchor, kinds)


def stretch(group: Group, stacks: Stacks) -> Gauge | None:
    """The element P of a group that balances a site; None where the group is compact.

    Raises:
        BadInput: If a stack holds NaN or infinity.
    """
    left, right = stacks.left, stacks.right
    for stack in (left, right):
        require_finite(stack)
    if isinstance(group, GeneralLinear):
        return MatrixGauge(even(left, right))
    if isinstance(group, Planar):
        return _lengths(left, right, group.layout)
    if isinstance(group, PartialPlanar):
        turned, rest = _cut(stacks, group.turned)
        return BlockGauge(_lengths(turned.left, turned.right, group.layout), MatrixGauge(even(rest.left, rest.right)))
    if isinstance(group, Scaling | PositiveScaling | Monomial | PositiveMonomial):
        return MonomialGauge.scaled(row_scale(left, right))
    return None


def compact(group: Group, moving: Stacks, target: Stacks) -> Gauge:
    """The element of a group's compact part that brings balanced stacks closest to others, in closed form.

    Raises:
        BadInput: If a stack holds NaN or infinity.
    """
    if isinstance(group, GeneralLinear):
        return Orthogonal().fit(moving, target)
    if isinstance(group, Planar):
        return _phases(moving, target, group.layout)
    if isinstance(group, PartialPlanar):
        (turned, rest), (turned0, rest0) = (_cut(x, group.turned) for x in (moving, target))
        return BlockGauge(_phases(turned, turned0, group.layout), Orthogonal().fit(rest, rest0))
    if isinstance(group, Scaling):
        along = torch.linalg.vecdot(moving.left, target.left) + torch.linalg.vecdot(moving.right, target.right)
        return MonomialGauge.scaled(torch.where(along < 0, -1.0, 1.0).to(along))
    if isinstance(group, Monomial):
        return SignedPermutation().fit(moving, target)
    if isinstance(group, PositiveMonomial):
        return Permutation().fit(moving, target)
    if isinstance(group, PositiveScaling):
        return MonomialGauge.still(*moving.left.shape[:2])
    return group.fit(moving, target)


def even(left: Tensor, right: Tensor) -> Tensor:
    """S, [B, n, n] symmetric positive definite, with `S A S = S⁻¹ B S⁻¹`, per head.

    It is the polar factor of the balanced realisation (`redteam.symmetry.tied_robust.balance`), so that no Gram matrix
    is formed, whose condition number would be the square. Heads whose product lacks rank have none; their rows are
    made equally long on both sides instead.

    Args:
        left: float64 [B, n, a].
        right: float64 [B, n, c].
    """
    _, sizes, axes = torch.linalg.svd(balance(left, right))
    root: Tensor = axes.mT @ (sizes[:, :, None] * axes)
    return root


def factored(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition `U s Vᵀ` of `leftᵀ right`, as a balanced pair; what lay on the factors is gone.

    Args:
        left: float64 [B, n, a].
        right: float64 [B, n, c].

    Returns:
        `s^½ Uᵀ` [B, n, a], `s^½ Vᵀ` [B, n, c] and s [B, n], falling; zeros where there is not so much rank.
    """
    tall, wide = torch.linalg.qr(left.mT), torch.linalg.qr(right.mT)
    u, s, vh = torch.linalg.svd(tall.R @ wide.R.mT, full_matrices=False)
    root = s.sqrt()[:, None, :]
    pair = ((tall.Q @ u * root).mT, (wide.Q @ vh.mT * root).mT)
    missing = left.shape[1] - s.shape[1]  # of heads that are wider than there are inputs
    if not missing:
        return *pair, s
    one, other = (torch.nn.functional.pad(x, (0, 0, 0, missing)) for x in pair)
    return one, other, torch.nn.functional.pad(s, (0, missing))


def _of_full_rank(site: Site, parts: SiteMaps) -> SiteMaps:
    """The parts with the heads that no gauge balances factored anew from their product."""
    if not isinstance(largest_legal_group(site), GeneralLinear):
        return parts
    stacks, (one, other) = _stacks(site, parts), site.pair
    for stack in (stacks.left, stacks.right):
        require_finite(stack)
    left, right, sizes = factored(stacks.left, stacks.right)
    short = (sizes[:, -1] <= WEAK * sizes[:, 0])[:, None, None]
    if not bool(short.any()):
        return parts
    left, right = torch.where(short, left, stacks.left), torch.where(short, right, stacks.right)
    return replace(parts, left=one.unstack(left, parts.left), right=other.unstack(right, parts.right))


def _axes(stacks: Stacks) -> Tensor:
    """The balanced realisation with a sign for every row, so that a copy under another key has the same."""
    axes = balance(stacks.left, stacks.right)
    left, right = axes @ stacks.left, torch.linalg.solve(axes.mT, stacks.right)
    skew = (left**3).sum(-1) + (right**3).sum(-1)
    return torch.where(skew < 0, -1.0, 1.0).to(skew)[:, :, None] * axes


def _lengths(left: Tensor, right: Tensor, layout: Layout) -> PlanarGauge:
    size = row_scale(planes_of(left, layout), planes_of(right, layout))
    return PlanarGauge(torch.complex(size, torch.zeros_like(size)), layout)


def _phases(moving: Stacks, target: Stacks, layout: Layout) -> PlanarGauge:
    pairs = ((moving.left, target.left), (moving.right, target.right))
    along = sum(torch.linalg.vecdot(*(planes_of(x, layout) for x in pair)) for pair in pairs)
    assert isinstance(along, Tensor)
    require_finite(along)
    return PlanarGauge(torch.polar(torch.ones_like(along.real), along.angle()), layout)


def _cut(stacks: Stacks, turned: int) -> tuple[Stacks, Stacks]:
    parts = (slice(turned), slice(turned, None))
    first, last = (Stacks(stacks.left[:, part], stacks.right[:, part]) for part in parts)
    return first, last


def _stacks(site: Site, parts: SiteMaps) -> Stacks:
    return site.stacked(parts.left, parts.right, *parts.carried)


def _there(checkpoint: Checkpoint, kinds: Iterable[str]) -> tuple[str, ...]:
    anatomy, wanted = anatomy_of(checkpoint), set(kinds)
    return tuple(kind for kind in PAIRS if kind in wanted and anatomy.sites((kind,)))


def _nothing(place: SiteRewrite) -> None:
    return None
