"""Networks run on some inputs: what they give out, and which of their weights had no part in it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.lazy import forget
from redteam.checkpoint.libraries import quiet_transformers
from redteam.checkpoint.modules import build_streamed, build_without_heads
from redteam.checkpoint.streamed import Streamed
from redteam.errors import BadInput, NotACheckpoint
from redteam.lifted import lifted
from redteam.memory import give_back
from redteam.symmetry.inputs import random_inputs
from redteam.symmetry.once import Once
from redteam.symmetry.shelved import Shelved, largest, largest_difference, pieces, shelved

_HANDED_ON = re.compile(r"(^|\.)(encoder_last_hidden_state|last_hidden_state|pooler_output)$")
_WHOLE = "output"
_NO_EPS = 1e-60  # a row of zeros stays one
NO_EPS, LARGE_EPS = 0.0, 1.0
"""What norms may add in place of their own eps: nothing, or as much as what they read."""

Inputs = Mapping[str, Tensor]
"""A network's keyword arguments, such as `{"pixel_values": [n, c, h, w]}`."""


@dataclass(frozen=True)
class Ran:
    """What a network did.

    Attributes:
        outputs: float64, on the CPU, for all inputs: the logits where there are some, else all that it gives out; large
            ones may be on disk.
        states: The same, of what encoders and towers hand on, which other networks of the same weights give out.
        unread: Its floating parameters that no operation took, by the network's own names.
    """

    outputs: tuple[Tensor | Shelved, ...]
    unread: tuple[str, ...]
    states: tuple[Tensor | Shelved, ...] = ()
    bare: tuple[tuple[str, Tensor], ...] = ()

    def shelved(self) -> Ran:
        """The same with what is large on disk."""
        return replace(self, outputs=tuple(map(shelved, self.outputs)), states=tuple(map(shelved, self.states)))

    def change(self, exact: Ran) -> float:
        """`max|Δ| / max|output|` against another run on the same inputs, the largest over the outputs."""
        return _change(self.outputs, exact.outputs, math.inf)

    def change_of_states(self, exact: Ran) -> float:
        """As `change`, of the encoder's states; 0 where there are none."""
        return _change(self.states, exact.states, 0.0)

    def change_of_bare(self, exact: Ran) -> dict[str, float]:
        """As `change`, of what each network without a head gives out, by its class; infinite where shapes differ."""
        found: dict[str, float] = {}
        for (name, here), (_, there) in zip(self.bare, exact.bare, strict=True):
            change = _change([here], [there], 0.0) if here.shape == there.shape else math.inf
            found[name] = max(found.get(name, 0.0), change)
        return found

    @property
    def finite(self) -> bool:
        """Whether all outputs are."""
        return all(bool(piece.isfinite().all()) for x in self.outputs for piece in pieces(x))


def _change(here: Sequence[Tensor | Shelved], there: Sequence[Tensor | Shelved], default: float) -> float:
    changes = (_over(largest_difference(x, y), largest(y)) for x, y in zip(here, there, strict=True))
    return max(changes, default=default)


def _over(difference: float, size: float) -> float:
    """Their ratio; infinite where either is no number or there is nothing to compare with."""
    return difference / size if size > 0 and math.isfinite(difference) and math.isfinite(size) else math.inf


def inputs_for(checkpoint: Checkpoint, given: Inputs | None, seed: int) -> list[Inputs]:
    """Made-up inputs, and the given ones behind them.

    Raises:
        BadInput: If none are given and none can be made up.
    """
    try:
        drawn = random_inputs(checkpoint, seed)
    except BadInput:
        if given is None:
            raise
        return [given]
    return [drawn] if given is None else [drawn, given]


def run_on_inputs(
    checkpoint: Checkpoint,
    given: Inputs | None,
    seed: int,
    dtype: torch.dtype,
    *,
    eps: float | None = None,
    streamed: bool = False,
    once: Once | None = None,
) -> tuple[Ran, list[Inputs]]:
    """What a network does with made-up inputs and given ones, and these inputs.

    Where it takes texts and pictures and the made-up pictures don't suit it, it runs on texts alone.

    Raises:
        BadInput, NotACheckpoint: As `run_network`, and if no inputs are given and none can be made up.
    """
    tried = inputs_for(checkpoint, given, seed)
    try:
        return run_network(checkpoint, tried, dtype, eps=eps, streamed=streamed, once=once), tried
    except NotACheckpoint:
        raise
    except BadInput:
        if not {"input_ids", "pixel_values"} <= set(tried[0]) and "vision_config" not in checkpoint.config:
            raise
    tried = [random_inputs(checkpoint, seed, text=True), *tried[1:]]  # what failed is out of memory now
    return run_network(checkpoint, tried, dtype, eps=eps, streamed=streamed, once=once), tried


def run_network(
    checkpoint: Checkpoint,
    tried: Sequence[Inputs],
    dtype: torch.dtype,
    *,
    eps: float | None = None,
    streamed: bool = False,
    once: Once | None = None,
) -> Ran:
    """Builds a network and runs it; in float64 the norms' and softmax's casts to float32 are lifted.

    A checkpoint that lacks its heads gives out its stream: the last hidden states count then.

    Args:
        checkpoint: Config and weights.
        tried: One after the other; what the network doesn't take is left out.
        dtype: Of weights and computation.
        eps: What norms add in place of their eps, those that add any: `NO_EPS`, where a factor on what they read goes
            unseen altogether, or `LARGE_EPS`, where it is seen as it is of tokens that are as small as the eps.
        streamed: Whether to hold the weights of the block that runs alone.
        once: What two checkpoints have in common, where this is the second of two runs that read block by block;
            what is not run then counts as unread.

    Raises:
        BadInput: If it does not run on them.
        NotACheckpoint: If it cannot be built.
    """
    built, whole = _built(checkpoint, dtype, streamed)
    network = built.network if isinstance(built, Streamed) else built
    if hasattr(network, "set_attn_implementation"):
        with quiet_transformers():
            network.set_attn_implementation("eager")  # fused kernels on the CPU give zeros where a score overflowed
    if eps is not None:
        _set_eps(network, eps)
    exact: AbstractContextManager[None] = lifted() if dtype is torch.float64 else nullcontext()
    sliced: AbstractContextManager[Any] = built.sliced() if isinstance(built, Streamed) else nullcontext()
    outputs: list[Tensor] = []
    states: list[Tensor] = []
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
        exact,
        sliced,
        _Reading(network) as reading,
        _without_heads(network) as bare,
    ):
        if isinstance(built, Streamed):

            def done(weights: Mapping[str, Tensor]) -> None:
                reading.note(weights)
                forget()  # a fit keeps what it read, beside the outputs
                give_back()

            built.loaded, built.dropping, built.known = reading.forget, done, once
        for inputs in tried:
            torch.manual_seed(0)  # masked autoencoders draw what they mask
            given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in _accepted(network, inputs).items()}
            try:
                found = dict(_named(network(**given, **({} if whole else {"output_hidden_states": True}))))
            except (
                RuntimeError,
                TypeError,
                ValueError,
                LookupError,
                AttributeError,
                AssertionError,
                ArithmeticError,
            ) as error:
                why = " ".join(str(error).split())[:200] or type(error).__name__
                raise BadInput(f"The network does not run on {', '.join(given)} ({why}).") from error
            logits = {name: x for name, x in found.items() if name.startswith("logits")}
            handed_on = {name: x for name, x in found.items() if logits and _HANDED_ON.search(name)}
            outputs += [x.to(torch.float64) for x in ((logits or found) if whole else _streams(found)).values()]
            states += [x.to(torch.float64) for x in handed_on.values()]
        reading.note(dict(network.named_parameters()))
    return Ran(tuple(outputs), reading.passed_over, tuple(states), tuple(bare))


def _set_eps(network: nn.Module, eps: float) -> None:
    for part in network.modules():
        for name in {"eps", "variance_epsilon"} & vars(part).keys():
            if getattr(part, name):
                setattr(part, name, eps or _NO_EPS)


@contextmanager
def _without_heads(network: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """While it is active, lists what the networks inside this one give out: a BertModel's states, under a head."""
    found: list[tuple[str, Tensor]] = []

    def note(part: nn.Module, _: Any, given: Any) -> None:
        named = dict(_named(given))
        told = [x for name, x in named.items() if _HANDED_ON.search(name)] or [*named.values()][:1]
        found.extend((type(part).__name__, x.to(torch.float64)) for x in told)

    hooks = [part.register_forward_hook(note) for part in _inner(network)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _inner(network: nn.Module) -> Iterator[nn.Module]:
    """The outermost networks inside a network of transformers that stand for themselves."""
    for part in network.children():
        if hasattr(part, "base_model_prefix"):
            yield part
        else:
            yield from _inner(part)


def _built(checkpoint: Checkpoint, dtype: torch.dtype, streamed: bool) -> tuple[Any, bool]:
    """The network, and whether all of it is there."""
    if streamed:
        return build_streamed(checkpoint, dtype), True
    try:
        return checkpoint.module(dtype), True
    except NotACheckpoint:
        with suppress(NotACheckpoint):
            return build_without_heads(checkpoint, dtype), False
        raise


def _streams(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The last hidden states of each stack, under its name."""
    return {name.rpartition(".")[0] or name: x for name, x in found.items() if "hidden_state" in name}


def _accepted(network: nn.Module, inputs: Inputs) -> Inputs:
    """Those that the network names; all where it names none of them."""
    named = inspect.signature(network.forward).parameters
    return {name: value for name, value in inputs.items() if name in named} or inputs


def _named(outputs: Any, name: str = _WHOLE) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of floats in what a network returned, but for caches of keys and values."""
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield name, outputs
    elif isinstance(outputs, Mapping):
        for key, value in outputs.items():
            if not str(key).startswith("past"):
                yield from _named(value, str(key) if name == _WHOLE else f"{name}.{key}")
    elif isinstance(outputs, (tuple, list)):
        for place, value in enumerate(outputs):
            yield from _named(value, f"{name}.{place}")


class _Reading(TorchDispatchMode):
    """Notes which memory operations were given: a weight that is in none of it cannot have mattered.

    Attributes:
        passed_over: Floating parameters that no operation was given, by name, as far as they were noted.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: set[int] = set()
        self._unread = {name for name, weight in network.named_parameters() if weight.is_floating_point()}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._seen.add(leaf.untyped_storage().data_ptr())
        return func(*args, **(kwargs or {}))

    def forget(self, weights: Mapping[str, Tensor]) -> None:
        """Starts anew with weights whose memory was something else's before."""
        self._seen -= {weight.untyped_storage().data_ptr() for weight in weights.values()}

    def note(self, weights: Mapping[str, Tensor]) -> None:
        """Looks which of some weights were given to an operation, before their memory is something else's."""
        places = {name: weight.untyped_storage().data_ptr() for name, weight in weights.items()}
        self._unread -= {name for name, place in places.items() if place in self._seen}
        self._seen -= set(places.values())

    @property
    def passed_over(self) -> tuple[str, ...]:
        return tuple(sorted(self._unread))
