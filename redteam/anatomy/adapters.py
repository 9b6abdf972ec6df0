"""The adapters that a description names beside a map: one for each use of a block that several layers share."""

from __future__ import annotations

from redteam.anatomy.adapted import Adapted
from redteam.anatomy.architecture import named
from redteam.anatomy.blocks import Blocks
from redteam.anatomy.linear import Linear


def with_adapters(blocks: Blocks, role: str, layer: int, linear: Linear) -> Linear | Adapted:
    """A map with what its adapters add; the map itself where it has none.

    What the adapters read by goes to the blocks' lists, once where fused projections have them in common.

    Args:
        blocks: Whose map it is.
        role: Of the map, as in `Architecture`.
        layer: Where it is.
        linear: The map.

    Raises:
        BadInput: If an adapter does not have the map's inputs and outputs.
    """
    template, (outputs, inputs) = blocks.template(role), blocks.shape(linear.weight)
    raising: list[Linear] = []
    beyond = 0
    for wanted, lower, upper in blocks.arch.adapters:
        for use in range(blocks.layers) if wanted == template else ():
            down, up = (blocks.prefix + named(one.format(layer=layer, use=use), "weight") for one in (lower, upper))
            if down not in blocks.checkpoint:
                continue
            rank = blocks.shape(down)[0]
            blocks.expect(down, (rank, inputs))
            blocks.expect(up, (outputs, rank))
            if down not in blocks.used:
                blocks.reads.append(Linear(down, None, linear.norm))
            blocks.used |= {down, up}
            raising.append(Linear(up, None, rows=linear.rows))
            beyond += rank
    return Adapted(linear, tuple(raising), beyond) if raising else linear
