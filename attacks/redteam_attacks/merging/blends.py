"""A weighted sum of checkpoints as a network that can be differentiated by the weights, under the heads of tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count

import torch
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.modules import parameter_names
from redteam.errors import Inapplicable
from redteam.memory import require
from redteam.views import MergerView
from redteam_attacks.standing_in import standing_in

_BESIDE = 3  # models in memory beside the parts: the sum, its gradient, and what is being built


class Blend:
    """Networks of some tasks in which one weighted sum of parts stands for what they share.

    All is float32, or float64 where a network's checkpoint has such tensors. Where a network has no such parameter, or
    one of another shape, its own stays.

    Args:
        parts: What is summed, each with all tensors of a network.
        names: The tensors of the parts that are summed.
        networks: Task → the checkpoint whose network the sum runs in.

    Attributes:
        places: Name of a tensor → the parameter that holds it, of those that are summed.
        stacks: Parameter → its parts, `[parts, …]`.
        dtype: In which it is computed.

    Raises:
        Inapplicable: If nothing of it is a parameter of the networks.
        NotEnoughMemory: If the run may not take so much.
    """

    def __init__(self, parts: Sequence[Checkpoint], names: Collection[str], networks: Mapping[str, Checkpoint]) -> None:
        size = max(part.weights for part in (*parts, *networks.values()))
        self.dtype = widened(one.dtype(name) for one in networks.values() for name in one)
        require(
            self.dtype.itemsize * size * (len(parts) + _BESIDE),
            f"A weighted sum of {len(parts)} models of {size / 1e6:.3g} million weights as a network",
        )
        with torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
            places = {n: place for n, place in parameter_names(parts[0]).items() if n in names}
            self.stacks = _stacked(parts, set(places.values()), self.dtype)
            self.places = {name: place for name, place in places.items() if place in self.stacks}
            if not self.places:
                raise Inapplicable(
                    "No tensor that the experts share is a parameter of their networks, so that there is nothing to "
                    "learn from; take a merger without data."
                )
            self._networks = {task: self._emptied(one) for task, one in networks.items()}

    @property
    def device(self) -> torch.device:
        """Where the parts are, and what weighs them has to be."""
        return next(iter(self.stacks.values())).device

    def summed(self, weights: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Parameter → its weighted sum.

        Args:
            weights: Parameter → the weights of its parts, `[parts]`.
        """
        return {place: torch.tensordot(weights(place), stack, 1) for place, stack in self.stacks.items()}

    def on(self, task: str, summed: Mapping[str, Tensor], read: Callable[[nn.Module], Tensor]) -> Tensor:
        """What is read from the network of a task while sums stand for its parameters."""
        network, shared = self._networks[task]
        return standing_in(network, {place: summed[place] for place in shared}, read)

    def _emptied(self, checkpoint: Checkpoint) -> tuple[nn.Module, tuple[str, ...]]:
        """A network, whose own copy of what the parts share is let go of, and the parameters that they share."""
        network = checkpoint.module(self.dtype).requires_grad_(False)
        held = dict(network.named_parameters())
        shared = tuple(p for p, stack in self.stacks.items() if p in held and held[p].shape == stack.shape[1:])
        for place in shared:
            held[place].data = self.stacks[place][0]
        return network, shared


def shuffled(view: MergerView, task: str, rows: int, size: int) -> Iterator[Tensor]:
    """Batches of a task's rows without end, int64 `[at most size]`, in another order each time through."""
    for turn in count():
        order = view.generator(f"{task}/{turn}").permutation(rows)
        yield from torch.from_numpy(order).split(size)


def widened(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """float64 where one of them is, else float32."""
    return torch.float64 if torch.float64 in set(dtypes) else torch.float32


def _stacked(parts: Sequence[Checkpoint], places: Collection[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Parameter → its parts `[parts, …]`, of those that all parts have in one shape."""
    stacks: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        held = {place: one.detach() for place, one in part.module(dtype).named_parameters()}
        if not number:
            found = sorted(place for place in places if place in held)
            stacks = {place: held[place].new_empty(len(parts), *held[place].shape) for place in found}
        stacks = {p: stack for p, stack in stacks.items() if p in held and held[p].shape == stack.shape[1:]}
        for place, stack in stacks.items():
            stack[number] = held[place]
    return stacks
