"""A change of a tensor as the product of two thin matrices, as low-rank adapters hold it."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to a tensor, laid out as a matrix: everything behind the first axis is columns.

    Attributes:
        up: B of a linear layer, `[rows, rank]`.
        down: A, `[rank, columns]`.
        scale: What their product is multiplied by.
    """

    up: torch.Tensor
    down: torch.Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """The side that both have."""
        return self.down.shape[0]

    @property
    def change(self) -> torch.Tensor:
        """scale · B A, `[rows, columns]`."""
        return self.scale * (self.up @ self.down)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Factors:
        """Both in a dtype, on a device."""
        up, down = (half.to(device=device, dtype=dtype) for half in (self.up, self.down))
        return Factors(up, down, self.scale)
