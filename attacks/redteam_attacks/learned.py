"""Learned fits: the tied objective by gradient descent, to check that the closed forms miss nothing.

    min over G of  ‖G·left − left₀‖² + ‖G⁻ᵀ·right − right₀‖²

on canonical stacks, all heads of all sites of a kind at once, in float64, with Adam and a rate that falls to zero along
a half cosine. Only Gram matrices, n × n per head, are needed inside the loop. Nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from redteam.anatomy import Stacks
from redteam.checkpoint import Checkpoint
from redteam.symmetry.canonicals import canonical
from redteam.symmetry.fitting import apply_gauges, looked_up, require_same, sites_by_kind
from redteam.symmetry.gauges import MatrixGauge
from redteam.symmetry.solvers import procrustes, require_finite, tied_costs
from redteam.symmetry.tied_robust import balance

Steps = Callable[[int], Iterable[int]]
"""Counts optimizer steps, as `AttackerView.steps` does."""

_MOMENTS = (0.9, 0.999)
_TINY = 1e-12


@dataclass(frozen=True)
class LearnedRotation:
    """Rotations and reflections by descent along the manifold: `R ← U R`, U the map of a skew matrix near 0.

    Attributes:
        steps: How many.
        rate: The first step's size, in radians per pair of dimensions.
        chart: The map from skew matrices to rotations: `"exponential"`, e^S, or `"cayley"`, (I − S/2)⁻¹ (I + S/2).
    """

    steps: int = 300
    rate: float = 0.1
    chart: Literal["exponential", "cayley"] = "exponential"
    name: ClassVar[str] = "orthogonal"

    def matrices(self, moving: Stacks, target: Stacks, steps: Steps) -> Tensor:
        """[B, n, n]. Proper rotations and reflections are learned side by side, and the better one is taken.

        On either half the objective is linear in R, whose only local minimum there is the best one.
        """
        cross = target.left @ moving.left.mT + target.right @ moving.right.mT
        require_finite(cross)
        eye = torch.eye(cross.shape[-1], dtype=cross.dtype, device=cross.device).expand_as(cross).clone()
        mirror = eye.clone()
        mirror[:, 0, 0] = -1.0
        both, start = torch.cat([cross, cross]), torch.cat([eye, mirror])
        adam, rotation = _Adam(), start
        for rate in _rates(steps, self.steps, self.rate):
            slope = rotation @ both.mT - both @ rotation.mT  # of −2 ⟨C, e^S R⟩ at S = 0
            rotation = self._chart(-rate * adam.direction(slope)) @ rotation
        gain = (both * rotation).sum((-2, -1))
        first, second = gain.chunk(2)
        proper, mirrored = rotation.chunk(2)
        return torch.where((first >= second)[:, None, None], proper, mirrored)

    def _chart(self, step: Tensor) -> Tensor:
        skew = (step - step.mT) / 2
        eye = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
        rotation: Tensor = (
            torch.linalg.matrix_exp(skew)
            if self.chart == "exponential"
            else torch.linalg.solve(eye - skew / 2, eye + skew / 2)
        )
        return rotation


@dataclass(frozen=True)
class LearnedLinear:
    """Invertible matrices by descent on their entries, or on those of their LU factors.

    The moving pair is balanced first, which no lock survives but for a signed permutation, and the start is the closest
    rotation between the balanced pairs: what is learned is all that the closed form's Gauss–Newton steps would do.

    Attributes:
        steps: How many.
        rate: The first step's size, as a share of the start's mean entry.
        parametrisation: `"free"` is the matrix itself, `"lu"` is P L U with the start's P, a unit lower L and an upper
            U whose diagonal keeps its signs, so that it can't become singular.
    """

    steps: int = 300
    rate: float = 0.05
    parametrisation: Literal["free", "lu"] = "free"
    name: ClassVar[str] = "general-linear"

    def matrices(self, moving: Stacks, target: Stacks, steps: Steps) -> Tensor:
        """[B, n, n]; of every head the best point on the way."""
        for stack in (moving.left, moving.right, target.left, target.right):
            require_finite(stack)
        first = balance(moving.left, moving.right)
        eased = Stacks(first @ moving.left, torch.linalg.solve(first.mT, moving.right))
        there = balance(target.left, target.right)
        goal = Stacks(there @ target.left, torch.linalg.solve(there.mT, target.right))
        between = procrustes(goal.left @ eased.left.mT + goal.right @ eased.right.mT)
        start = torch.linalg.solve(there, between)
        return self._descend(start, eased, target, steps) @ first

    def _descend(self, start: Tensor, moving: Stacks, target: Stacks, steps: Steps) -> Tensor:
        a, b = moving.left @ moving.left.mT, moving.right @ moving.right.mT
        c, d = target.left @ moving.left.mT, target.right @ moving.right.mT
        build, parameters = self._parameters(start)
        optimizer = torch.optim.Adam(parameters, lr=self.rate, betas=_MOMENTS, eps=_TINY, foreach=False)
        best, lowest = start, torch.full((len(start),), torch.inf, dtype=start.dtype, device=start.device)
        for rate in _rates(steps, self.steps, self.rate):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            with torch.enable_grad():
                matrix = build()
                back, singular = torch.linalg.inv_ex(matrix.mT)
                costs = ((matrix @ a - 2 * c) * matrix).sum((-2, -1)) + ((back @ b - 2 * d) * back).sum((-2, -1))
                here = torch.where(singular == 0, costs.detach(), torch.inf).nan_to_num(nan=torch.inf)
                costs[here.isfinite()].sum().backward()
            better = here < lowest
            best, lowest = torch.where(better[:, None, None], matrix.detach(), best), torch.minimum(here, lowest)
            optimizer.step()
        before, after = (tied_costs(moving.left, moving.right, target.left, target.right, x) for x in (start, best))
        return torch.where((after <= before)[:, None, None], best, start)

    def _parameters(self, start: Tensor) -> tuple[Callable[[], Tensor], list[Tensor]]:
        """What builds the matrices, and the leaves that are learned: shares of the start's mean entry."""
        if self.parametrisation == "free":
            unit = start.abs().mean((-2, -1), keepdim=True)
            free = (start / unit).requires_grad_()
            return lambda: free * unit, [free]
        order, lower, upper = torch.linalg.lu(start)
        unit = upper.abs().mean((-2, -1), keepdim=True)
        eye = torch.eye(start.shape[-1], dtype=start.dtype, device=start.device)
        diagonal = upper.diagonal(dim1=-2, dim2=-1)
        low = lower.tril(-1).clone().requires_grad_()
        high = (upper.triu(1) / unit).clone().requires_grad_()
        log = diagonal.abs().clamp(min=_TINY).log().clone().requires_grad_()
        sign = torch.where(diagonal < 0, -1.0, 1.0)
        return (
            lambda: order @ (low.tril(-1) + eye) @ (high.triu(1) * unit + torch.diag_embed(sign * log.exp())),
            [low, high, log],
        )


Learned = LearnedRotation | LearnedLinear


def fit_learned(
    protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str], learned: Learned, steps: Steps
) -> Checkpoint:
    """Every site of some kinds under the gauges that were learned; the function stays. Learned at once, applied lazily.

    Args:
        protected: What a lock may have moved.
        anchor: The public base, or another relative.
        kinds: Kinds of sites, each learned in one go.
        learned: What is learned, and how.
        steps: Counts the steps.

    Raises:
        BadInput: If the architecture is not known, the anchor has other tensors, or one holds NaN or infinity.
        IllegalGauge: If the group is not legal at a kind.
    """
    for sites in sites_by_kind(protected, kinds, learned):
        require_same(sites, protected, anchor)
        pairs = [[canonical(site, checkpoint) for site in sites] for checkpoint in (protected, anchor)]
        moving, target = (
            Stacks(torch.cat([stacks.left for stacks in side]), torch.cat([stacks.right for stacks in side]))
            for side in pairs
        )
        found = learned.matrices(moving, target, steps).split([site.heads for site in sites])
        gauges = {site.label: MatrixGauge(matrix) for site, matrix in zip(sites, found, strict=True)}
        protected = apply_gauges(protected, sites, looked_up(gauges), anchor)
    return protected


class _Adam:
    """Adam's direction (Kingma and Ba, arXiv 1412.6980, algorithm 1) without its rate."""

    def __init__(self) -> None:
        self.first = self.second = torch.zeros(())
        self.count = 0

    def direction(self, slope: Tensor) -> Tensor:
        self.count += 1
        self.first = _MOMENTS[0] * self.first + (1 - _MOMENTS[0]) * slope
        self.second = _MOMENTS[1] * self.second + (1 - _MOMENTS[1]) * slope.square()
        first, second = self.first / (1 - _MOMENTS[0] ** self.count), self.second / (1 - _MOMENTS[1] ** self.count)
        return first / (second.sqrt() + _TINY)


def _rates(steps: Steps, count: int, rate: float) -> Iterator[float]:
    for index in steps(count):
        yield rate * (1 + math.cos(math.pi * index / count)) / 2
