"""How alike the dimensions of two streams are, where training moved some tokens far and others hardly at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MET = 0.01  # of a token's length: closer ones count alike, so that no single one that nobody trained decides
_ROUNDING = 1e-12  # of what is summed
_PART = 8192  # tokens at a time

Pairs = Callable[[], Iterable[Sequence[Tensor]]]
"""Gives the stacks of each side anew: a protected model's and its anchor's, both [n, tokens], float64."""

Divisors = Callable[[Tensor, Tensor], Tensor]
"""What to divide each token by, [tokens], of a protected model's tokens and its anchor's."""


@dataclass(frozen=True)
class Alike:
    """Weighted sums over tokens.

    Attributes:
        cross: `Σ w x0 xᵀ`, [n, n], anchor's rows × protected rows.
        sizes0: `Σ w x0²`, [n].
        sizes: `Σ w x²`, [n].
        tokens: How many there were.
    """

    cross: Tensor
    sizes0: Tensor
    sizes: Tensor
    tokens: int

    @classmethod
    def of(cls, pairs: Pairs, divisors: Divisors) -> Alike:
        """Sums with `w = 1/divisor`."""
        sums: list[Any] = [0.0, 0.0, 0.0, 0]
        for here, there in pairs():
            for x, x0 in zip(here.split(_PART, dim=1), there.split(_PART, dim=1), strict=True):
                over = divisors(x, x0).clamp(min=1e-300)
                parts = (x0 / over) @ x.mT, (x0.square() / over).sum(1), (x.square() / over).sum(1), x.shape[1]
                sums = [a + b for a, b in zip(sums, parts, strict=True)]
        return cls(*sums)

    def cosines(self) -> Tensor:
        """Of the dimensions, [n, n]."""
        own = self.sizes0.sqrt()[:, None].clamp(min=1e-300)
        return self.cross / own / self.sizes.sqrt().clamp(min=1e-300)


def least_deviations(pairs: Pairs, closest: Callable[[Alike], Tensor], *, rounds: int, fitted: bool) -> Alike:
    """Sums with `w_t = 1/‖x0_t − G x_t‖`, to whose `Σ w x0 xᵀ` the closest G has the least unsquared deviations.

    Least squares would follow whatever moved most, such as an output head trained from scratch, and turn the stream by
    as much as its noise. Here a token bears by its direction and not by how far it went, so that those that training
    left alone decide (orthogonal Procrustes by iteratively reweighted least squares).

    Args:
        pairs: What is compared.
        closest: The G that such sums show, orthogonal, [n, n].
        rounds: How often the weights are taken anew from the G that they gave.
        fitted: Whether the two lie on each other already, up to what is left to fit, so that the first weights can be
            read off; else every token counts by its direction alone in the first round.
    """
    alike = Alike.of(pairs, _deviations if fitted else _lengths)
    for _ in range(rounds - 1):
        alike = Alike.of(pairs, _under(closest(alike)))
    return alike


def unturned(pairs: Pairs) -> bool:
    """Whether no rotation brings two streams closer to each other than one that follows noise.

    Every token is measured by how far it is from itself. Noise alone then lets the n(n − 1)/2 angles of a rotation take
    away such a share of the squared deviations as they are of the n·tokens numbers; twice that is not yet a sign.
    """
    alike = Alike.of(pairs, lambda x, x0: _deviations(x, x0).square())
    sizes, trace = alike.sizes0.sum() + alike.sizes.sum(), alike.cross.trace()
    gained = 2 * (torch.linalg.svdvals(alike.cross).sum() - trace)
    share = (len(alike.cross) - 1) / (2 * alike.tokens)
    return bool(gained <= 2 * share * (sizes - 2 * trace) + _ROUNDING * sizes)


def _lengths(x: Tensor, x0: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(x0, dim=0) * torch.linalg.vector_norm(x, dim=0)
    return lengths


def _under(rotation: Tensor) -> Divisors:
    return lambda x, x0: _deviations(rotation @ x, x0)


def _deviations(x: Tensor, x0: Tensor) -> Tensor:
    return torch.maximum(torch.linalg.vector_norm(x0 - x, dim=0), _MET * torch.linalg.vector_norm(x0, dim=0))
