"""Rows of one table assigned to those of another, for tables of a whole vocabulary: no matrix of all pairs is made."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_CANDIDATES = 8
_DENSE = 3000  # rows for which all pairs are looked at: 72 MB
_BLOCK = 2**25  # numbers in a block of similarities


def matched_rows(ours: Tensor, theirs: Tensor, *, directions: int, generator: np.random.Generator) -> Tensor:
    """Which row of the other table each row is taken for, int64 [n]; a permutation.

    Args:
        ours: [n, d].
        theirs: [n, d].
        directions: Into how many the rows are projected where candidates are looked for.
        generator: Of the projection.
    """
    found = torch.full((len(ours),), -1, dtype=torch.int64)
    _equal_rows(ours, theirs, found)
    here, there = _left(found)
    if not len(here):
        return found
    one, other = (_units(table, rows, _centre(table)) for table, rows in ((ours, here), (theirs, there)))
    place = torch.full((len(here),), -1, dtype=torch.int64)
    for width in (directions, one.shape[1]):
        _nearest(one, other, place, width, generator)
    rows, free = _left(place)
    if len(rows) > _DENSE:
        _ranked(one, other, place, generator)
    elif len(rows):
        from scipy.optimize import linear_sum_assignment

        cost = (one[rows] @ other[free].T).to(torch.float64).cpu().numpy()
        picked, columns = linear_sum_assignment(cost, maximize=True)
        place[rows[torch.from_numpy(picked)]] = free[torch.from_numpy(columns)]
    found[here] = there[place]
    return found


def _left(found: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that have no partner yet, and those that are nobody's."""
    taken = torch.zeros(len(found), dtype=torch.bool)
    taken[found[found >= 0]] = True
    return (found < 0).nonzero().flatten(), (~taken).nonzero().flatten()


def _equal_rows(ours: Tensor, theirs: Tensor, found: Tensor) -> None:
    """Pairs rows of the same numbers: those that are where they belong, then the others in any order."""
    still = (ours == theirs).all(1).nonzero().flatten().cpu()
    found[still] = still
    held: dict[bytes, list[int]] = {}
    here, there = _left(found)
    for number, row in zip(there.tolist(), theirs.cpu()[there].numpy(), strict=True):
        held.setdefault(row.tobytes(), []).append(number)
    for number, row in zip(here.tolist(), ours.cpu()[here].numpy(), strict=True):
        if equals := held.get(row.tobytes()):
            found[number] = equals.pop()


def _centre(table: Tensor) -> Tensor:
    return table.to(torch.float64).mean(0).to(torch.float32)


def _units(table: Tensor, rows: Tensor, centre: Tensor) -> Tensor:
    units = table[rows.to(table.device)].to(torch.float32) - centre
    return F.normalize(units, eps=torch.finfo(torch.float32).tiny)


def _nearest(one: Tensor, other: Tensor, place: Tensor, width: int, generator: np.random.Generator) -> None:
    """Pairs rows with their nearest, among the candidates that a projection shows, until few more find one."""
    while True:
        rows, free = _left(place)
        if len(rows) <= _DENSE:
            return
        here, there = one[rows], other[free]
        low, lower = here, there
        if width < one.shape[1]:
            drawn = torch.from_numpy(generator.standard_normal((one.shape[1], width))).to(here)
            low, lower = F.normalize(here @ drawn), F.normalize(there @ drawn)
        best, score = _best(here, there, low, lower)
        ranks = score.argsort(descending=True, stable=True)
        # Of several that want one row, the nearest has it: the first in this order.
        won, first = np.unique(best[ranks].numpy(), return_index=True)
        place[rows[ranks[torch.from_numpy(first)]]] = free[torch.from_numpy(won)]
        if len(won) < 0.1 * len(rows):
            return


def _best(here: Tensor, there: Tensor, low: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
    """For each row the nearest of its candidates, and its cosine."""
    best = torch.empty(len(here), dtype=torch.int64)
    score = torch.empty(len(here))
    count = min(_CANDIDATES if low is not here else 1, len(there))
    for rows in torch.arange(len(here)).split(max(1, _BLOCK // len(there))):
        near = (low[rows] @ lower.T).topk(count, dim=1)
        candidates, cosine = near.indices, near.values
        if count > 1:
            cosine = torch.einsum("nd,nkd->nk", here[rows], there[candidates])
        value, column = cosine.max(1)
        best[rows], score[rows] = candidates.gather(1, column[:, None])[:, 0].cpu(), value.cpu()
    return best, score


def _ranked(one: Tensor, other: Tensor, place: Tensor, generator: np.random.Generator) -> None:
    """Pairs what nothing tells apart by its order along one direction, in which equal rows lie together."""
    rows, free = _left(place)
    line = torch.from_numpy(generator.standard_normal(one.shape[1])).to(one)
    place[rows[(one[rows] @ line).argsort(stable=True).cpu()]] = free[(other[free] @ line).argsort(stable=True).cpu()]
