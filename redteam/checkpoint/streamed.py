"""Networks larger than memory: the weights of a block are read when it runs, and dropped after it.

The network is built without weights. Which tensors a block needs is learned by loading outlines, so that whatever
transformers renames, stacks or splits on the way in is done by itself, block by block. Of a large table outside the
blocks (an embedding, a head, or both where they are tied) only the rows that are in use are brought into the dtype of
the computation.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import takewhile
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from redteam.checkpoint.libraries import as_a_sentence, quiet_transformers, require_fit
from redteam.checkpoint.naming import Frame, is_remnant, tied
from redteam.checkpoint.tensors import NUMBERS, Tensors
from redteam.errors import NotACheckpoint
from redteam.memory import free_at_once

_SLICE = 2**22  # numbers of a table that are in use at a time; what has fewer is read as any other tensor
_COLLECTING = "transformers.utils.output_capturing"

Look = Callable[[Mapping[str, Tensor]], None]
"""Takes weights by the network's own names."""


class Known(Protocol):
    """What knows some blocks' outputs beforehand; `redteam.symmetry.once.Once` is one."""

    def call(self, block: str, names: Sequence[str], given: Any, /) -> str | None:
        """What tells a call of the block at a path from others; `None` where the block has to run."""

    def knows(self, call: str, /) -> bool:
        """Whether `answer` has one."""

    def answer(self, call: str, /) -> Any:
        """What the block gives out."""

    def note(self, call: str, given: Any, output: Any, /) -> None:
        """Told after a block ran that was not known."""


@dataclass(eq=False)
class _Group:
    """Tensors that are read together.

    Attributes:
        names: Of the checkpoint's tensors.
        weights: Of the network's parameters and buffers that are made of them, tied ones under every name.
        running: How many modules need them at the moment.
    """

    names: tuple[str, ...]
    weights: tuple[str, ...] = ()
    running: int = 0


class _Block:
    """The module that holds all of a group, and the call of it that is going on."""

    def __init__(self, path: str, module: nn.Module) -> None:
        self.path, self.module = path, module
        self.call: str | None = None
        self.collected = 0
        self.answer: tuple[Any, ...] = ()
        forward = module.forward

        @wraps(forward)
        def answering(*args: Any, **kwargs: Any) -> Any:
            return self.answer[0] if self.answer else forward(*args, **kwargs)

        module.forward = answering


@dataclass(eq=False)
class Streamed:
    """A network that reads its weights as it runs.

    Attributes:
        network: In evaluation mode; its parameters are NaN and take no memory but while their block runs.
        loaded: Called with the weights of a group that was read.
        dropping: Called with the weights of a group that is about to be dropped.
        known: Asked before a block is read, whether it has to.
    """

    network: Any
    checkpoint: Tensors
    dtype: torch.dtype
    loaded: Look | None = None
    dropping: Look | None = None
    known: Known | None = None

    def __post_init__(self) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping

        self._conversions = get_model_conversion_mapping(self.network, None, None)
        self._aliases = tied(self.network)
        self._bare: dict[str, nn.Parameter] = {}
        for name, weight in self.network.named_parameters():  # whoever uses one that is not there gets NaN
            absent = nn.Parameter(torch.full((), math.nan, dtype=self.dtype).expand(weight.shape), requires_grad=False)
            self._bare |= dict.fromkeys(self._aliases[name], absent)
        self._put(self._bare)
        self._tables: dict[int, str] = {}
        self._all: list[_Group] = []
        self._hooks: set[int] = set()
        self._inside: dict[str, list[_Group]] = {}
        # A thread of its own: what watches or changes the operations of the one that runs has no bearing on loading.
        self._pool = ThreadPoolExecutor(1)

    def sliced(self) -> TorchFunctionMode:
        """While it is active, lookups in large tables and products with them are done slice by slice."""
        return _Sliced(self._tables, lambda name: self._pool.submit(self.checkpoint.rough, name).result())

    def arrange(self) -> None:
        """Finds out which tensors go where, and has each group read when the modules that hold it run.

        Raises:
            NotACheckpoint: If the tensors do not fit the network.
        """
        expected = set(self.network.state_dict())
        unexpected: set[str] = set()
        mismatched: set[str] = set()
        provided: set[str] = set()
        for group in _groups(self.checkpoint):
            outline = {n: torch.empty(self.checkpoint.shape(n), dtype=self.dtype, device="meta") for n in group.names}
            told = self._given(outline, "meta")
            unexpected |= set(told.unexpected_keys)
            mismatched |= {key[0] if isinstance(key, tuple) else key for key in told.mismatched_keys}
            own = expected - set(told.missing_keys)
            group.weights = tuple(sorted({alias for name in own for alias in self._aliases.get(name, (name,))}))
            self._all.append(group)
            provided |= set(group.weights)
            self._put({name: self._bare[name] for name in own if name in self._bare})
            if own and self._is_table(group):
                self._tables[id(self._bare[group.weights[0]])] = group.names[0]
            elif own:
                self._hook(group)
        ignored = getattr(self.network, "_keys_to_ignore_on_load_unexpected", None) or ()
        unexpected = {name for name in unexpected if not any(re.search(pattern, name) for pattern in ignored)}
        shapes = {name: self.checkpoint.shape(name) for name in unexpected if name in self.checkpoint}
        unexpected = {name for name in unexpected if name not in shapes or not is_remnant(name, shapes[name])}
        wrong = {"unexpected_keys": unexpected, "mismatched_keys": mismatched, "missing_keys": expected - provided}
        require_fit(type(self.network).__name__, wrong)

    def _is_table(self, group: _Group) -> bool:
        """Whether all that holds it looks rows up in it or multiplies with it, as it is in the checkpoint."""
        if not _large(self.checkpoint, group.names):
            return False
        (name,) = group.names
        places = [weight.rpartition(".") for weight in group.weights]
        plain = Frame(self.network, declared=True).places([name])[name].part == ""
        modules = [self.network.get_submodule(path) for path, _, last in places if last == "weight"]
        read = [isinstance(one, nn.Embedding | nn.Linear) and getattr(one, "max_norm", None) is None for one in modules]
        return plain and all(read) and len(read) == len(places)

    def _hook(self, group: _Group) -> None:
        places = {name.rpartition(".")[0] for name in group.weights}
        common = _common(sorted(places))
        for place in sorted({common, *places}):
            module = self.network.get_submodule(place)
            block = _Block(place, module) if place == common != "" else None
            before = module.register_forward_pre_hook(
                lambda _, *given, group=group, block=block: self._enter(group, block, given), with_kwargs=True
            )
            after = module.register_forward_hook(
                lambda _, args, kwargs, output, group=group, block=block: self._leave(
                    group, block, (args, kwargs), output
                ),
                with_kwargs=True,
                always_call=True,
            )
            self._hooks |= {before.id, after.id}

    def _enter(self, group: _Group, block: _Block | None, given: Any) -> None:
        if block is not None and self.known is not None:
            block.call, block.collected = self._pool.submit(self._call, block, given).result(), _collected()
            if block.call is not None and self.known.knows(block.call):
                block.answer = (self._pool.submit(self.known.answer, block.call).result(),)
                return
        self._begin(group)

    def _leave(self, group: _Group, block: _Block | None, given: Any, output: Any) -> None:
        if block is not None and block.answer:
            block.answer = ()
            return
        self._end(group)
        if block is None or self.known is None or block.call is None or output is None:
            return
        if _collected() == block.collected:  # else it gave out more than it returned
            self._pool.submit(self.known.note, block.call, given, output).result()

    def _call(self, block: _Block, given: Any) -> str | None:
        """What tells this call of a block from others, where nobody watches what happens inside it."""
        inside = [part for part in block.module.modules() if part is not block.module]
        hooks = [one for part in inside for one in (*part._forward_hooks.items(), *part._forward_pre_hooks.items())]
        watched = any(key not in self._hooks and hook.__module__ != _COLLECTING for key, hook in hooks)
        if watched or self.known is None:
            return None
        return self.known.call(block.path, self._names(block.path), given)

    def _names(self, path: str) -> tuple[str, ...]:
        """The tensors that the weights of a block are made of, and those of what runs around it."""
        if path not in self._inside:
            self._inside[path] = [one for one in self._all if any(w.startswith(f"{path}.") for w in one.weights)]
        parts = [*self._inside[path], *(one for one in self._all if one.running)]
        return tuple(dict.fromkeys(name for group in parts for name in group.names))

    def _begin(self, group: _Group) -> None:
        if group.running == 0:
            self._pool.submit(self._load, group).result()
            if self.loaded is not None:
                self.loaded({name: self._at(name) for name in self._held(group)})
        group.running += 1

    def _end(self, group: _Group) -> None:
        group.running -= 1
        if group.running == 0:
            held = self._held(group)
            if self.dropping is not None:
                self.dropping({name: self._at(name) for name in held})
            self._put({name: self._bare[name] for name in held})

    def _load(self, group: _Group) -> None:
        with torch.no_grad():
            told = self._given({name: self.checkpoint[name] for name in group.names}, "cpu")
            given = {name: self._at(name) for name in self._held(group) if name not in told.missing_keys}
            for name, weight in given.items():
                self._put(dict.fromkeys(self._aliases[name], weight))

    def _held(self, group: _Group) -> list[str]:
        """What of a group is dropped again: buffers stay."""
        return [name for name in group.weights if name in self._bare]

    def _given(self, tensors: Mapping[str, Tensor], device: str) -> Any:
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        settings = LoadStateDictConfig(
            dtype=self.dtype,
            device_map={"": device},
            ignore_mismatched_sizes=True,  # they are reported
            weight_mapping=copy.deepcopy(self._conversions),
        )
        with quiet_transformers():
            return convert_and_load_state_dict_in_model(self.network, dict(tensors), settings)[0]

    def _at(self, name: str) -> nn.Parameter:
        path, _, last = name.rpartition(".")
        return self.network.get_submodule(path)._parameters[last]  # type: ignore[no-any-return]

    def _put(self, weights: Mapping[str, nn.Parameter]) -> None:
        for name, weight in weights.items():
            path, _, last = name.rpartition(".")
            self.network.get_submodule(path)._parameters[last] = weight


def streamed(checkpoint: Tensors, cls: Any, config: Any, dtype: torch.dtype) -> Streamed:
    """The network of a checkpoint, which reads its weights as it runs.

    Args:
        checkpoint: Config and weights.
        cls: The class of transformers that the config names.
        config: As an object of transformers.
        dtype: In which the weights are held while they are.

    Raises:
        NotACheckpoint: If the tensors do not fit, or this version of transformers loads otherwise.
    """
    free_at_once()
    with quiet_transformers(), as_a_sentence(cls.__name__), _without_weights(dtype):
        config.dtype, config._experts_implementation = dtype, "eager"  # the grouped one knows no float64
        network = cls(config).eval()
        network.tie_weights()
    for module in network.modules():
        if getattr(getattr(module, "config", None), "use_cache", False):
            module.config.use_cache = False  # keys and values of every layer
    try:
        found = Streamed(network, checkpoint, dtype)
        found.arrange()
    except (ImportError, TypeError, AttributeError) as error:
        raise NotACheckpoint(f"This version of transformers cannot load a network block by block ({error}).") from error
    return found


def largest_group(checkpoint: Tensors) -> int:
    """How many weights the largest group has, but for tables."""
    groups = [group.names for group in _groups(checkpoint) if not _large(checkpoint, group.names)]
    return max((sum(math.prod(checkpoint.shape(name)) for name in names) for names in groups), default=0)


def _large(checkpoint: Tensors, names: tuple[str, ...]) -> bool:
    """Whether a group is one matrix of more than a slice."""
    shapes = [checkpoint.shape(name) for name in names]
    return len(shapes) == 1 and len(shapes[0]) == 2 and math.prod(shapes[0]) > _SLICE


def _groups(checkpoint: Tensors) -> list[_Group]:
    """A numbered block; around the blocks a large matrix, or an outermost module, which may use what its parts hold."""
    blocks = {name: match[0] for name in checkpoint if (match := re.match(r"(?:.*?\.)??\d+\.", name))}
    starts = set(blocks.values())
    found: dict[str, list[str]] = {}
    for name in (name for name in checkpoint if name != NUMBERS):
        parents = [name[: place.start()] for place in re.finditer(r"\.", name)]
        alone = (path for path in parents if not any(start.startswith(f"{path}.") for start in starts))
        table = name not in blocks and _large(checkpoint, (name,))
        found.setdefault(name if table else blocks.get(name) or next(alone, ""), []).append(name)
    return [_Group(tuple(names)) for names in found.values()]


class _Sliced(TorchFunctionMode):
    """Looks rows up in tables that are not there, and multiplies with them."""

    def __init__(self, tables: Mapping[int, str], read: Callable[[str], Tensor]) -> None:
        super().__init__()
        self._tables, self._read = tables, read

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in (nn.functional.embedding, nn.functional.linear):
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | dict(kwargs or {})
        x, weight = given["input"], given["weight"]
        if (name := self._tables.get(id(weight))) is None:
            return func(*args, **(kwargs or {}))
        weight.detach()  # tells whoever watches that it is in use
        table = self._read(name)
        if func is nn.functional.embedding:
            rows, places = x.unique(return_inverse=True)
            return table.index_select(0, rows).to(weight.dtype)[places]
        found = x.new_empty(*x.shape[:-1], len(table))
        step = max(1, _SLICE // table.shape[1])
        for start in range(0, len(table), step):
            part = slice(start, start + step)
            found[..., part] = func(x, table[part].to(weight.dtype))
        return found if given.get("bias") is None else found.add_(given["bias"])


def _common(paths: list[str]) -> str:
    """The path of the innermost module that holds all of these, which are sorted."""
    first, last = (path.split(".") for path in (paths[0], paths[-1]))
    return ".".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _collected() -> int:
    """How many states of parts transformers has put aside so far, for the outputs of the network that runs."""
    from transformers.utils.output_capturing import _active_collector

    return sum(map(len, (_active_collector.get() or {}).values()))


@contextmanager
def _without_weights(dtype: torch.dtype) -> Iterator[None]:
    """While it is active, modules are made with parameters on the meta device and with their buffers as they are."""
    register, usual = nn.Module.register_parameter, torch.get_default_dtype()

    def bare(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        register(module, name, weight)
        if weight is not None and not weight.is_meta:  # a tied one is there already
            module._parameters[name] = nn.Parameter(weight.to("meta"), requires_grad=False)

    nn.Module.register_parameter = bare  # type: ignore[method-assign, assignment]
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
        torch.set_default_dtype(usual)
