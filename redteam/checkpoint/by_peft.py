"""Adapters that are more than plain LoRA, merged by PEFT: a module at a time, when one of its tensors is read.

The network is built without weights. The module that is asked for gets its weights from the base and stands alone
under its own path; PEFT puts the adapter there and merges it. Experts that the base stores one by one and the network
holds in one tensor get the change that PEFT computes, taken apart as transformers takes them apart when it saves.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from redteam.checkpoint.adapter_config import listed
from redteam.checkpoint.adapters import UNDER, Adapted, core
from redteam.checkpoint.libraries import quiet_transformers
from redteam.checkpoint.modules import bare_network, plain_parameters
from redteam.checkpoint.peft_config import config_for, single_parameters, start_of, turned_round
from redteam.checkpoint.plain_lora import BeyondPlain, Merged
from redteam.checkpoint.safetensors_io import shown
from redteam.checkpoint.tensors import Tensors, is_finite
from redteam.errors import NotACheckpoint

_PREFIX = "base_model.model."
_TOKENS = "token_adapter"


def merged_adapter(path: Path, base: Tensors | None) -> Adapted:
    """A base with an adapter merged into it, lazily, in the base's dtypes.

    Args:
        path: The adapter's folder, or the weights in it.
        base: What the adapter was trained on.

    Raises:
        NotACheckpoint: If there is no base, the adapter is damaged, does not fit the base, or cannot be merged.
    """
    try:
        merged: Adapted = plain_adapter(path, base)
    except BeyondPlain as beyond:
        if find_spec("peft") is None:
            raise NotACheckpoint(f"{beyond}; PEFT merges such adapters: pip install 'merge-redteam[peft]'.") from None
        merged = ByPeft(path, base, str(beyond))
    _require_tied(merged)
    return merged


def plain_adapter(path: Path, base: Tensors | None) -> Merged:
    """As `merged_adapter`, of a plain LoRA.

    Raises:
        BeyondPlain: If the adapter is more than that.
        NotACheckpoint: As `merged_adapter`.
    """

    def places() -> dict[str, str]:
        try:
            return {} if base is None else {place: name for name, place in plain_parameters(base).items()}
        except NotACheckpoint:
            return {}

    return Merged(path, base, places)


def _require_tied(merged: Adapted) -> None:
    """Refuses an adapter of the embedding alone where the head is tied to it, and would change with it in a merge.

    Raises:
        NotACheckpoint: In this case.
    """
    if not (table := merged.changed_embedding()):
        return
    try:
        network: Any = bare_network(merged.settings())
    except NotACheckpoint:
        tied = True
    else:
        head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
        tied = head is not None and head.weight is embedding.weight
    if tied:
        raise NotACheckpoint(
            f"The adapter in {merged.where} changes {shown(table)} as an embedding alone, and its base ties the head "
            "to it, so that a merge would change the head as well; expected an adapter trained with "
            "ensure_weight_tying, or a base that stores its head and is not tied (tie_word_embeddings)."
        )


@dataclass
class _Layer:
    """A module that the adapter changes.

    Attributes:
        stored: What PEFT calls a part of the adapter, below the module's path → the stored tensor.
        parameters: The module's parameters that change, each with the tensors of the base that it is made of.
        apart: Whether the base holds parts of the parameters, not the parameters.
    """

    stored: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    apart: bool = False


class ByPeft(Adapted):
    """A base with an adapter that PEFT merges.

    Args:
        path: The adapter's folder, or the weights in it.
        base: What the adapter was trained on.
        beyond: Why it is not a plain LoRA.

    Raises:
        NotACheckpoint: If PEFT cannot merge it, or it does not fit the base; what PEFT makes of the tensors of a module
            is known when one of them is read.
    """

    def __init__(self, path: Path, base: Tensors | None, beyond: str) -> None:
        super().__init__(path, base)
        self._beyond = beyond
        self._latest: tuple[str, dict[str, Tensor]] = ("", {})
        with self._told():
            self._starts = (start_of(self._said), _TOKENS)
            parts = self._parts()
            self._network = bare_network(self.settings())
            self._layers = self._sorted(parts)
            for module, layer in self._layers.items():
                self._find(module, layer)
        self._places = {
            name: module
            for module, layer in self._layers.items()
            for names in layer.parameters.values()
            for name in names
        }
        self._retied |= {name for name, module in self._places.items() if self._is_of_tokens(module)}
        if self._said.get("target_parameters") and _by_unsloth(self._said):
            self.remarks.append(
                "Unsloth trained it, which until September 2026 took lora_B of experts in one tensor in another order "
                "than PEFT, by which it is read here; see whether the result does what the adapter did."
            )
        self._require_all(name.removesuffix(".weight") for name in self._places)

    def load(self, name: str) -> Tensor:
        return self._looked_up(name).clone() if name in self._places else super().load(name)

    def part(self, name: str, place: int) -> Tensor:
        return self._looked_up(name)[place : place + 1].clone() if name in self._places else super().part(name, place)

    def _looked_up(self, name: str) -> Tensor:
        module, (latest, found) = self._places[name], self._latest
        if latest != module:
            found, self._latest = {}, ("", {})  # the one before is not kept meanwhile
            with self._told():
                found = self._merged(module)
            self._latest = (module, found)
        return found[name]

    def updated(self) -> set[str]:
        return set(self._places)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what PEFT raises into one sentence, and keeps its warnings quiet."""
        try:
            with warnings.catch_warnings(), quiet_transformers():
                warnings.simplefilter("ignore")
                yield
        except NotACheckpoint as error:
            raise NotACheckpoint(f"{self._beyond}, and cannot be merged: {error}") from error
        except Exception as error:
            why = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
            raise NotACheckpoint(f"{self._beyond}, and PEFT cannot merge it ({why}).") from error

    def _parts(self) -> dict[str, str]:
        """Stored tensors that are parts of the adapter, by their names in PEFT; notes those that replace others."""
        parts: dict[str, str] = {}
        for stored in self._files.names():
            name = stored.removeprefix(_PREFIX)
            if any(word.startswith(self._starts) for word in name.split(".")[1:]):
                parts[name] = stored
            else:
                self._replace(re.sub(r"\.modules_to_save\.(?:default\.)?", ".", name.replace(UNDER, ".")), stored)
        if not parts:
            raise NotACheckpoint("it holds nothing of an adapter.")
        return parts

    def _sorted(self, parts: dict[str, str]) -> dict[str, _Layer]:
        """The parts of the adapter, by the modules of the network that they are for."""
        there = {name for name, _ in self._network.named_modules()}
        layers: dict[str, _Layer] = {}
        unknown = set()
        for name, stored in parts.items():
            words = name.split(".")
            cut = next(k for k, word in enumerate(words) if k and word.startswith(self._starts))
            module = ".".join(words[:cut]).replace(".base_layer", "")
            nested = [word for word in words[:cut] if word == "base_layer"]
            found = _located(module, there)
            if found is None:
                unknown.add(module)
            else:
                layers.setdefault(found, _Layer()).stored[".".join((*nested, *words[cut:]))] = stored
        if unknown:
            raise NotACheckpoint(f"the network has no {listed(sorted(unknown))}.")
        wanted = [name for name, one in self._network.named_modules() if single_parameters(self._said, name, one)]
        if turned := [one for n in wanted for one in turned_round(self._said, n, self._network.get_submodule(n))]:
            raise NotACheckpoint(
                "it was trained by a PEFT before 0.19, which took inputs and outputs of experts in one tensor the "
                f"other way round, and {listed(turned)} have as many of either, so that its factors fit both ways; "
                "merge it with the version that made it, or train it with a newer one."
            )
        if missing := [name for name in wanted if name not in layers]:
            count = f"{len(wanted) - len(missing)} of {len(wanted)}"
            raise NotACheckpoint(
                f"it has weights for the parameters of {count} modules, and none for {listed(missing)}."
            )
        if self._said.get("trainable_token_indices") and not any(_TOKENS in name.split(".") for name in parts):
            raise NotACheckpoint("its config speaks of single tokens, and it has no weights for any.")
        return layers

    def _find(self, module: str, layer: _Layer) -> None:
        """Finds which parameters of a module change, and the tensors of the base that they are made of."""
        from transformers.core_model_loading import revert_weight_conversion

        below = self._network.get_submodule(module)
        own = [name for name, _ in below.named_parameters(recurse=False)]
        single = [name.removeprefix(f"{module}.") for name in single_parameters(self._said, module, below)]
        for name in single or own:
            place, shape = f"{module}.{name}", tuple(getattr(below, name).shape)
            if place in self._base:
                layer.parameters[name] = (place,)
                continue
            blank = torch.empty(shape, device="meta")
            saved = revert_weight_conversion(self._network, {place: blank})
            layer.parameters[name] = tuple(self._target(one) for one in saved)
            if [id(one) for one in saved.values()] != [id(blank)]:
                layer.apart = True
                if not single:
                    raise NotACheckpoint(f"its base stores {shown(place)} in another layout.")
        for name, found in layer.parameters.items():
            shape = tuple(getattr(below, name).shape)
            if not layer.apart and found[0] in self._base and self.shape(found[0]) != shape:
                raise NotACheckpoint(f"{shown(found[0])} is {self.shape(found[0])}, and {shape} in the network.")

    def _is_of_tokens(self, module: str) -> bool:
        """Whether single tokens of a module are replaced, which PEFT does to a tied head as well."""
        return any("trainable_tokens_" in part for part in self._layers[module].stored)

    def _merged(self, module: str) -> dict[str, Tensor]:
        """The tensors of the base that a module is made of, after the merge, in the base's dtypes."""
        from transformers.core_model_loading import revert_weight_conversion

        layer = self._layers[module]
        names = [name for found in layer.parameters.values() for name in found]
        dtypes = {name: self._base.dtype(name) for name in names}
        if not all(dtype.is_floating_point and dtype.itemsize >= 2 for dtype in dtypes.values()):
            raise NotACheckpoint(f"{listed(names)}: the base is quantised there.")
        wide = torch.float64 if torch.float64 in dtypes.values() else torch.float32
        below = copy.deepcopy(self._network.get_submodule(module))
        for parameter, found in layer.parameters.items():
            shape = getattr(below, parameter).shape
            value = torch.zeros(shape, dtype=wide) if layer.apart else super().load(found[0]).to(wide)
            setattr(below, parameter, nn.Parameter(value, requires_grad=False))
        for name, beside in list(below.named_parameters(recurse=False)):  # PEFT moves the module, and reads none of it
            if beside.is_meta:
                blank = torch.zeros((), dtype=wide).expand(beside.shape)
                setattr(below, name, nn.Parameter(blank, requires_grad=False))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            below = self._by_peft(module, below)
        merged: dict[str, Tensor] = {}
        for parameter, found in layer.parameters.items():
            value = getattr(below, parameter).data
            if not is_finite(value):
                raise NotACheckpoint(f"it makes {shown(f'{module}.{parameter}')} infinite or NaN.")
            if not layer.apart:
                merged[found[0]] = value.to(dtypes[found[0]])
                continue
            changes = revert_weight_conversion(self._network, {f"{module}.{parameter}": value})
            for name, change in zip(found, changes.values(), strict=True):
                merged[name] = (super().load(name).to(wide) + change).to(dtypes[name])
        return merged

    def _by_peft(self, module: str, below: nn.Module) -> nn.Module:
        """A module after PEFT has merged the adapter into it, alone under its own path."""
        from peft import PeftModel
        from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

        config = config_for(self._said, module, below, tokens=self._is_of_tokens(module))
        root = node = nn.Module()
        *above, last = module.split(".")
        for name in above:
            node.add_module(name, nn.Module())
            node = node.get_submodule(name)
        node.add_module(last, below)
        stored = {part.removeprefix(f"{_TOKENS}."): place for part, place in self._layers[module].stored.items()}
        weights = {f"{_PREFIX}{module}.{part}": self._files.load(place) for part, place in stored.items()}
        model = PeftModel(root, config)
        for name, expected in get_peft_model_state_dict(model, save_embedding_layers=False).items():
            if name in weights and weights[name].shape != expected.shape:
                sizes = f"{list(weights[name].shape)} where {list(expected.shape)} fits"
                raise NotACheckpoint(f"its {shown(name.removeprefix(_PREFIX))} is {sizes} the base and its config.")
        outcome = set_peft_model_state_dict(model, weights)
        starts = (*self._starts, "trainable_tokens_")
        if missing := [n for n in outcome.missing_keys if any(word.startswith(starts) for word in n.split("."))]:
            raise NotACheckpoint(f"it has no weights for {listed(missing)}.")
        if strange := outcome.unexpected_keys:
            raise NotACheckpoint(f"it has weights that its config does not speak of, {listed(strange)}.")
        merged: nn.Module = model.merge_and_unload(safe_merge=True).get_submodule(module)
        return merged


def _by_unsloth(said: Mapping[str, Any]) -> bool:
    mapping = said.get("auto_mapping")
    return isinstance(mapping, Mapping) and bool(mapping.get("unsloth_fixed"))


def _located(module: str, there: set[str]) -> str | None:
    """A module of the network, of which an adapter may know another prefix."""
    if module in there or (shorter := module.partition(".")[2]) in there:
        return module if module in there else shorter
    alike = [name for name in there if core(name) == core(module)]
    found = alike or [name for name in there if name.partition(".")[2] == module]
    return found[0] if len(found) == 1 else None
