"""How the tied fit of general linear gauges is found: balanced, started in closed form, and descended from there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from redteam.symmetry.algebra import (
    Spectrum,
    closest_rotation,
    complete,
    inverse,
    invertible,
    pseudo_inverse,
    spectral_sylvester,
    sylvester,
    trace,
)

WEAK = 1e-10
"""Singular values of a product below this share of the largest count as zero: balancing would amplify rounding."""
_SLACK = 1e-13  # rounding of a cost that is computed from Gram matrices, as a share of the stacks' squared norms
_ENOUGH = 1e-10  # a predicted gain below this share of the cost ends the descent
_FROZEN = 6  # steps with frozen spectra: each gains a factor, and two decompositions are saved each time
_FLAT = 1e-22  # and so does one below this share of the stacks' squared norms, where the fit is exact


@dataclass(frozen=True)
class Fit:
    """What a tied fit found.

    Attributes:
        matrix: [B, n, n], always invertible.
        start: [B], the tied cost of the start.
        cost: [B], the tied cost of `matrix`; never above `start`. Both are known to 1e-13 of the stacks' squared norms.
        steps: int64 [B], Gauss–Newton steps taken.
    """

    matrix: Tensor
    start: Tensor
    cost: Tensor
    steps: Tensor


@dataclass(frozen=True)
class Grams:
    """Everything that the tied cost of `(I + X) G` depends on, [B, n, n] each.

    Attributes:
        a: left leftᵀ.
        b: right rightᵀ.
        c: left0 leftᵀ.
        d: right0 rightᵀ.
        norm: [B], ‖left0‖² + ‖right0‖².
    """

    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    norm: Tensor

    @classmethod
    def of(cls, left: Tensor, right: Tensor, left0: Tensor, right0: Tensor) -> Grams:
        norm = sum(torch.linalg.vector_norm(x, dim=(-2, -1)).square() for x in (left0, right0))
        return cls(left @ left.mT, right @ right.mT, left0 @ left.mT, right0 @ right.mT, norm)

    def __getitem__(self, which: Tensor) -> Grams:
        return Grams(self.a[which], self.b[which], self.c[which], self.d[which], self.norm[which])

    def moved(self, matrix: Tensor) -> Grams:
        back = inverse(matrix).mT
        a, b = matrix @ self.a @ matrix.mT, back @ self.b @ back.mT
        return Grams(a, b, self.c @ matrix.mT, self.d @ back.mT, self.norm)

    def costs(self) -> Tensor:
        return trace(self.a) + trace(self.b) - 2 * (trace(self.c) + trace(self.d)) + self.norm


def careful(left: Tensor, right: Tensor, left0: Tensor, right0: Tensor, limit: int) -> Fit:
    """The tied fit for stacks of any rank and condition.

    The moving pair is first balanced, which takes any lock off but for signs. The start is the cheapest of five closed
    forms: Procrustes, Procrustes between balanced pairs, least squares on the left, on the right, and on both at once.
    Directions that neither stack sees are completed, so that G can always be inverted.
    """
    base = balance(left, right)
    moving = base @ left, inverse(base).mT @ right
    grams = Grams.of(*moving, left0, right0)
    start = _start(grams, base, left0, right0)
    matrix, _, steps = descend(start, grams.moved(start), limit)

    before, after = (tied_costs(*moving, left0, right0, g) for g in (start, matrix))
    better = (after <= before) & invertible(matrix)
    matrix = torch.where(better[:, None, None], matrix, start)
    return Fit(matrix @ base, before, torch.where(better, after, before), steps)


def tied_costs(left: Tensor, right: Tensor, left0: Tensor, right0: Tensor, matrix: Tensor) -> Tensor:
    """[B], `‖G left − left0‖² + ‖G⁻ᵀ right − right0‖²`; infinite where G cannot be inverted."""
    sides = ((matrix @ left, left0), (inverse(matrix).mT @ right, right0))
    cost = sum(torch.linalg.vector_norm(x.sub_(y), dim=(-2, -1)).square() for x, y in sides)
    return torch.where(cost.isfinite(), cost, torch.inf)


def balance(left: Tensor, right: Tensor) -> Tensor:
    """[B, n, n], a gauge that gives both stacks the same diagonal Gram matrix.

    It is the balanced realisation of the product `leftᵀ right` (Laub et al. 1987, square-root form), so that pairs
    which differ by a gauge come out the same but for signs. Where the product has not full rank there is none, and
    rows are scaled to equal length instead.
    """
    la, lb = (torch.linalg.qr(x.mT, mode="r").R.mT for x in (left, right))
    if min(left.shape[-1], right.shape[-1]) < left.shape[-2]:
        return torch.diag_embed(row_scale(left, right))
    _, s, vh = torch.linalg.svd(la.mT @ lb)
    full = s[:, -1] > WEAK * s[:, 0]
    balanced = (vh @ lb.mT) / s.sqrt()[:, :, None]
    return torch.where(full[:, None, None], balanced, torch.diag_embed(row_scale(left, right)))


def row_scale(left: Tensor, right: Tensor) -> Tensor:
    """[B, n], the factor of each row that makes both stacks' rows equally long; 1 where one of them is zero."""
    a, c = (torch.linalg.vector_norm(x, dim=-1) for x in (left, right))
    scale = (c / a).sqrt()
    return torch.where(scale.isfinite() & (scale > 0), scale, 1.0)


def _start(grams: Grams, base: Tensor, left0: Tensor, right0: Tensor) -> Tensor:
    gram0, cross = right0 @ right0.mT, grams.c + grams.d
    base0 = balance(left0, right0)
    raw = grams.c @ inverse(base).mT + grams.d @ base  # the cross matrix of the pair before it was balanced
    starts = [
        closest_rotation(raw) @ inverse(base),
        inverse(base0) @ closest_rotation(base0 @ grams.c + inverse(base0).mT @ grams.d),
        complete(grams.c @ pseudo_inverse(grams.a)),
        inverse(complete(grams.d @ pseudo_inverse(grams.b))).mT,
        complete(sylvester(gram0, grams.a, cross)),  # least squares of G left = left0 and Gᵀ right0 = right
    ]
    candidates = torch.stack(starts)
    costs = torch.stack([grams.moved(g).costs() for g in starts]).nan_to_num(nan=torch.inf)
    best = costs.argmin(dim=0)
    return candidates[best, torch.arange(len(best), device=best.device)]


def descend(
    start: Tensor, here: Grams, limit: int, frozen: tuple[Spectrum, Spectrum] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss–Newton: the matrices, their costs, and the steps each took.

    Args:
        start: [B, n, n], where to start.
        here: The Gram matrices moved there.
        limit: Most steps to take.
        frozen: Spectra of B and A near the optimum, used in the first steps in place of those at the current point.
    """
    matrix, costs = start.clone(), here.costs()
    steps = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    eye = torch.eye(start.shape[-1], dtype=start.dtype, device=start.device)
    active = torch.arange(len(start), device=start.device)
    for turn in range(limit):
        slope = (here.c - here.a) - (here.d.mT - here.b)
        if frozen is not None and turn < _FROZEN:
            b, a = ((_picked(values, active), _picked(vectors, active)) for values, vectors in frozen)
            step = spectral_sylvester(b, a, slope)
        else:
            step = sylvester(here.b, here.a, slope)
        gain = (step * slope).sum((-2, -1))
        going = gain > torch.maximum(_ENOUGH * here.costs(), _FLAT * here.norm)
        if not bool(going.all()):
            active, here, step = active[going], here[going], step[going]
        if not len(active):
            break
        ceiling = here.costs() + _SLACK * here.norm
        t = torch.ones_like(ceiling)
        for _ in range(30):
            move = eye + t[:, None, None] * step
            there = here.moved(move)
            good = there.costs() <= ceiling
            if bool(good.all()):
                break
            t = torch.where(good, t, t / 2)
        else:
            active, there, move = active[good], there[good], move[good]
        here = there
        matrix[active] = move @ _picked(matrix, active)
        costs[active] = here.costs()
        steps[active] += 1
    return matrix, costs, steps


def _picked(tensor: Tensor, which: Tensor) -> Tensor:
    return tensor if len(which) == len(tensor) else tensor[which]
