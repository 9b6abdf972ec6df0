"""Names by meaning: which tensors of two files are one, whatever release named, prefixed or stacked them.

transformers renames and stacks tensors as it loads them. What it would do is asked of it with a network that has no
weights, from names and shapes alone, so that it costs the same for any size.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from redteam.checkpoint.known import NETWORK, known_network, without_weights
from redteam.checkpoint.tensors import NUMBERS, Tensors
from redteam.errors import NotACheckpoint

_REMNANT = re.compile(
    r"(^|\.)((attn|attention)\.(attention\.)?(masked_)?bias|(rotary|rotary_emb)\.inv_freq|position_ids)$"
)


def is_remnant(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a constant that older releases stored: a causal mask, rotary frequencies, positions."""
    return _REMNANT.search(name) is not None and (not name.endswith("bias") or len(shape) in (0, 4))


@dataclass(frozen=True)
class Place:
    """Where a tensor goes in a network.

    Attributes:
        parameter: The parameter or buffer.
        part: Where that is made of several tensors, the pattern of the library's mapping that this one fits.
        numbers: The numbers in its name (layer, expert), in that case.
    """

    parameter: str
    part: str = ""
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A part of a tensor in a file: `tensor[index, start:stop]`."""

    file: str
    index: int
    start: int
    stop: int


class Frame:
    """A network without weights, under whose library's names the tensors of several files are compared.

    Args:
        network: On the meta device.
        declared: Whether it is of the class that the config names.
    """

    def __init__(self, network: Any, *, declared: bool) -> None:
        self.declared, self._network = declared, network
        self._shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    def places(self, names: Iterable[str]) -> dict[str, Place]:
        """Name of a tensor → where transformers puts it; those that it has no use for are missing."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        mapping = get_model_conversion_mapping(self._network)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        prefix, state = self._network.base_model_prefix, self._network.state_dict()
        found = {}
        for name in sorted(names, key=dot_natural_key):
            place, part = rename_source_key(name, renamings, converters, prefix, state)
            if place not in state and name in state:
                place, part = rename_source_key(name, [], [], prefix, state)
            if place in state:
                found[name] = Place(place) if part is None else Place(place, part, _numbers(name))
        return found

    @cached_property
    def saved(self) -> dict[Place, tuple[str, tuple[int, ...]]]:
        """Place → the name by which transformers saves what is there, and its shape; of tied places each."""
        from transformers.core_model_loading import revert_weight_conversion

        state = revert_weight_conversion(self._network, self._network.state_dict())
        return {place: (name, tuple(state[name].shape)) for name, place in self.places(state).items()}

    @cached_property
    def twins(self) -> dict[str, tuple[str, ...]]:
        """Parameter → all that are one with it, itself included, the one that is saved first."""
        return {name: names for name, names in tied(self._network).items() if len(names) > 1}

    @cached_property
    def token_tables(self) -> tuple[set[int], dict[str, int]]:
        """The sizes of the vocabularies, and parameter or buffer → its dimension that has an entry for each token."""
        from torch import nn

        named: list[Any] = []
        for part in self._network.modules():
            for kind in ("get_input_embeddings", "get_output_embeddings"):
                with suppress(NotImplementedError, AttributeError):
                    named.append(getattr(part, kind)())
        sizes = {one.num_embeddings for one in named if isinstance(one, nn.Embedding)}
        most = max(sizes, default=0)
        owners = [
            x for x in named if isinstance(x, nn.Embedding) or (isinstance(x, nn.Linear) and x.out_features <= most)
        ]
        axes = {}
        for path, part in self._network.named_modules(remove_duplicate=False):
            around = [part.get_submodule(name) for name, _ in part.named_children()]
            head = next((one for one in around if one in owners and isinstance(one, nn.Linear)), None)
            for name in ("weight", "bias") if part in owners else ():
                if getattr(part, name, None) is not None:
                    axes[f"{path}.{name}"] = 0
            if head is not None and self._shapes.get(f"{path}.bias") == (head.out_features,):
                axes[f"{path}.bias"] = 0  # beside a head that has none of its own, as in BERT
            if head is not None and self._shapes.get(name := f"{path}.final_logits_bias".lstrip(".")):
                axes[name] = len(self._shapes[name]) - 1
        return sizes, axes

    @cached_property
    def stacked(self) -> dict[str, dict[tuple[int, int], str]]:
        """Parameter that stacks others → (place in the first dimension, which of those side by side) → saved name."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

        order: dict[str, int] = {}
        for entry in get_model_conversion_mapping(self._network):
            if not isinstance(entry, WeightConverter):
                continue
            kinds = [(type(step), getattr(step, "dim", None)) for step in entry.operations]
            if kinds in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
                order |= {pattern: k for k, pattern in enumerate(entry.source_patterns)}
        found: dict[str, dict[tuple[int, int], str]] = defaultdict(dict)
        for place, (name, _) in self.saved.items():
            if place.part in order:
                found[place.parameter][place.numbers[-1], order[place.part]] = name
        return found

    def strangers(self, checkpoint: Tensors) -> set[str]:
        """The tensors that transformers has no use for in this network, other than what older releases stored."""
        known = {NUMBERS, *self.places(checkpoint)}
        return {name for name in checkpoint if name not in known and not is_remnant(name, checkpoint.shape(name))}

    def missing(self, checkpoint: Tensors) -> set[str]:
        """The parameters of the network that nothing in a checkpoint fills."""
        filled = {place.parameter for place in self.places(checkpoint).values()}
        return {name for name in self._shapes if not filled & {name, *self.twins.get(name, ())}}

    def pieces(self, name: str, place: Place, shape: tuple[int, ...]) -> dict[str, Piece]:
        """Saved name → where it lies in a tensor that a file holds stacked as the network does; else nothing."""
        parts = self.stacked.get(place.parameter, {})
        if place.part or shape != self._shapes[place.parameter]:
            return {}
        sizes = dict(self.saved.values())
        found, stop = {}, 0
        for (index, side), saved in sorted(parts.items()):
            start = stop if side else 0
            stop = start + sizes[saved][0]
            found[saved] = Piece(name, index, start, stop)
        return found


def tied(network: Any) -> dict[str, tuple[str, ...]]:
    """Parameter → all names of that parameter, itself included, the one that is saved first."""
    same = defaultdict(list)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        same[id(parameter)].append(name)
    return {name: tuple(names) for names in same.values() for name in names}


def frame_of(checkpoint: Tensors) -> Frame | None:
    """The network that transformers builds for a checkpoint; None where it knows none, or too few of its tensors.

    The config's, or where tensors are left over, the one of the same file of transformers that has a use for them all,
    as for a BERT whose config names one of the two heads that it was trained with.
    """
    text = json.dumps(dict(checkpoint.config), sort_keys=True, default=repr)
    if NETWORK in checkpoint.config:
        return None
    try:
        frame = _frame(text, "")
        left = frame.strangers(checkpoint)
    except (NotACheckpoint, ImportError, AttributeError):
        return None
    for name in _siblings(text) if left else ():
        with suppress(NotACheckpoint):
            other = _frame(text, name)
            if not other.strangers(checkpoint) | other.missing(checkpoint):
                return other
    return frame


def class_for(checkpoint: Tensors) -> str:
    """The class of transformers that has a use for all tensors where the config's has not; empty if there is none."""
    frame = frame_of(checkpoint)
    return "" if frame is None or frame.declared else type(frame._network).__name__


@lru_cache(maxsize=32)
def _frame(config: str, name: str) -> Frame:
    cls, settings = known_network(json.loads(config))
    if name:
        cls = next(other for other in _classes(cls) if other.__name__ == name)
    return Frame(without_weights(cls, settings), declared=not name)


def _siblings(config: str) -> Iterator[str]:
    return (cls.__name__ for cls in _classes(known_network(json.loads(config))[0]))


def _classes(cls: Any) -> list[Any]:
    """The networks of the same file of transformers with the same config."""
    import sys

    from transformers import PreTrainedModel

    module = vars(sys.modules[cls.__module__]).values()
    networks: list[Any] = [other for other in module if isinstance(other, type) and issubclass(other, PreTrainedModel)]
    return [
        n for n in networks if n.__module__ == cls.__module__ and n.config_class is cls.config_class and n is not cls
    ]


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(word) for word in name.split(".") if word.isdigit())
