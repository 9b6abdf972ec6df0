"""Weights by what no gauge changes: the pair of stacks nearest to an anchor's that has a given product.

Queries and keys are seen as `Wqᵀ Wk` alone, values and outputs as `Wo Wv`. Whatever lies on the two factors, of
whichever group, the product is the victim's; which factors have it is free, and the nearest to the anchor's are taken:

    min ‖L − left0‖² + ‖R − right0‖²   subject to   Lᵀ R = leftᵀ right

No gauge is fitted or inverted. Where heads have full rank, the constraint's solutions are the orbit of the general
linear group, so that a tied fit has the same optimum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from redteam.anatomy import Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import Inapplicable
from redteam.symmetry.balancing import factored
from redteam.symmetry.fitting import require_same, sites_by_kind
from redteam.symmetry.matrix_groups import GeneralLinear
from redteam.symmetry.shifts import SiteMaps, SiteRewrite, remove_shifts, restore
from redteam.symmetry.solvers import require_finite

_RANK = 1e-12  # singular values below this share of the largest count as zero
_STILL = 1e-13  # a step below this share of the stacks' size ends the iteration
_MET = 1e-10  # the constraint is met to this share of the product's size
_WEIGHTS = 10.0 ** torch.arange(0, -15, -1, dtype=torch.float64)  # of the anchor in the alternation, decreasing

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Factors:
    """A pair with a given product.

    Attributes:
        left: [B, n, a].
        right: [B, n, c].
        missed: [B], `‖Lᵀ R − leftᵀ right‖ ÷ ‖leftᵀ right‖`.
    """

    left: Tensor
    right: Tensor
    missed: Tensor


def nearest_factors(left: Tensor, right: Tensor, left0: Tensor, right0: Tensor, *, limit: int = 64) -> Factors:
    """The pair nearest to an anchor's with the product of another pair, per head, float64.

    Minimum-norm Gauss–Newton from the anchor: each step goes to the point nearest to the anchor where the constraint,
    linearised, holds. With a multiplier Λ that is `L = left0 + R Λᵀ`, `R = right0 + L Λ`, a Sylvester equation
    `Lᵀ L Λ + Λ Rᵀ R = F`, which singular value decompositions of the two stacks solve;
    nothing of the size a × c is formed.
    Heads for which it doesn't converge go through alternating least squares under a vanishing weight of the anchor, and
    those for which that fails too keep the pair that was given.

    Args:
        left: [B, n, a]; with `right` it gives the product, and nothing else of it is used.
        right: [B, n, c].
        left0: Of the anchor, [B, n, a].
        right0: Of the anchor, [B, n, c].
        limit: Most steps to take.

    Raises:
        BadInput: If anything is NaN or infinite.
    """
    for stack in (left, right, left0, right0):
        require_finite(stack)
    given, anchor = factored(left, right)[:2], (left0, right0)
    pair = anchor
    for _ in range(limit):
        before, pair = pair, _step(given, anchor, pair)
        if not all(bool(x.isfinite().all()) for x in pair):
            pair = before
            break
        moved = _size(pair[0] - before[0]) + _size(pair[1] - before[1])
        if bool((moved <= _STILL * (_size(pair[0]) + _size(pair[1]))).all()):
            break
    missed = _missed(given, pair)
    hard = missed > _MET
    if bool(hard.any()):
        again = _alternated((given[0][hard], given[1][hard]), (left0[hard], right0[hard]))
        pair = _put(pair[0], hard, again[0]), _put(pair[1], hard, again[1])
        missed = _missed(given, pair)
    lost = (missed > _MET)[:, None, None]
    pair = torch.where(lost, left, pair[0]), torch.where(lost, right, pair[1])
    return Factors(*pair, torch.where(lost[:, 0, 0], 0.0, missed))


def to_anchor(protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str]) -> Checkpoint:
    """Every site of some kinds with the factors nearest to the anchor's, and the function of `protected`; lazy.

    Additive freedoms are taken off both before, and given the anchor's amounts after.

    Args:
        protected: Under any lock of these sites.
        anchor: The public base, or another relative.
        kinds: `"qk"` and `"vo"`.

    Raises:
        Inapplicable: If something between the two factors (a rotary embedding, a norm of queries and keys) makes their
            product no invariant, or the anchor has other tensors.
        BadInput: If the architecture is not known, or, when a tensor is read, if one holds NaN or infinity.
    """
    kinds = tuple(dict.fromkeys(kinds))
    for site in anatomy_of(protected).sites(kinds):
        if GeneralLinear().name not in site.legal:
            raise Inapplicable(
                f"The product at {site.label} is no invariant: a rotary embedding or a norm stands between the two "
                "factors; leave that kind out, or fit a gauge."
            )
    kinds = tuple(kind for kind in kinds if anatomy_of(protected).sites((kind,)))
    if not kinds:
        raise Inapplicable("The architecture has no pair of maps whose product could be compared.")
    found, target = remove_shifts(protected, kinds), remove_shifts(anchor, kinds)

    def change(site: Site, parts: SiteMaps, amount: None) -> SiteMaps:
        theirs = SiteMaps.read(site, target)
        sides = site.pair
        ours, base = (
            [side.stack(affine, site.heads) for side, affine in zip(sides, (x.left, x.right), strict=True)]
            for x in (parts, theirs)
        )
        near = nearest_factors(*ours, *base)
        left, right = sides[0].unstack(near.left, parts.left), sides[1].unstack(near.right, parts.right)
        return replace(parts, left=left, right=right)

    for sites in sites_by_kind(protected, kinds, GeneralLinear()):
        require_same(sites, protected, anchor)
        found = found.transform([SiteRewrite(site, change) for site in sites], lambda place: None)
    return restore(found, anchor, kinds)


def _step(given: Pair, anchor: Pair, pair: Pair) -> Pair:
    (left, right), (left0, right0), (here, there) = given, anchor, pair
    # F = leftᵀ right − left0ᵀ R − Lᵀ right0 + Lᵀ R, as a product of two tall matrices
    tall, wide = torch.cat([left, left0, here, here], 1), torch.cat([right, -there, -right0, there], 1)
    ul, sl, vl = torch.linalg.svd(here, full_matrices=False)
    ur, sr, vr = torch.linalg.svd(there, full_matrices=False)
    above, beside = (tall @ vl.mT).mT @ wide, tall.mT @ (wide @ vr.mT)  # Vlᵀ F [n, c] and F Vr [a, n]
    inner = above @ vr.mT
    total = sl[:, :, None].square() + sr[:, None, :].square()
    middle = torch.where(total > _RANK**2 * total.amax((1, 2), keepdim=True), inner / total, 0.0)
    down = sl[:, :, None] * (middle @ vr) + _over(above - inner @ vr, sl[:, :, None])
    across = (vl.mT @ middle) * sr[:, None, :] + _over(beside - vl.mT @ inner, sr[:, None, :])
    return left0 + ur @ across.mT, right0 + ul @ down


def _over(numerator: Tensor, values: Tensor) -> Tensor:
    seen = values > _RANK * values.amax((1, 2), keepdim=True)
    return torch.where(seen, numerator / torch.where(seen, values, 1.0), 0.0)


def _alternated(given: Pair, anchor: Pair) -> Pair:
    """Least squares in one factor at a time: `min ‖Lᵀ R − M‖² + w (‖L − left0‖² + ‖R − right0‖²)` as w falls."""
    (left, right), (left0, right0) = given, anchor
    here, there = anchor
    eye = torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
    size = _size(left0) * _size(right0)
    for weight in _WEIGHTS.to(left.device).repeat_interleave(4):
        w = (weight * size)[:, None, None]
        here = torch.linalg.lstsq(there @ there.mT + w * eye, (there @ right.mT) @ left + w * left0).solution
        there = torch.linalg.lstsq(here @ here.mT + w * eye, (here @ left.mT) @ right + w * right0).solution
    return here, there


def _missed(given: Pair, pair: Pair) -> Tensor:
    """Of the product, from triangular factors, so that nothing cancels."""
    (left, right), (here, there) = given, pair
    gap = _product(torch.cat([left, here], 1), torch.cat([right, -there], 1))
    size = _product(left, right)
    return torch.where(size > 0, gap / torch.where(size > 0, size, 1.0), gap)


def _product(tall: Tensor, wide: Tensor) -> Tensor:
    one, other = torch.linalg.qr(tall.mT, mode="r").R, torch.linalg.qr(wide.mT, mode="r").R
    return _size(one @ other.mT)


def _size(stack: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(stack, dim=(-2, -1))
    return size


def _put(stack: Tensor, where: Tensor, values: Tensor) -> Tensor:
    placed = stack.clone()
    placed[where] = values
    return placed
