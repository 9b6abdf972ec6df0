"""Vocabulary matching: tokens go back to the rows of the base's that theirs are nearest to; no tokenizer is read."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.numbering import numbers_of, renumbered, token_tables
from redteam.errors import IllegalGauge, Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView
from redteam_attacks.matching_rows import matched_rows


@attack("vocabulary-match", needs=Needs.ANCHOR, targets=("vocabulary",), keeps_function=True, renumbers=True)
def vocabulary_match(view: AttackerView, *, directions: Annotated[int, Range(8, 4096, log=True)] = 64) -> Checkpoint:
    """E ← Πᵀ E, and the head with it, where Π assigns rows to the base's rows, which are near: large cosines in sum.

    Embeddings and head stand side by side. Rows that occur unchanged in the base, as where embeddings were frozen, are
    found by their bytes. The others meet candidates in a projection, and the nearest go together; the Hungarian
    algorithm assigns what is left, up to 3,000 rows, and beyond that the order along one direction. Equal rows cannot
    be told apart, and need not be. A network without a vocabulary is returned as it is, and so is one all of whose
    rows have another width than the base's: such a stream has to be cut first.

    Args:
        view: Grants the base.
        directions: Into how many the rows are projected to look for candidates.
    """
    protected, anchor = view.protected, view.anchor
    try:
        token_tables(anchor)  # asked first: a lock may have made a network of it that nobody else knows
        tables = token_tables(protected)
    except IllegalGauge:
        return protected
    names = [n for n, axis in tables.axes.items() if n in anchor and axis == 0 and len(protected.shape(n)) == 2]
    if not names:
        raise Inapplicable("The base has none of the tables of tokens; expected the model that this one was made from.")
    names = [name for name in names if protected.shape(name)[1:] == anchor.shape(name)[1:]]
    if not names:
        return protected
    free = numbers_of(protected)[0].sort().values
    free = free[free < min(anchor.shape(name)[0] for name in names)]

    sizes = {name: _size(anchor[name]) for name in names}  # no table outweighs another

    def rows(checkpoint: Checkpoint) -> Tensor:
        tables = ((checkpoint[name], sizes[name]) for name in names)
        return torch.cat([table[free.to(table.device)].to(torch.float32) / size for table, size in tables], dim=1)

    found = matched_rows(rows(protected), rows(anchor), directions=directions, generator=view.generator("directions"))
    moved = torch.stack([free, free[found]])
    return renumbered(protected, moved[:, moved[0] != moved[1]])


def _size(table: Tensor) -> float:
    """The root of its mean square; 1 where it is 0."""
    return float(table.to(torch.float32).square().mean().sqrt()) or 1.0
