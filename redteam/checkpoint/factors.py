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

    def balanced(self) -> Factors:
        """The same product, split as `split_evenly` splits its singular vectors, in float64.

        It hangs on the product alone, as far as its singular values differ; the scale stays.
        """
        wide = self.to(dtype=torch.float64)
        outer, upper = torch.linalg.qr(wide.up)
        inner, lower = torch.linalg.qr(wide.down.mT)
        left, size, right = torch.linalg.svd(upper @ lower.mT, full_matrices=False)
        found = size > size.max() * self.rank * torch.finfo(size.dtype).eps  # the other vectors are a solver's choice
        up, down = split_evenly(outer @ left[:, found], size[found], inner @ right.mT[:, found], self.rank)
        return Factors(up, down, self.scale)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Factors:
        """Both in a dtype, on a device."""
        up, down = (half.to(device=device, dtype=dtype) for half in (self.up, self.down))
        return Factors(up, down, self.scale)


def split_evenly(
    left: torch.Tensor, size: torch.Tensor, right: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """B = U √S and A = √S Vᵀ of singular vectors, the largest entry of each left one made positive.

    Whatever is done with factors apart depends on their signs, which mergekit-extract-lora leaves to its solver.

    Args:
        left: U, `[rows, k]`.
        size: The diagonal of S, `[k]`.
        right: V, `[columns, k]`.
        rank: Of the factors; what is lacking of it is filled up with zeros.
    """
    root, lacking = size.sqrt(), rank - len(size)
    sign = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()
    pad = torch.nn.functional.pad
    return pad(left * sign * root, (0, lacking)), pad(right * sign * root, (0, lacking)).mT
