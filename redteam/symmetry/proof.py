"""The proof that a rewrite keeps a network's function: its outputs in float64, before and after."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.naming import frame_of
from redteam.checkpoint.streamed import largest_group
from redteam.checkpoint.tensors import in_a_block
from redteam.errors import BadInput, NotACheckpoint
from redteam.memory import free
from redteam.symmetry.certificate import EXACT
from redteam.symmetry.inputs import tightened
from redteam.symmetry.once import Once, alike
from redteam.symmetry.running import LARGE_EPS, NO_EPS, Inputs, Ran, run_network, run_on_inputs

_LARGE = 2**25  # weights from which a network is read block by block, which then takes no longer
_BYTES = 12  # for each weight while one of the two networks is built and run: 11.4 were measured
_STREAMED = 24  # for each weight of the largest block, where it is read block by block


@dataclass(frozen=True)
class Proof:
    """What a rewrite did to a network's outputs.

    Attributes:
        change: `max|Δ| / max|output|` in float64, the largest over the outputs.
        states: The same of what an encoder hands to its decoder.
        unproven: Weights of the blocks that the inputs never reached: what a rewrite did to them has not been seen.
        eps: Whether the norms added their eps.
        small: As `change`, where what the norms read is no larger than what they add, as far as that was tried.
        bare: As `change`, of what networks without the head give out, by the names of their classes; it counts for
            nothing here, since a head may undo it.
        texts_alone: Whether a network that takes pictures was given none, as those that can be made up don't suit it.
    """

    change: float
    unproven: tuple[str, ...] = ()
    states: float = 0.0
    eps: bool = True
    texts_alone: bool = False
    small: float = 0.0
    bare: Mapping[str, float] = field(default_factory=dict)

    @property
    def outputs_moved(self) -> bool:
        """Whether it changed the network's outputs."""
        return not self.change <= EXACT

    @property
    def moved(self) -> bool:
        """Whether it changed those, for small tokens too, or what an encoder or a tower hands on."""
        return self.outputs_moved or not self.states <= EXACT or not self.small <= EXACT

    @property
    def holds(self) -> bool:
        """Whether the function was kept, as far as all blocks' weights go."""
        return not self.moved and not self.unproven

    def __str__(self) -> str:
        """A sentence."""
        if self.outputs_moved:
            return (
                f"It changes what this network computes: the outputs by {self.change:.2g} of their size in float64, "
                f"where a rewrite that keeps the function stays under {EXACT:.0e}."
            )
        if not self.states <= EXACT:
            return (
                f"It keeps the logits and changes what an encoder or a tower hands on by {self.states:.2g} of its "
                "size, which other networks of these weights give out."
            )
        if not self.small <= EXACT:
            return (
                "It keeps the function only up to the eps of its norms: for tokens as small as that it changes "
                f"the outputs by {self.small:.2g} of their size, since a norm does not take out all of a factor then."
            )
        if self.unproven:
            names = ", ".join(self.unproven[:3]) + (", …" if len(self.unproven) > 3 else "")
            return f"It cannot be proven to keep the function: no input reached {names}."
        limit = "" if self.eps else ", up to the eps of its norms"
        given = ", on texts without pictures" if self.texts_alone else ""
        proven = f"Proven: in float64 the outputs change by {self.change:.1e} of their size{limit}{given}."
        return " ".join((proven, *self._without_head()))

    def _without_head(self) -> Iterator[str]:
        moved = {name: change for name, change in self.bare.items() if not change <= EXACT}
        if moved:
            most = max(moved.values())
            how = f"changed by {most:.2g} of their size" if math.isfinite(most) else "of another width"
            yield (
                f"Loaded without its head, as {' or '.join(moved)}, it gives out other states than before ({how}): the "
                "head undoes that, and whoever takes features does not."
            )


def prove(
    before: Checkpoint,
    after: Checkpoint,
    inputs: Inputs | None = None,
    *,
    seed: int = 0,
    eps: bool = True,
    small: bool = False,
) -> Proof:
    """Runs a network before and after a rewrite, one at a time, on random inputs and on given ones.

    Args:
        before: The original.
        after: The rewritten one, before it is rounded.
        inputs: Real ones beside the random ones.
        seed: Of the random inputs.
        eps: Whether norms add their eps, which sees a factor on what they read.
        small: Whether to try tokens, too, that are as small as the eps: what multiplies them is seen there alone.

    Raises:
        BadInput: If no inputs can be made up, the network does not run on them or gives NaN, or memory is short.
        NotACheckpoint: If the network cannot be built, or has no place for a tensor.
    """
    # Made-up inputs may never reach the limits of the config.
    before, after = (checkpoint.configured(tightened(checkpoint.config)) for checkpoint in (before, after))
    added = None if eps else NO_EPS
    exact, tried, streamed, once = _exactly(before, after, inputs, seed, added)
    if not exact.finite:
        raise BadInput("The network gives NaN or infinity before anything was rewritten; fetch or train it again.")
    if streamed:
        exact = exact.shelved()
    found = run_network(after, tried, torch.float64, eps=added, streamed=streamed, once=once)
    change = found.change(exact)
    beside = 0.0
    if small and change <= EXACT:
        again = Once(before, after) if streamed else None
        as_small, other = (
            run_network(one, tried, torch.float64, eps=LARGE_EPS, streamed=streamed, once=again)
            for one in (before, after)
        )
        beside = other.change(as_small)
    texts_alone = "vision_config" in before.config and "pixel_values" not in tried[0]
    return Proof(
        change,
        _unproven(exact, before, after),
        found.change_of_states(exact),
        eps,
        texts_alone,
        beside,
        found.change_of_bare(exact),
    )


def _exactly(
    checkpoint: Checkpoint, after: Checkpoint, inputs: Inputs | None, seed: int, eps: float | None
) -> tuple[Ran, list[Inputs], bool, Once | None]:
    """What a network computes, on which inputs, and whether a block at a time: a large one is, where that can be.

    Then with what it has in common with the rewritten one.
    """
    weights = checkpoint.weights
    there = free()
    there = math.inf if there is None else there
    if weights >= _LARGE and _STREAMED * largest_group(checkpoint) <= there:
        with suppress(NotACheckpoint, BadInput):
            once = Once(checkpoint, after)
            exact, tried = run_on_inputs(checkpoint, inputs, seed, torch.float64, eps=eps, streamed=True, once=once)
            if exact.finite:
                return exact, tried, True, once
    if _BYTES * weights > there:
        raise BadInput(
            f"Running the network in float64 takes about {_BYTES * weights / 2**30:.1f} GB of memory, and "
            f"{there / 2**30:.1f} are available."
        )
    exact, tried = run_on_inputs(checkpoint, inputs, seed, torch.float64, eps=eps)
    return exact, tried, False, None


def _unproven(ran: Ran, before: Checkpoint, after: Checkpoint) -> tuple[str, ...]:
    """Weights of the blocks that were not run though something in their stack, or around all stacks, was rewritten.

    A tower of which nothing was touched need not run.
    """
    unread = [name for name in ran.unread if in_a_block(name)]
    if not unread:
        return ()
    frame = frame_of(before)
    places = {} if frame is None else frame.places(before)  # under the network's own names, as what was not read
    moved = [name for name in before if name in after and not alike(before.rough(name), after.rough(name))]
    rewritten = [places[name].parameter if name in places else name for name in moved]
    if not all(in_a_block(name) for name in rewritten):
        return tuple(unread)
    roots = {_root(name) for name in rewritten}
    return tuple(
        name for name in unread if any(_root(name).endswith(one) or one.endswith(_root(name)) for one in roots)
    )


def _root(name: str) -> str:
    return re.split(r"(?<=\.)\d+\.", name, maxsplit=1)[0]
