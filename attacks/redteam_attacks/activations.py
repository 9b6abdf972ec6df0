"""What linear maps read on the attacker's own inputs, of two networks side by side, as moments in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from redteam.anatomy import Adapted, Side, Site
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.modules import layer_paths, watched
from redteam.errors import BadInput, Inapplicable
from redteam.views import AttackerView

_BATCH = 64


@dataclass
class Moment:
    """The covariance of two vectors that come in parts.

    Attributes:
        count: How many pairs there were.
        sums: Their sums, [a] and [b].
        products: Σ x yᵀ, [a, b].
    """

    count: int
    sums: tuple[Tensor, Tensor]
    products: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Moment:
        """Of rows of two tables, [k, a] and [k, b]."""
        return cls(len(x), (x.sum(0), y.sum(0)), x.T @ y)

    def __add__(self, other: Moment) -> Moment:
        first, second = (a + b for a, b in zip(self.sums, other.sums, strict=True))
        return Moment(self.count + other.count, (first, second), self.products + other.products)

    @property
    def covariance(self) -> Tensor:
        """E (x − E x)(y − E y)ᵀ, [a, b]."""
        return self.products / self.count - torch.outer(*self.sums) / self.count**2


def moments(
    view: AttackerView, checkpoints: Sequence[Checkpoint], sides: Iterable[Side], samples: int
) -> dict[str, Moment]:
    """By a weight's name, the moments of what that map reads in the first checkpoint's network and in the last's.

    Args:
        view: Grants companions and data of their tasks.
        checkpoints: One or two; of one, the moments of what it reads with itself.
        sides: Whose maps are looked at.
        samples: Inputs of each of the attacker's own tasks.

    Raises:
        Inapplicable: If there are no such tasks, a map has adapters, or a network does not hold a map as its checkpoint
            does.
    """
    sides = tuple(sides)
    for linear in (side.linear for side in sides):
        if isinstance(linear, Adapted):
            raise Inapplicable(
                f"{linear.weight!r} has adapters beside it, each with inputs of its own; expected maps without, so "
                "take an attack that looks at weights alone."
            )
    names = tuple(dict.fromkeys(side.linear.weight for side in sides))
    found: dict[str, Moment] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
        readers = [_reader(checkpoint, names) for checkpoint in checkpoints]
        for inputs in _inputs(view, samples):
            read = [reader(inputs) for reader in readers]
            for name in names:
                moment = Moment.of(read[0][name], read[-1][name])
                found[name] = found[name] + moment if name in found else moment
    if not found:
        raise Inapplicable("There is no task of the attacker's own to take inputs from; give companions.")
    return found


def dressed(anchor: Checkpoint, protected: Checkpoint) -> Checkpoint:
    """The base as a network: under the victim's head, which is all that it lacks."""
    return protected.replace(anchor.only(shared_tensors(protected, anchor)))


def cut(side: Side, weight: Tensor, heads: int) -> Tensor:
    """[B, n, r, in]: a weight's rows (its columns where a gauge acts there) by heads, n dimensions, r heads to one."""
    flat = weight.T if side.columns else weight
    return flat.reshape(heads, side.share, -1, side.unit * flat.shape[1]).transpose(1, 2)


def weighed(sites: Iterable[Site]) -> Iterator[Side]:
    """The sides of some sites whose maps' outputs a gauge moves."""
    return (side for site in sites for side in site.sides if not side.columns)


def _reader(checkpoint: Checkpoint, names: Sequence[str]) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """A function of inputs: by a weight's name, what its map reads in the checkpoint's network, float64 [k, in]."""
    network = checkpoint.module(torch.float32)
    try:
        paths = layer_paths(checkpoint, names)
    except BadInput as error:
        raise Inapplicable(f"What a map reads cannot be told. {error}") from None

    def read(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen, mask = {}, inputs.get("attention_mask")

        def look(name: str, given: Tensor, _: Tensor) -> None:
            kept = given[mask.bool()] if mask is not None and mask.shape == given.shape[:-1] else given  # no padding
            seen[name] = kept.reshape(-1, kept.shape[-1]).double()

        with watched(network, paths, look):
            network(**inputs)
        return seen

    return read


def _inputs(view: AttackerView, samples: int) -> Iterator[Mapping[str, Tensor]]:
    for task in view.companions:
        size = min(_BATCH, samples)
        yield from (inputs for inputs, _ in islice(view.own_batches(task, size), -(-samples // size)))
