"""The tied fit of one number per row (scaling) or per rotary plane (planar): a pure solver, batched."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from redteam.symmetry.solvers import require_finite

_GRID = 65  # points of the interval that holds every minimum; the deepest minimum is a unit of log ρ wide
_SLACK = 1e-13  # rounding of a cost, as a share of its terms
_STILL = 1e-16  # no step of this share is one
_STEPS = 40  # Newton needs five or six; bisection, where Newton fails, gains a bit each


def scalars(
    left: Tensor, right: Tensor, left0: Tensor, right0: Tensor, *, positive: bool = False, power: int = 1
) -> Tensor:
    """The number s that minimises `‖s l − l₀‖² + ‖r / s̄ − r₀‖²`, row by row: the global minimum.

    With a = ‖l‖², b = ‖r‖², p = ⟨l, l₀⟩, q = ⟨r, r₀⟩ and s = ρ e^{jφ} the cost is, up to a constant,
    `aρ² + b/ρ² − 2 Re e^{−jφ}(ρp + q/ρ)`. So φ is the phase of ρp + q/ρ (a sign for real rows), and what is left is a
    function of log ρ. Rows are first balanced, ρ = (b/a)^¼ eᵗ, which takes the scale of any lock off; then
    |t| ≤ log(1 + |p| + |q|) at every minimum, so that a grid finds them, and from the two that look deepest Newton goes
    on, kept between the grid points beside. The stationary points are the roots of `a s⁴ − p s³ + q s − b` for real
    rows.
    Where the right side is divided by sᵏ, the same holds with ρ = (k b/a)^(1/(2k + 2)) eᵗ, |t| ≤ log(1 + |p| + k |q|).

    Args:
        left: Moving, real or complex [B, n, a].
        right: Moving, [B, n, c].
        left0: Target, [B, n, a].
        right0: Target, [B, n, c].
        positive: Look among positive numbers only; for real rows.
        power: k, the power of s that the right side is divided by; another one than 1 for positive numbers only.

    Returns:
        [B, n], never 0: least squares on the other side where one side's row is zero, 1 where nothing says what.

    Raises:
        BadInput: If anything is NaN or infinite.
    """
    for stack in (left, right, left0, right0):
        require_finite(stack)
    a, b = (torch.linalg.vector_norm(x, dim=-1).square() for x in (left, right))
    p, q = torch.linalg.vecdot(left, left0), torch.linalg.vecdot(right, right0)
    balance = (power * b / a).pow(1 / (2 * power + 2))
    both = (a > 0) & (b > 0) & balance.isfinite() & (balance > 0)
    other = b * q / q.abs().square()
    one_sided = torch.where(b > 0, other if power == 1 else other.pow(1 / power), p / a)

    balance = torch.where(both, balance, 1.0)
    p, q = (torch.where(both, x, 0.0) for x in (p / (a * balance), q * balance**power / (power * b)))
    if positive:
        found = torch.where(both, balance * _Positive(p, q, power).lowest().exp(), one_sided)
        return torch.where(found.isfinite() & (found > 0), found, 1.0)
    t = _Modulus(p.abs().square(), q.abs().square(), (p * q.conj()).real).lowest()
    phase = (p * t.exp() + q * (-t).exp()).sgn()
    found = torch.where(both, balance * t.exp() * torch.where(phase == 0, 1.0, phase), one_sided)
    return torch.where(found.isfinite() & (found != 0), found, 1.0)


class _Cost(ABC):
    """A function of log ρ whose global minimum is looked for, for many rows at once.

    Attributes:
        reach: |p| + k |q|: every minimum lies within log(1 + reach) of 0.
        weight: How large the terms are, for what rounding does to their sum.
        power: k.
    """

    reach: Tensor
    weight: Tensor
    power: int = 1

    @abstractmethod
    def cost(self, t: Tensor) -> Tensor:
        """The function."""

    @abstractmethod
    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Half of the first derivative, and half of the second."""

    def lowest(self) -> Tensor:
        """Where the function is smallest."""
        bound = torch.log1p(self.reach)
        unit = torch.linspace(-1, 1, _GRID, dtype=bound.dtype, device=bound.device)
        found = self._refined(bound, unit[self._deepest(bound * unit.reshape(-1, *[1] * bound.ndim))])
        return found.gather(0, self.cost(found).argmin(dim=0, keepdim=True))[0]

    def _deepest(self, grid: Tensor) -> Tensor:
        """Index [2, ...] of the two lowest minima on a grid [n, ...]; which is lower shows between its points."""
        cost = self.cost(grid)
        walled = torch.nn.functional.pad(cost.movedim(0, -1), (1, 1), value=torch.inf).movedim(-1, 0)
        least = torch.where((cost <= walled[:-2]) & (cost <= walled[2:]), cost, torch.inf)
        values, index = least.topk(2, dim=0, largest=False)
        return torch.where(values.isfinite(), index, index[:1])

    def _refined(self, bound: Tensor, best: Tensor) -> Tensor:
        """Where the function is smallest beside points of the grid, [2, ...] as they are."""
        spacing = 2 / (_GRID - 1)
        t, low, high = (bound * (best + step * spacing) for step in (0, -1, 1))
        start = t
        for _ in range(_STEPS):
            first, second = self.slopes(t)
            low, high = torch.where(first > 0, low, t), torch.where(first > 0, t, high)
            ahead = t - first / second
            before, t = t, torch.where((second > 0) & (ahead >= low) & (ahead <= high), ahead, (low + high) / 2)
            if bool(((t - before).abs() <= _STILL * (1 + t.abs())).all()):
                break
        rounding = _SLACK * (2 * self.power * torch.maximum(t.abs(), start.abs())).exp() * self.weight
        return torch.where(self.cost(t) <= self.cost(start) + rounding, t, start)


class _Modulus(_Cost):
    """`f(t) = e²ᵗ + e⁻²ᵗ − 2 √h`, `h = P e²ᵗ + Q e⁻²ᵗ + 2x = |p eᵗ + q e⁻ᵗ|²`, for many (P, Q, x) at once."""

    def __init__(self, p: Tensor, q: Tensor, x: Tensor) -> None:
        self.p, self.q, self.x = p, q, x
        self.reach, self.weight = p.sqrt() + q.sqrt(), 1 + p + q

    def cost(self, t: Tensor) -> Tensor:
        up = (2 * t).exp()
        down = 1 / up
        return up + down - 2 * (self.p * up + self.q * down + 2 * self.x).clamp(min=0).sqrt()

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Half of the first derivative, and half of the second."""
        up = (2 * t).exp()
        down = 1 / up
        plus, minus = self.p * up + self.q * down, self.p * up - self.q * down
        root = (plus + 2 * self.x).clamp(min=torch.finfo(t.dtype).tiny).sqrt()
        first = up - down - minus / root
        return first, 2 * (up + down) - 2 * plus / root + (minus / root).square() / root


class _Positive(_Cost):
    """`f(t) = e²ᵗ + e⁻²ᵏᵗ / k − 2 (p eᵗ + q e⁻ᵏᵗ)`: no phase to choose."""

    def __init__(self, p: Tensor, q: Tensor, power: int) -> None:
        self.p, self.q, self.power = p, q, power
        self.reach, self.weight = p.abs() + power * q.abs(), 1 + p.square() + q.square()

    def cost(self, t: Tensor) -> Tensor:
        down = (-self.power * t).exp()
        return (2 * t).exp() + down.square() / self.power - 2 * (self.p * t.exp() + self.q * down)

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        k, down = self.power, (-self.power * t).exp()
        up, right, left = (2 * t).exp(), self.p * t.exp(), k * self.q * down
        return up - down.square() - right + left, 2 * (up + k * down.square()) - right - k * left
