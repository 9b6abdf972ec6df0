"""Networks built once and given weights afterwards: from_pretrained takes a hundred times as long as assigning does.

The first checkpoint of a kind goes through transformers (or open_clip), with all its checks. What it does depends on
the config and on the names, shapes and dtypes of the tensors alone, so for the next one the network is copied without
its weights and each parameter is taken from the checkpoint directly. Libraries rename, stack and split tensors on the
way in; which elements of which tensors a parameter is made of is learned by loading the numbers 0, 1, 2, … once.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from redteam.checkpoint.tensors import Held, Tensors

Loader = Callable[["Tensors", torch.dtype | None], nn.Module]
"""Builds a network the slow way and checks that the tensors fit it."""

_KEPT = 64  # skeletons, which hold no weights
_LARGEST = 2**25  # weights beyond which copying them takes the time, and learning where they go the memory
_EXACT = 2**24  # integers that float32 holds exactly


@dataclass(frozen=True)
class Source:
    """Where the elements of a parameter or buffer come from.

    Attributes:
        names: Tensors of the checkpoint.
        index: int64, of the parameter's shape: positions in these tensors, flattened and concatenated; `None` where it
            is one tensor as it is.
    """

    names: tuple[str, ...]
    index: Tensor | None = None

    def take(self, tensors: Mapping[str, Tensor], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """The parameter's value, in memory of its own."""
        if self.index is None:
            tensor = tensors[self.names[0]].reshape(shape)
            return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
        flat = torch.cat([tensors[name].reshape(-1) for name in self.names])
        return flat[self.index].to(dtype)


@dataclass(frozen=True)
class Skeleton:
    """A network without weights, and where they come from.

    Attributes:
        network: In evaluation mode, its weights on the meta device; other buffers as they are.
        sources: Name of a parameter or persistent buffer → what it is made of, tied ones under their first name.
    """

    network: nn.Module
    sources: Mapping[str, Source]

    def with_weights(self, checkpoint: Tensors) -> nn.Module:
        """A network of its own, with the checkpoint's weights, in the dtypes that the loader chose."""
        tensors = dict(checkpoint.items())
        memo: dict[int, Any] = {}
        for name, old in _weights(self.network).items():
            new = self.sources[name].take(tensors, old.shape, old.dtype)
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
                new.__dict__.update(old.__dict__)
            memo[id(old)] = new
        return _copied(self.network, memo)


def with_weights(checkpoint: Tensors, dtype: torch.dtype | None, load: Loader) -> nn.Module:
    """What `load` gives, at a fraction of its cost from the second checkpoint of a kind on.

    Args:
        checkpoint: Config and weights.
        dtype: As `load` takes it.
        load: Used for the first of a kind, and where what it does may depend on values.
    """
    if checkpoint.weights > _LARGEST:
        return load(checkpoint, dtype)
    kind = (load.__name__, str(dtype), _digest(checkpoint, dtypes=True))
    if kind not in _SKELETONS:
        network = load(checkpoint, dtype)
        _keep(_SKELETONS, kind, _skeleton(network, checkpoint, load))
        return network
    skeleton = _SKELETONS[kind]
    return load(checkpoint, dtype) if skeleton is None else skeleton.with_weights(checkpoint)


def sources(checkpoint: Tensors, load: Loader) -> dict[str, Source]:
    """Name of a parameter or persistent buffer → what it is made of, where it is taken from tensors as they are.

    Raises:
        NotACheckpoint: As `load` does.
    """
    kind = (load.__name__, _digest(checkpoint, dtypes=False))
    if kind not in _SOURCES:
        _keep(_SOURCES, kind, _learned(checkpoint, load))
    return _SOURCES[kind]


def tensors_of(network: nn.Module, checkpoint: Tensors, load: Loader) -> dict[str, Tensor]:
    """The weights of a network that `load` gave of a checkpoint, under the names and in the shapes found there.

    What the network does not hold is the checkpoint's.
    """
    held = _weights(network)
    found = dict(checkpoint.items())
    for place, source in sources(checkpoint, load).items():
        value = held[place].detach()
        flat = torch.cat([found[name].reshape(-1).to(value.device, value.dtype) for name in source.names])
        flat[slice(None) if source.index is None else source.index.reshape(-1)] = value.reshape(-1)
        sizes = [found[name].numel() for name in source.names]
        for name, part in zip(source.names, flat.split(sizes), strict=True):
            found[name] = part.reshape(found[name].shape)
    return {name: tensor.to(checkpoint.dtype(name), copy=True) for name, tensor in found.items()}


_SKELETONS: OrderedDict[Any, Skeleton | None] = OrderedDict()
_SOURCES: OrderedDict[Any, dict[str, Source]] = OrderedDict()


def _keep(cache: OrderedDict[Any, Any], kind: Any, value: Any) -> None:
    cache[kind] = value
    while len(cache) > _KEPT:
        cache.popitem(last=False)


def _digest(checkpoint: Tensors, *, dtypes: bool) -> str:
    """Of all that loading depends on beside values."""
    outline = [
        (name, list(checkpoint.shape(name)), str(checkpoint.dtype(name)) if dtypes else "")
        for name in sorted(checkpoint)
    ]
    text = json.dumps([dict(checkpoint.config), outline], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _learned(checkpoint: Tensors, load: Loader) -> dict[str, Source]:
    """Loads numbered elements, and reads off where they went."""
    outline = {name: checkpoint.shape(name) for name in checkpoint}
    starts, total = {}, 0
    for name, shape in outline.items():
        starts[name], total = total, total + math.prod(shape)
    dtype = torch.float32 if total <= _EXACT else torch.float64
    numbered = {
        name: torch.arange(start, start + math.prod(outline[name]), dtype=dtype).reshape(outline[name])
        for name, start in starts.items()
    }
    names, bounds = list(starts), torch.tensor(list(starts.values()), dtype=torch.int64)
    network = load(Held(numbered, checkpoint.config), dtype)
    found = {}
    for place, held in _weights(network).items():
        numbers = held.detach().reshape(-1)
        if not len(numbers):
            continue
        flat = numbers.to(torch.int64)
        if not torch.equal(flat.to(numbers.dtype), numbers) or (not 0 <= flat.min() <= flat.max() < total):
            continue  # computed, not taken
        owner = torch.searchsorted(bounds, flat, right=True) - 1
        owners = owner.unique().tolist()
        used = tuple(names[k] for k in owners)
        whole = len(used) == 1 and len(flat) == math.prod(outline[used[0]])
        if whole and torch.equal(flat, torch.arange(starts[used[0]], starts[used[0]] + len(flat))):
            found[place] = Source(used)
            continue
        moved, position = torch.zeros(len(names), dtype=torch.int64), 0
        for k in owners:
            moved[k], position = starts[names[k]] - position, position + math.prod(outline[names[k]])
        found[place] = Source(used, (flat - moved[owner]).reshape(held.shape))
    return found


def _skeleton(network: nn.Module, checkpoint: Tensors, load: Loader) -> Skeleton | None:
    """The network without its weights; `None` if they may not come from the same places in another checkpoint."""
    found = sources(checkpoint, load)
    tensors = dict(checkpoint.items())
    memo: dict[int, Any] = {}
    for name, held in _weights(network).items():
        if name not in found:
            return None
        taken = found[name].take(tensors, held.shape, held.dtype)
        same = taken.stride() == held.stride() and torch.equal(taken.nan_to_num(), held.detach().nan_to_num())
        if not same:  # the loader computes something
            return None
        bare = torch.empty_like(held, device="meta")
        if isinstance(held, nn.Parameter):
            bare = nn.Parameter(bare, requires_grad=held.requires_grad)
            bare.__dict__.update(held.__dict__)
        memo[id(held)] = bare
    if _ties_by_value(network, found):
        return None
    return Skeleton(_copied(network, memo), {name: found[name] for name in _weights(network)})


def _ties_by_value(network: nn.Module, found: Mapping[str, Source]) -> bool:
    """Whether transformers ties two parameters that the checkpoint has both of only if their values are equal."""
    expanded = getattr(network, "get_expanded_tied_weights_keys", None)
    if expanded is None:
        return False
    return any(one in found and two in found for one, two in expanded(all_submodels=True).items())


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, tied ones once, under their first name."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, module in network.named_modules():
        held = [*module._parameters.items()]
        held += [(n, b) for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set]
        for name, tensor in held:
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                found[f"{path}.{name}" if path else name] = tensor
    return found


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """As `copy.deepcopy`, at a tenth of its cost: modules are dictionaries, most of which hold constants.

    Args:
        module: What is copied.
        memo: As of `copy.deepcopy`; tensors that stand in for those of the module.
    """
    if id(module) in memo:
        return memo[id(module)]  # type: ignore[no-any-return]
    if hasattr(type(module), "__deepcopy__"):
        return copy.deepcopy(module, memo)
    made = object.__new__(type(module))
    memo[id(module)] = made
    values: dict[str, Any] = {}
    for name, value in module.__dict__.items():
        if value is None or type(value) in _CONSTANT:
            values[name] = value
        elif name == "_modules":
            values[name] = {n: None if child is None else _copied(child, memo) for n, child in value.items()}
        elif type(value) in _EMPTY and not value:
            values[name] = type(value)()
        else:
            values[name] = copy.deepcopy(value, memo)
    made.__dict__ = values
    return made


_CONSTANT = {bool, int, float, str, torch.dtype, torch.device, torch.Size}
_EMPTY = {dict, OrderedDict, set, list}
