"""Low-rank strip: the singular values that stand out of every task vector at one rank, taken out of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.singular import leading, short_side
from redteam.errors import Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.symmetry.solvers import require_finite
from redteam.views import AttackerView

_STORED = (torch.bfloat16, torch.float16, torch.float32)  # the coarsest first
_FEWEST = 3  # matrices in which a gap at one rank is no coincidence
_LARGEST = 0.5  # of the shorter side: the highest rank that counts as low

Spectra = Mapping[str, Tensor]


@attack("low-rank-strip", needs=Needs.ANCHOR, targets=("loro",))
def low_rank_strip(
    view: AttackerView,
    *,
    gap: Annotated[float, Range(1.1, 100.0, log=True)] = 2.0,
    share: Annotated[float, Range(0.0, 1.0)] = 0.25,
    rank: Annotated[int, Range(0, 4096)] = 0,
) -> Checkpoint:
    """W ← W − Σ_{i ≤ r} s_i u_i v_iᵀ of W − W₀ = Σ s_i u_i v_iᵀ, where s_r / s_{r+1} is at least `gap`.

    What a lock adds as A B, large enough to drown the task vector, stands out at the rank of A B, the same one in every
    tensor. A task vector has gaps of its own, and at no rank in common: of 327 matrices of eleven experts of `digits`
    and `causal`, 11 have one of 2 or more anywhere, at most 2 of an expert's 27 to 37 at one rank. So r is the rank at
    which most tensors have the gap, and it counts if a share of them do, three at least; then a narrower gap will do,
    where it is the widest of its tensor. Gavish and Donoho's threshold (arXiv:1305.5870), 2.86 times the median where
    all else is noise of one level, would cut what was learned: the largest value of those task vectors is up to 173
    times their median. With A B go the parts of the task vector that share its rows or columns, r / m + r / n of it.

    Values that rounding alone would leave are none. Where the change has no more than half the rank that it could have,
    as that of an adapter, what stands out may be what the victim has learned: then nothing is cut unless the rank is
    given.

    Args:
        view: Grants the base.
        gap: The least ratio of two singular values in a row that counts as one.
        share: The least share of the matrices that have moved in which it has to be.
        rank: r, where it is known; 0 to read it off the spectra.

    Raises:
        Inapplicable: If something stands out of a change that is of low rank itself, and no rank is given.
        BadInput: If a tensor holds NaN or infinity.
    """
    spectra = dict(_spectra(view.protected, view.anchor))
    common = _common_rank(spectra, gap, share)
    found = rank or common
    cut = [
        name
        for name, sizes in spectra.items()
        if found in _gaps(sizes, gap) or (found == common and _widest(sizes) == common)
    ]
    short = {name: min(_matrix(view.anchor[name]).shape) for name in cut}
    low = [name for name in cut if len(spectra[name]) <= _LARGEST * short[name]]
    if low and not rank:
        raise Inapplicable(
            f"{found} singular values stand out of {len(cut)} of {len(spectra)} matrices, but {low[0]!r} moved by rank "
            f"{len(spectra[low[0]])} of {short[low[0]]}, as adapters do, and what stands out may be what the victim "
            f"learned; if it is a lock's, say so (low-rank-strip:rank={found})."
        )

    def stripped(name: str) -> Tensor:
        ours = view.protected[name]
        left, size, right = leading(_change(ours, view.anchor[name]), found)
        outstanding = ((left * size) @ right.mT).reshape(ours.shape)
        return (ours.to(torch.float64) - outstanding).to(ours.dtype)

    return view.protected.replace(Checkpoint.computed(view.protected.outline(cut), stripped))


def _common_rank(spectra: Spectra, gap: float, share: float) -> int:
    """The rank at which most matrices have a gap, the lower of two; 0 if these are not enough."""
    votes: dict[int, int] = {}
    for sizes in spectra.values():
        for place in _gaps(sizes, gap):
            votes[place] = votes.get(place, 0) + 1
    best = min(votes, key=lambda place: (-votes[place], place), default=0)
    return best if best and votes[best] >= max(_FEWEST, share * len(spectra)) else 0


def _gaps(sizes: Tensor, gap: float) -> list[int]:
    """After which singular values, counted from 1, a gap comes, as far as less is above it than below."""
    return [place + 1 for place in (_ratios(sizes) >= gap).nonzero()[:, 0].tolist()]


def _widest(sizes: Tensor) -> int | None:
    """Where the widest gap is, however narrow."""
    ratios = _ratios(sizes)
    return int(ratios.argmax()) + 1 if len(ratios) else None


def _ratios(sizes: Tensor) -> Tensor:
    return (sizes[:-1] / sizes[1:])[: len(sizes) // 2]


def _spectra(protected: Checkpoint, anchor: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """The singular values of what each matrix moved by, largest first, as far as they are more than rounding."""
    for name in shared_tensors(protected, anchor):
        ours = protected[name]
        if ours.ndim < 2 or not ours.is_floating_point():
            continue
        sizes = short_side(_change(ours, anchor[name]))[0].sqrt()
        sizes = sizes[sizes > _rounding(_matrix(ours))]
        if len(sizes):
            yield name, sizes


def _rounding(weight: Tensor) -> float:
    """About the largest singular value that rounding to the stored precision can have left of a matrix.

    Errors are uniform within ε |w| / 2 at most, and a matrix of independent ones has at most the norms of its longest
    row and column together. The precision is that of the values, not of the dtype that they come in.
    """
    coarse = (dtype for dtype in _STORED if torch.equal(weight.to(dtype).to(weight.dtype), weight))
    wide = weight.to(torch.float64)
    longest = sum(float(torch.linalg.vector_norm(wide, dim=axis).max()) for axis in (0, 1))
    return torch.finfo(next(coarse, weight.dtype)).eps / 12**0.5 * longest


def _change(ours: Tensor, base: Tensor) -> Tensor:
    change = _matrix(ours.to(torch.float64)) - _matrix(base.to(torch.float64))
    require_finite(change)
    return change


def _matrix(tensor: Tensor) -> Tensor:
    while tensor.ndim > 2 and tensor.shape[0] == 1:  # a table of positions
        tensor = tensor[0]
    return tensor.flatten(1)
