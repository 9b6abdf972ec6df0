"""Formulas that treat every entry alike, applied to a block at a time, so that blocks stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

BLOCK = 2**15  # entries; a quarter of a megabyte in float64, of which a few fit a core's second cache


def entrywise(formula: Callable[..., Tensor], *tensors: Tensor, dtype: torch.dtype) -> Tensor:
    """`formula` of tensors of one shape, in float64, rounded once.

    Blocks are of nearly one size, so that sums over experts take the same order in each. What comes out has the same
    bits as without blocks, for a tenth of the time and none of the memory.

    Args:
        formula: Takes as many flat float64 tensors, which it may overwrite, and gives one.
        tensors: Of one shape.
        dtype: Of the result.
    """
    out = torch.empty(tensors[0].numel(), dtype=dtype, device=tensors[0].device)
    for into, *parts in _blocks(out, *tensors):
        into.copy_(formula(*(part.to(torch.float64, copy=True) for part in parts)))
    return out.reshape(tensors[0].shape)


def totals(formula: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """What a formula gives of each block, summed over the blocks.

    Args:
        formula: Takes as many flat float64 tensors, which it may overwrite, and gives a float64 tensor of one shape.
        tensors: Of one shape.
    """
    parts = (formula(*(part.to(torch.float64, copy=True) for part in block)) for block in _blocks(*tensors))
    return torch.stack(list(parts)).sum(0)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    flat = [tensor.reshape(-1) for tensor in tensors]
    return zip(*(part.tensor_split(max(1, -(-len(part) // BLOCK))) for part in flat), strict=True)
