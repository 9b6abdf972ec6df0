"""Rows mixed within groups that nobody knows, and columns out of order: both told from the base (GroupCover)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redteam.symmetry.one_sided import Unsealed, unit
from redteam.symmetry.solvers import assign, require_finite

Groups = list[tuple[Tensor, Tensor]]
"""Sealed and base rows of each."""

_STARTS = tuple((share, width) for share in (1.0, 1.4, 0.85, 2.0, 0.7) for width in (0.2, 1.0))
"""Of the cosine that chance allows, what counts as alike, since trained rows are alike by themselves; and η."""

_MATCHES = 15
_LINKS = 64  # base rows in one sealed row, at most
_LEVELS = 20  # of links, each half as strong as the one before the last
_NOTHING = 1e-12  # of a row's energy
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
    """Where each of the base's columns is, int64 [in]: what two starts find alike, else what agrees most."""
    plain = unit(base)
    there, order, most = plain.mT @ plain, torch.arange(base.shape[1], device=base.device), -1.0
    for share, width in _STARTS:
        here = _orthonormal(sealed, share * _chance(sealed))
        found = matched(here, there, width=width)
        if torch.equal(found, order):
            break
        agrees = _agreement(here[found][:, found], there)
        if agrees > most:
            order, most = found, agrees
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
    """B [out, out] and the weight without it.

    Of several groupings the one is kept that leaves least to the number that it leaves free: links let in from the
    strongest down, and links added until every row is explained.
    """
    shares = _links(sealed, base)
    groupings = [_groups(shares > 2.0 ** (-step / 2)) for step in range(_LEVELS)]
    mixing, weight, least = torch.zeros_like(base @ base.mT), sealed, float("inf")
    known: list[list[int]] = []
    for groups in (*groupings, _grown(sealed, base)):
        rows = [each.tolist() for group in groups for each in group]
        if rows == known:
            continue
        known = rows
        found, undone, free = _within(sealed, base, groups)
        left = float((undone - base).square().sum()) / (base.numel() - free)
        if left < least:
            mixing, weight, least = found, undone, left
    return mixing, weight


def _grown(sealed: Tensor, base: Tensor) -> Groups:
    """Groups that grow by each row's strongest link to what is left of it, until rows are explained and none lacks."""
    count = len(base)
    mixing, linked = base.new_zeros(count, count), torch.zeros(count, count).bool()
    rest, groups, open_ = sealed, Groups(), torch.ones(count).bool()
    for _ in range(min(_LINKS, count)):
        most, row = (unit(rest) @ unit(base).mT).abs().cpu().masked_fill(linked, 0.0).max(1)
        more = (most > _chance(base)) | (rest.square().sum(1) > _EXPLAINED * sealed.square().sum(1)).cpu()
        lacking = torch.ones(count, dtype=torch.bool)
        for here, there in groups:
            lacking[here] = len(here) != len(there)
        more = open_ & (more | lacking)
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
    return groups


def _within(sealed: Tensor, base: Tensor, groups: Groups) -> tuple[Tensor, Tensor, int]:
    """B by least squares in each group, the weight without it, and how many numbers were free.

    Half as many rows as columns would explain anything: such groups stay, and so do those that lack a row.
    """
    mixing, weight, free = base.new_zeros(len(base), len(base)), sealed.clone(), 0
    for here, there in groups:
        if len(here) == len(there) <= base.shape[1] // 2:
            part = torch.linalg.lstsq(base[there].mT, sealed[here].mT).solution.mT
            mixing[here[:, None], there] = part
            weight[there] = torch.linalg.lstsq(part, sealed[here]).solution
            free += len(here) ** 2
    return mixing, weight, free


def _links(sealed: Tensor, base: Tensor) -> Tensor:
    """How much of each sealed row is made of each base row, as shares of its length, [out, out].

    Orthogonal matching pursuit: the base row most alike to what is left joins those that are fitted, as long as there
    is one that is more alike than chance allows, or half of the row is not explained.
    """
    gram, cross = base @ base.mT, sealed @ base.mT
    sizes, size = base.norm(dim=1).clamp(min=1e-300), sealed.norm(dim=1).clamp(min=1e-300)
    taken = torch.zeros(len(base), 0, dtype=torch.int64, device=base.device)
    rows, shares = torch.arange(len(base), device=base.device), torch.zeros_like(gram)
    coefficients, left = cross[:, :0], sealed.square().sum(1)
    rest = cross
    for _ in range(min(_LINKS, len(base), base.shape[1] // 2)):
        alike = (rest / sizes).abs() / left.clamp(min=1e-300).sqrt()[:, None]
        most, row = alike.scatter(1, taken, 0.0).max(1)
        more = (most > _chance(base)) | (left > _EXPLAINED * size[rows].square())
        more &= left > _NOTHING * size[rows].square()
        if not bool(more.all()):
            done = ~more
            shares[rows[done, None], taken[done]] = (
                coefficients[done].abs() * sizes[taken[done]] / size[rows[done], None]
            )
            rows, taken, row = rows[more], taken[more], row[more]
            if not len(rows):
                return shares
        taken = torch.cat([taken, row[:, None]], 1)
        inner = gram[taken[:, :, None], taken[:, None, :]]
        inner.diagonal(dim1=1, dim2=2).add_((_NOTHING * sizes.square().mean()).clamp(min=1e-200))
        wanted = cross[rows].gather(1, taken)
        coefficients = torch.linalg.solve(inner, wanted)
        rest = cross[rows] - (coefficients[:, None, :] @ gram[taken])[:, 0]
        left = (size[rows].square() - (coefficients * wanted).sum(1)).clamp(min=0.0)
    shares[rows[:, None], taken] = coefficients.abs() * sizes[taken] / size[rows, None]
    return shares


def _chance(stack: Tensor) -> float:
    """The largest cosine among that many pairs of rows if none had to do with another."""
    return math.sqrt(2 * math.log(max(2, len(stack) ** 2)) / stack.shape[1])


def _groups(linked: Tensor) -> Groups:
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
