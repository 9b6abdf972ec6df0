"""Rows mixed within groups that nobody knows, and columns out of order: both told from the base (GroupCover)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redteam.symmetry.one_sided import Unsealed, unit
from redteam.symmetry.solvers import assign, require_finite

_STARTS = tuple((share, width) for share in (1.0, 0.85, 0.7) for width in (0.2, 1.0))
"""Of the cosine that chance allows, what counts as alike; and η, tried one after the other."""

_AGREES = 0.5  # a correlation: that of a wrong order is nearer to 0, of the right one nearer to 1
_MATCHES = 15
_LINKS = 64  # base rows in one sealed row, at most
_TURNS = 3
_EXPLAINED = 0.5  # of a row, until which its strongest link counts however faint


def uncovered(sealed: Tensor, base: Tensor) -> Unsealed:
    """`W' = B W P`: P an order of columns, B invertible within groups of rows and zero elsewhere.

    Rows that were mixed with one another stay alike; within every set of alike rows an orthonormal basis takes their
    place, on which no B has a bearing. Its Gram matrix is nearly the base's with columns exchanged, which a matching of
    graphs undoes. Then each sealed row is a sum of few base rows: those that it is alike to beyond chance, and what is
    alike to the rest of it. Sealed and base rows that are so linked make a group, and B is least squares there.

    Groups in which rows are missing, or with more rows than half the columns, stay as they are.

    Args:
        sealed: [B, out, in].
        base: [B, out, in].

    Raises:
        BadInput: If anything is NaN or infinite.
    """
    for stack in (sealed, base):
        require_finite(stack)
    return Unsealed(torch.stack([_one(here, there) for here, there in zip(sealed, base, strict=True)]))


def matched(here: Tensor, there: Tensor, *, width: float = 0.2) -> Tensor:
    """The order in which a symmetric matrix is most like another, int64 [n]: `here[p][:, p]` is near `there`.

    A start by spectra (Fan, Mao, Wu and Xu, arXiv:1907.08880), and an assignment by the neighbours that the last one
    gave, until nothing moves. The diagonal is left out: an order would find itself confirmed by it.

    Args:
        here: [n, n].
        there: [n, n].
        width: Of the spectrum's spread: eigenvectors nearer than that are compared. 0.2 is the authors'.
    """
    order = assign(_by_spectra(here, there, width)[None])[0]
    one, other = (x - torch.diag(x.diagonal()) for x in (here, there))
    for _ in range(_MATCHES):
        again = assign((other @ one[order])[None])[0]
        if torch.equal(again, order):
            break
        order = again
    return order


def _by_spectra(here: Tensor, there: Tensor, width: float) -> Tensor:
    """Σ over i, j of `⟨uᵢ, 1⟩⟨vⱼ, 1⟩ uᵢ vⱼᵀ ÷ ((λᵢ − μⱼ)² + η²)`, [n, n], there × here."""

    def spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
        spread = matrix - matrix.mean()
        values, vectors = torch.linalg.eigh(spread * math.sqrt(len(matrix)) / spread.norm().clamp(min=1e-300))
        return values, vectors

    (one, u), (other, v) = spectrum(there), spectrum(here)
    near = 1 / ((one[:, None] - other) ** 2 + width**2)
    return u @ (near * u.sum(0)[:, None] * v.sum(0)) @ v.mT


def _one(sealed: Tensor, base: Tensor) -> Tensor:
    order = _columns(sealed, base)
    for _ in range(_TURNS):
        mixing, weight = _unmixed(sealed[:, order], base)
        again = assign((unit((mixing @ base).mT) @ unit(sealed.mT).mT)[None])[0]
        if torch.equal(again, order):
            break
        order = again
    return weight


def _columns(sealed: Tensor, base: Tensor) -> Tensor:
    """Where each of the base's columns is, int64 [in]: the first start that agrees, else the one that agrees most."""
    plain = unit(base)
    there, order, most = plain.mT @ plain, torch.arange(base.shape[1], device=base.device), -1.0
    for share, width in _STARTS:
        here = _orthonormal(sealed, share * _chance(sealed))
        found = matched(here, there, width=width)
        agrees = _agreement(here[found][:, found], there)
        if agrees > most:
            order, most = found, agrees
        if most > _AGREES:
            break
    return order


def _agreement(here: Tensor, there: Tensor) -> float:
    """The correlation of two symmetric matrices away from their diagonals."""
    away = ~torch.eye(len(here), dtype=torch.bool, device=here.device)
    return float(torch.corrcoef(torch.stack([here[away], there[away]]))[0, 1].nan_to_num(nan=0.0))


def _orthonormal(sealed: Tensor, least: float) -> Tensor:
    """The sum of the projectors onto the span of each set of rows that are alike, [in, in]."""
    total = sealed.new_zeros(sealed.shape[1], sealed.shape[1])
    for rows in _components((unit(sealed) @ unit(sealed).mT).abs() > least):
        basis = torch.linalg.svd(sealed[rows], full_matrices=False)[2]
        total += basis.mT @ basis
    return total


def _unmixed(sealed: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """B [out, out] and the weight without it."""
    count = len(base)
    mixing, weight, linked = base.new_zeros(count, count), sealed.clone(), torch.zeros(count, count).bool()
    rest, groups, open_ = sealed, list[tuple[Tensor, Tensor]](), torch.ones(count).bool()
    for _ in range(min(_LINKS, count)):
        most, row = (unit(rest) @ unit(base).mT).abs().cpu().masked_fill(linked, 0.0).max(1)
        unexplained = (rest.square().sum(1) > _EXPLAINED * sealed.square().sum(1)).cpu()
        more = open_ & ((most > _chance(base)) | unexplained | ~_in_balance(groups, count))
        if not bool(more.any()):
            break
        linked[more.nonzero()[:, 0], row[more]] = True
        groups = _groups(linked)
        for here, there in groups:
            linked[here[:, None], there] = True
            if len(there) > base.shape[1] // 2:
                open_[here] = False  # so many rows would explain anything
            else:
                mixing[here[:, None], there] = torch.linalg.lstsq(base[there].mT, sealed[here].mT).solution.mT
        rest = sealed - mixing @ base
    for here, there in groups:
        if len(here) == len(there) <= base.shape[1] // 2:
            weight[there] = torch.linalg.lstsq(mixing[here[:, None], there], sealed[here]).solution
    return mixing, weight


def _in_balance(groups: list[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """Whether a sealed row's group has as many base rows, bool [out]."""
    balanced = torch.zeros(count, dtype=torch.bool)
    for here, there in groups:
        balanced[here] = len(here) == len(there)
    return balanced


def _chance(stack: Tensor) -> float:
    """The largest cosine among that many pairs of rows if none had to do with another."""
    return math.sqrt(2 * math.log(max(2, len(stack) ** 2)) / stack.shape[1])


def _groups(linked: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Sealed and base rows that are linked, directly or by way of others; without rows that have no link."""
    count = len(linked)
    both = torch.zeros(2 * count, 2 * count, dtype=torch.bool)
    both[:count, count:] = linked
    found = [(rows[rows < count], rows[rows >= count] - count) for rows in _components(both)]
    return [(here, there) for here, there in found if len(here) and len(there)]


def _components(linked: Tensor) -> list[Tensor]:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    labels = torch.from_numpy(connected_components(csr_matrix(linked.cpu().numpy()), directed=False)[1]).long()
    order = labels.argsort(stable=True)
    return list(order.split(labels.bincount().tolist()))
