"""Neurons that are one too many: those that read the same, those that cancel, and those without an output.

What reads the same up to the scales that neurons have there is one neuron, whose output is the sum; where that is
nothing, none. Neurons with a gate in common are one bilinear map: as many as its rank. Pairs that read a and −a write
`f(a) − f(−a)`, which is linear, or `f(a) + f(−a)`, which is quadratic, where the activation is such a one; if over all
such pairs that adds up to nothing, all of them go.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Site, Stacks
from redteam.errors import BadInput
from redteam.symmetry.neurons import ODD, SQUARE, joined, rows_of

_LEVELS = 8  # from what only rounding tells apart to the tolerance, in equal steps of the exponent
_FINEST = 1e-13
_ROUGH = 2e-5  # of a cosine in float32
_CHUNK = 2048


@dataclass(frozen=True, eq=False)
class _Neurons:
    """Some neurons, and how much each of them still writes: 1 for as much as any, or as what it was made of."""

    stacks: Stacks
    weight: Tensor


def without_redundancy(site: Site, stacks: Stacks, neurons: int, *, tolerance: float) -> Stacks:
    """Stacks of fewer rows that compute the same.

    Rows are taken for the same at the finest level at which enough of them go, so that neurons that the network itself
    has twice stay where they can. If more go than should, silent ones take their places.

    Args:
        site: Of the neurons.
        stacks: As they are, [1, n, …].
        neurons: How many are to be left.
        tolerance: How far rows may lie apart and still be the same, and what counts as nothing, as a share of what
            there is.

    Raises:
        BadInput: If too many neurons are left that all write something else.
    """
    alike = _Alike.among(_read(site, stacks), tolerance)
    surplus = stacks.left.shape[1] - neurons
    gone = 0
    for level in np.geomspace(min(_FINEST, tolerance), tolerance, _LEVELS):
        found = _reduced(site, stacks, alike, float(level))
        order = found.weight.argsort(stable=True)
        silent = int((found.weight <= level).sum())
        here = len(found.weight)
        gone = surplus - max(0, here - silent - neurons)
        if gone == surplus:
            kept = order[max(0, here - neurons) :].sort().values
            return _filled(rows_of(found.stacks, kept), neurons)
    raise BadInput(
        f"{max(0, gone)} of {surplus} surplus neurons at {site.label} have a twin, cancel or have no output; expected "
        "all of them, so leave this attack out."
    )


def _read(site: Site, stacks: Stacks) -> Tensor:
    """[n, k], what two neurons must share to be one: the gate, what is read, or its direction where it has a scale."""
    if stacks.carried is None:
        return _unit(stacks.left[0]) if "positive-scaling" in site.legal else stacks.left[0]
    if "scaling" in site.legal:
        return stacks.carried[0]
    return torch.cat([stacks.carried[0], stacks.left[0]], dim=1)


def _reduced(site: Site, stacks: Stacks, alike: _Alike, level: float) -> _Neurons:
    group = alike.groups(level)
    if stacks.carried is not None and "scaling" in site.legal:
        return _bilinear(stacks, group)
    size = torch.linalg.vector_norm(stacks.left[0], dim=1).pow(site.power)
    size = torch.where(size > 0, size, 1.0) if "positive-scaling" in site.legal else torch.ones_like(size)
    count = int(group.max()) + 1
    first = torch.full((count,), len(group)).scatter_reduce(0, group, torch.arange(len(group)), "amin")
    whole = stacks.right[0] * size[:, None]
    summed = torch.zeros(count, whole.shape[1], dtype=whole.dtype).index_add(0, group, whole)
    before = torch.zeros(count, dtype=whole.dtype).scatter_reduce(0, group, _norm(whole), "amax")
    kept = rows_of(stacks, first)
    found = _Neurons(replace(kept, right=(summed / size[first, None])[None]), _share(_norm(summed), before))
    return found if stacks.carried is not None else _unpaired(site, found, summed, alike, first, level)


def _bilinear(stacks: Stacks, group: Tensor) -> _Neurons:
    """Neurons with one gate in common as few as the rank of what they make of it, with other rows."""
    assert stacks.carried is not None
    norms = _norm(stacks.left[0]) * _norm(stacks.right[0])
    counts = group.bincount()
    alone = (counts[group] == 1).nonzero()[:, 0]
    found, weights = [rows_of(stacks, alone)], [_share(norms[alone], norms[alone], norms.max())]
    places = group.argsort(stable=True).split(counts.tolist())
    for members in (place for place in places if len(place) > 1):
        left, right = stacks.left[0, members], stacks.right[0, members]
        (q1, r1), (q2, r2) = torch.linalg.qr(left.T), torch.linalg.qr(right.T)
        u, s, vh = torch.linalg.svd(r1 @ r2.T, full_matrices=False)
        root = s.sqrt()[:, None]
        gates = stacks.carried[:, members[:1]].expand(-1, len(s), -1)
        found.append(Stacks((root * (q1 @ u).T)[None], (root * (q2 @ vh.T).T)[None], gates))
        weights.append(_share(s, norms[members].max().expand(len(s)), norms.max()))
    stacks = found[0]
    for one in found[1:]:
        stacks = joined(stacks, one)
    return _Neurons(stacks, torch.cat(weights))


def _unpaired(site: Site, found: _Neurons, writes: Tensor, alike: _Alike, first: Tensor, level: float) -> _Neurons:
    """Without the pairs that read a and −a, where what they write together adds up to nothing."""
    sign = -1.0 if site.activation in ODD else 1.0 if site.activation in SQUARE else 0.0
    if not sign:
        return found
    one, other = alike.opposite(level, first)
    apart = _norm(writes[one] - sign * writes[other]) / torch.maximum(_norm(writes[one]), _norm(writes[other]))
    one, other = one[apart <= level], other[apart <= level]
    if not len(one):
        return found
    rows = alike.rows[first[one]]
    kernel = rows @ rows.T
    kernel = kernel if sign < 0 else kernel.square()
    outputs = writes[one] @ writes[one].T
    whole = (kernel.diagonal() * outputs.diagonal()).sum()
    if float((kernel * outputs).sum().clamp(min=0)) > level**2 * float(whole):
        return found
    kept = torch.ones(len(found.weight), dtype=torch.bool)
    kept[torch.cat([one, other])] = False
    index = kept.nonzero()[:, 0]
    return _Neurons(rows_of(found.stacks, index), found.weight[index])


def _share(now: Tensor, before: Tensor, most: Tensor | None = None) -> Tensor:
    """What is left, of what it was made of or of the most that any neuron writes, whichever is less."""
    tiny = torch.finfo(now.dtype).tiny
    most = before.max() if most is None else most
    return torch.minimum(now / before.clamp(min=tiny), now / most.clamp(min=tiny))


def _filled(stacks: Stacks, neurons: int) -> Stacks:
    """With neurons that read and write nothing behind, up to so many."""

    def longer(stack: Tensor) -> Tensor:
        return torch.nn.functional.pad(stack, (0, 0, 0, neurons - stack.shape[1]))

    carried = None if stacks.carried is None else longer(stacks.carried)
    return Stacks(longer(stacks.left), longer(stacks.right), carried)


@dataclass(frozen=True, eq=False)
class _Alike:
    """Rows, and the pairs of them that are about the same or about each other's negative, with how far they are apart.

    Attributes:
        rows: float64 [n, k].
        pairs: int64 [2, m].
        sign: [m], 1 or −1.
        apart: [m], as a share of the longer row.
    """

    rows: Tensor
    pairs: Tensor
    sign: Tensor
    apart: Tensor

    @classmethod
    def among(cls, rows: Tensor, tolerance: float) -> _Alike:
        """Looks for them by cosines in float32, and at those that are found in float64."""
        norms = _norm(rows)
        unit = _unit(rows).float()
        limit = 1 - tolerance**2 - _ROUGH
        found = [_chunk(unit, start, limit) for start in range(0, len(unit), _CHUNK)]
        pairs = torch.cat([pair for pair, _ in found], dim=1)
        sign = torch.cat([each for _, each in found]).to(rows.dtype)
        apart = _norm(rows[pairs[0]] - sign[:, None] * rows[pairs[1]]) / torch.maximum(norms[pairs[0]], norms[pairs[1]])
        empty = (norms == 0).nonzero()[:, 0]
        same = torch.stack([empty[:1].expand(len(empty) - 1 if len(empty) else 0), empty[1:]])
        ones = torch.ones(same.shape[1], dtype=rows.dtype)
        return cls(rows, torch.cat([pairs, same], 1), torch.cat([sign, ones]), torch.cat([apart, 0 * ones]))

    def groups(self, level: float) -> Tensor:
        """[n], the number of the group of rows that are the same up to a level, in chains; counted from 0."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        there = (self.apart <= level) & (self.sign > 0)
        one, other = self.pairs[:, there].numpy()
        size = (len(self.rows), len(self.rows))
        _, labels = connected_components(coo_array((np.ones(len(one)), (one, other)), shape=size), directed=False)
        return torch.from_numpy(labels).long()

    def opposite(self, level: float, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Places among some chosen rows of those that are each other's negative, each once."""
        place = torch.full((len(self.rows),), -1)
        place[chosen] = torch.arange(len(chosen))
        found: dict[int, int] = {}
        taken: set[int] = set()
        for one, other in place[self.pairs[:, (self.apart <= level) & (self.sign < 0)]].T.tolist():
            if min(one, other) >= 0 and not {one, other} & taken:
                found[one] = other
                taken |= {one, other}
        return torch.tensor(list(found), dtype=torch.int64), torch.tensor(list(found.values()), dtype=torch.int64)


def _chunk(unit: Tensor, start: int, limit: float) -> tuple[Tensor, Tensor]:
    """Pairs i < j with i in a chunk whose cosine is at least a limit in size, and the cosines' signs."""
    cosine = unit[start : start + _CHUNK] @ unit[start:].T
    found = (cosine.abs() >= limit).triu(1).nonzero()
    return found.T + start, cosine[found[:, 0], found[:, 1]].sign()


def _norm(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / _norm(rows).clamp(min=torch.finfo(rows.dtype).tiny)[:, None]
    return unit
