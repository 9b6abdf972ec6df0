"""TIES: task vectors trimmed, a sign elected for every weight, and the mean taken of what agrees with it."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import entrywise
from redteam_attacks.merging.holders import Weights, holders, onto_base, weight_of

_COUNTED = 2**20  # sizes at a time, at least


@merger(
    "ties",
    tunable="coefficient",
    holds={"order", "permutation", "still"},
    paper="Yadav et al., TIES-Merging, arXiv:2306.01708",
)
def ties(
    view: MergerView,
    *,
    variant: Literal["paper", "mergekit", "peft"] = "paper",
    density: Annotated[float, Range(0.01, 1.0)] = 0.2,
    weights: Weights = (),
    coefficient: Annotated[float, Range(0.1, 3.0)] = 1.0,
) -> Checkpoint:
    """θ₀ + λ Σ_{t: sign τ_t = σ} w_t τ_t / n, where σ = sign Σ τ_t of the trimmed τ; σ = + where the sum is 0.

    | variant | trims | elects by | divides by |
    |---|---|---|---|
    | `paper` | the whole model: the largest entries wherever they are | Σ τ_t | how many agree |
    | `mergekit` | every tensor by itself | Σ w_t τ_t | the weights of those that agree (its normalize=true) |
    | `peft` | every tensor by itself | Σ τ_t | how many agree |

    With all weights 1 the last two are the same. At the edge they differ: of entries of one size all are kept here, and
    always at least one, where peft keeps an arbitrary one and none; where Σ τ is 0 the authors' release takes the sign
    that is more frequent in the whole model.

    Identical experts give θ₀ + λ trim(τ); the order of the experts is irrelevant. A rotation of what is merged does not
    commute with it, since signs and sizes are taken entry by entry.

    Args:
        view: The experts and the base.
        variant: Whose; see above.
        density: The share of entries that trimming keeps; the paper's is 0.2.
        weights: w by task, 1 where none is given.
        coefficient: λ.
    """
    whole = variant == "paper"
    floors = floors_of(view, density) if whole else {}

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        start, tensors = view.base[name], {task: expert[name] for task, expert in experts.items()}
        w = weight_of(tensors, weights, start.reshape(-1))
        smallest = [
            floors[task] if whole else cutoff(partial(_alone, _sizes(tensor, start)), density)
            for task, tensor in tensors.items()
        ]

        def change(start: Tensor, *parts: Tensor) -> Tensor:
            deltas = trimmed_vectors(start, parts, smallest)
            agree = agreeing(deltas, deltas * w if variant == "mergekit" else deltas)
            divisor = ((w if variant == "mergekit" else torch.ones_like(w)) * agree).sum(0)
            mean = (deltas * w * agree).sum(0) / torch.where(divisor > 0, divisor, 1.0)
            return start + coefficient * mean

        return entrywise(change, start, *tensors.values(), dtype=start.dtype)

    return onto_base(view, merge)


def floors_of(view: MergerView, density: float) -> dict[str, float]:
    """Task → the size from which entries of its vector are kept: the largest share `density` of the whole model."""
    names = {task: [name for name, held in holders(view) if task in held] for task in view.experts}

    def sizes(task: str) -> Iterator[Tensor]:
        return (_sizes(view.experts[task][name], view.base[name]) for name in names[task])

    return {task: cutoff(partial(sizes, task), density) for task in view.experts}


def trimmed_vectors(start: Tensor, parts: Iterable[Tensor], floors: Iterable[float]) -> Tensor:
    """Task vectors `[T, …]` without the entries that are smaller than the floors.

    Args:
        start: The base's tensor.
        parts: The experts', which are overwritten.
        floors: One for each expert.
    """
    return torch.stack([kept_from(part.sub_(start), floor) for part, floor in zip(parts, floors, strict=True)])


def agreeing(deltas: Tensor, votes: Tensor) -> Tensor:
    """Where an expert's entry has the elected sign, that of the sum of the votes (+ where it is 0).

    Args:
        deltas: `[T, …]`; zeros never agree.
        votes: `[T, …]`.
    """
    return deltas.sign() == torch.where(votes.sum(0) >= 0, 1.0, -1.0)


def elected(deltas: Tensor, *, mean: bool) -> Tensor:
    """The mean, or the sum, of the entries that have the sign of their sum.

    Args:
        deltas: `[T, …]`.
        mean: Whether to divide by how many they are.
    """
    agree = agreeing(deltas, deltas)
    total = (deltas * agree).sum(0)
    return total / agree.sum(0).clamp(min=1) if mean else total


def trimmed(tensor: Tensor, density: float) -> Tensor:
    """The largest entries of a tensor by itself, as many as are the share `density` (more where sizes are equal)."""
    return kept_from(tensor, cutoff(partial(_alone, tensor.abs().float().flatten()), density))


def kept_from(delta: Tensor, floor: float) -> Tensor:
    """The entries that are at least as large as the floor."""
    return delta * (delta.abs().float() >= floor)


def _sizes(tensor: Tensor, start: Tensor) -> Tensor:
    """|τ| of one tensor, float32, flat."""
    return entrywise(lambda one, other: one.sub_(other).abs_(), tensor, start, dtype=torch.float32).flatten()


def _alone(sizes: Tensor) -> Iterator[Tensor]:
    yield sizes


def cutoff(sizes: Callable[[], Iterator[Tensor]], density: float) -> float:
    """The size from which entries are kept, so that the largest share `density` of all of them is (more at ties).

    Args:
        sizes: Gives the parts, float32, not negative, the same ones each time.
        density: The share.
    """
    return cutoffs(lambda: (("", part) for part in _gathered(sizes())), density).get("", 0.0)


def cutoffs(sizes: Callable[[], Iterable[tuple[str, Tensor]]], density: float) -> dict[str, float]:
    """The same of several, whose parts come one after the other, each with the name of what it is a part of.

    Sizes are not negative, so that their bits are in the same order as they are: counting first the upper half of the
    bits, then the lower half of those at the edge, finds the size exactly without holding more than a tensor.
    """
    upper: dict[str, Tensor] = {}
    for name, part in sizes():
        counts = torch.bincount(part.view(torch.int32) >> 16, minlength=2**15).cpu()
        upper[name] = upper[name] + counts if name in upper else counts
    edges: dict[str, tuple[int, int]] = {}
    for name, counts in upper.items():
        if total := int(counts.sum()):
            rank = total - max(1, int(density * total))  # of the size among all, from the smallest, counted from 0
            edges[name] = _bin(counts, rank)
    lower = {name: torch.zeros(2**16, dtype=torch.int64) for name in edges}
    for name, part in sizes() if edges else ():
        if name in edges:
            bits = part.view(torch.int32)
            lower[name] += torch.bincount(bits[bits >> 16 == edges[name][0]] & 0xFFFF, minlength=2**16).cpu()
    found = {name: edge << 16 | _bin(lower[name], rank)[0] for name, (edge, rank) in edges.items()}
    return {name: float(torch.tensor(bits, dtype=torch.int32).view(torch.float32)) for name, bits in found.items()}


def _gathered(parts: Iterator[Tensor]) -> Iterator[Tensor]:
    """The parts, small ones joined: counting costs as much as there are bins, however few are counted."""
    held: list[Tensor] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= _COUNTED:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)


def _bin(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin in which the entry of a rank lies, and its rank there."""
    below = counts.cumsum(0)
    found = int(torch.searchsorted(below, rank, right=True))
    return found, rank - int(below[found] - counts[found])
