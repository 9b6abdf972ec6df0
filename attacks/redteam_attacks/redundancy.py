"""Neurons that are one too many: those that read the same, those that cancel, and those without an output.

What reads the same up to the scales that neurons have there is one neuron, whose output is the sum; where that is
nothing, none. Neurons with a gate in common are one bilinear map: as many as its rank. Neurons that read a and −a are
one as well but for what they leave over, which is linear where `f(a) − f(−a)` is, quadratic where `f(a) + f(−a)` is,
and a product behind gates that are opposite; so they are one if over all of them that adds up to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Site, Stacks
from redteam.errors import BadInput
from redteam.symmetry.neurons import ODD, SQUARE, joined, rows_of

_LEVELS = 5  # from what only rounding tells apart to the tolerance, in equal steps of the exponent
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

    What counts as nothing is as little as will do, and rows are the same only as closely as will do then, so that
    neurons that the network itself has twice stay where they can; rows without a scale are copies to the last bit,
    however coarsely the rest is stored. If more go than should, silent ones take their places.

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
    levels = np.geomspace(min(_FINEST, tolerance), tolerance, _LEVELS).tolist()
    for same, nothing in ((same, nothing) for nothing in levels for same in levels if same <= nothing):
        found = _reduced(site, stacks, alike, same, nothing)
        order = found.weight.argsort(stable=True)
        silent = int((found.weight <= nothing).sum())
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


def _reduced(site: Site, stacks: Stacks, alike: _Alike, same: float, nothing: float) -> _Neurons:
    """One neuron, or as few as there must be, of each group; with opposites, if what they leave over is nothing."""
    bilinear = stacks.carried is not None and "scaling" in site.legal
    if site.activation in (ODD if bilinear or stacks.carried is not None else ODD | SQUARE):
        group, sign = alike.groups(same, opposite=True)
        if bool((sign < 0).any()) and _left_over(site, stacks, alike, sign < 0) <= nothing:
            return _bilinear(stacks, group) if bilinear else _summed(site, stacks, group, sign)
    group, sign = alike.groups(same)
    return _bilinear(stacks, group) if bilinear else _summed(site, stacks, group, sign)


def _summed(site: Site, stacks: Stacks, group: Tensor, sign: Tensor) -> _Neurons:
    """The first of each group, with the outputs of all: `f(−a)` is f(a) up to what is left over, or −f(a)."""
    size = _size(site, stacks)
    count = int(group.max()) + 1
    first = torch.full((count,), len(group)).scatter_reduce(0, group, torch.arange(len(group)), "amin")
    whole = stacks.right[0] * size[:, None]
    turned = whole * sign[:, None] if site.activation in SQUARE else whole
    summed = torch.zeros(count, whole.shape[1], dtype=whole.dtype).index_add(0, group, turned)
    before = torch.zeros(count, dtype=whole.dtype).scatter_reduce(0, group, _norm(whole), "amax")
    kept = replace(rows_of(stacks, first), right=(summed / size[first, None])[None])
    return _Neurons(kept, _share(_norm(summed), before, before.max()))


def _size(site: Site, stacks: Stacks) -> Tensor:
    """[n], by what a neuron's output grows when its row gets the length that rows are compared at."""
    if "positive-scaling" not in site.legal or stacks.carried is not None:
        return torch.ones_like(stacks.left[0, :, 0])
    size = _norm(stacks.left[0]).pow(site.power)
    return torch.where(size > 0, size, 1.0)


def _bilinear(stacks: Stacks, group: Tensor) -> _Neurons:
    """Neurons with one gate in common, or an opposite one, as few as the rank of what they make of it."""
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
    return _Neurons(joined(*found), torch.cat(weights))


def _left_over(site: Site, stacks: Stacks, alike: _Alike, turned: Tensor) -> float:
    """How large what some neurons leave over is, taken for their opposites, as a share of it without cancelling.

    `f(−a)` is `f(a) − a`, up to a factor, or `a² − f(a)`: outputs times a, its square, or with a gate its product with
    what is read. Their squared size is the sum of the outputs' products times those of what they are multiplied by.
    """
    rows, writes = alike.rows[turned], (stacks.right[0] * _size(site, stacks)[:, None])[turned]
    kernel = rows @ rows.T
    if stacks.carried is not None:
        beside = stacks.left[0, turned]
        if beside.shape != rows.shape:
            return torch.inf
        across = rows @ beside.T
        kernel = (kernel * (beside @ beside.T) + across * across.T) / 2
    elif site.activation in SQUARE:
        kernel = kernel.square()
    products = kernel * (writes @ writes.T)
    apart, together = products.diagonal().sum(), products.sum()
    return float((together.clamp(min=0) / apart.clamp(min=torch.finfo(apart.dtype).tiny)).sqrt())


def _share(now: Tensor, before: Tensor, most: Tensor) -> Tensor:
    """What is left, of what it was made of or of the most that any neuron writes, whichever is less."""
    tiny = torch.finfo(now.dtype).tiny
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

    def groups(self, level: float, *, opposite: bool = False) -> tuple[Tensor, Tensor]:
        """[n], the number of the group of rows that are the same up to a level, in chains; and a sign in it.

        Args:
            level: How far apart they may be.
            opposite: Whether rows that are each other's negative belong together too.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        there = (self.apart <= level) & ((self.sign > 0) | opposite)
        one, other = self.pairs[:, there].numpy()
        size = (len(self.rows), len(self.rows))
        _, labels = connected_components(coo_array((np.ones(len(one)), (one, other)), shape=size), directed=False)
        _, first = np.unique(labels, return_index=True)
        along = torch.linalg.vecdot(self.rows, self.rows[torch.from_numpy(first[labels])])
        return torch.from_numpy(labels).long(), torch.where(along < 0, -1.0, 1.0).to(self.rows.dtype)


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
