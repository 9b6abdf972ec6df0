"""Tensors beside the maps of a block, with a number for each head, neuron or expert."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from redteam.anatomy.blocks import Blocks
from redteam.anatomy.site import Side
from redteam.errors import BadInput


def numbered(blocks: Blocks, templates: Iterable[str], layer: int, count: int) -> Iterator[Side]:
    """Sides of the tensors that are there: a row for each where the first dimension counts them, else a column.

    Args:
        blocks: Whose templates these are.
        templates: Of whole names.
        layer: Which.
        count: How many heads, neurons or experts there are.

    Raises:
        BadInput: If neither dimension counts them.
    """
    for linear in blocks.vectors(templates, layer):
        shape = blocks.checkpoint.shape(linear.weight)
        if count not in (shape[0], shape[-1]):
            raise BadInput(f"The tensor {linear.weight!r} has shape {list(shape)}; expected {count} rows or columns.")
        yield Side(linear, columns=shape[0] != count)
