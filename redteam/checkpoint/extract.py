"""A model as an adapter of its base: of each linear layer the leading singular vectors of what changed, for PEFT.

The split is that of mergekit-extract-lora: A = √S Vᵀ, B = U √S, a scale of 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redteam.checkpoint.adapters import CONFIG, WEIGHTS
from redteam.checkpoint.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.companion_files import add_card
from redteam.checkpoint.modules import bare_network, plain_parameters
from redteam.checkpoint.safetensors_io import write_json, write_whole
from redteam.checkpoint.singular import cut_out
from redteam.checkpoint.tensors import is_finite
from redteam.errors import Inapplicable
from redteam.files import new_folder

Progress = Callable[[int, int, str], None]


@dataclass
class Extraction:
    """What a model changes in its base, and the part of it that an adapter can hold; a tensor in memory at a time.

    Attributes:
        model: The model.
        base: Its base, under the same names.
        rank: The most that an adapter of a layer has.
        progress: Called as `progress(done, total, name)` after each tensor that is looked at, and that is written.
        layers: Path of a linear layer that changed → its weight.
        squares: Name of a tensor → ‖Δ‖², where it is not 0.
        kept: Name of a weight → the square of what its adapter is, once that was written.
        turned: Whether the layers hold their weights the other way round, `[in, out]`.

    Raises:
        NotACheckpoint: If transformers knows no such network.
        Inapplicable: If no linear layer changed.
    """

    model: Checkpoint
    base: Checkpoint
    rank: int
    progress: Progress = field(default=lambda done, total, name: None, repr=False)
    layers: dict[str, str] = field(init=False)
    squares: dict[str, float] = field(init=False)
    kept: dict[str, float] = field(default_factory=dict, init=False)
    turned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        found, self.turned = _linear(self.model)
        both = shared_tensors(self.model, self.base)
        self.squares = {}
        for done, name in enumerate(both, 1):
            if square := self._moved(name):
                self.squares[name] = square
            self.progress(done, len(both), name)
        self.layers = {path: name for path, name in sorted(found.items()) if name in self.squares}
        if not self.layers:
            raise Inapplicable(
                "The model equals its base in every linear layer, so that there is nothing to make an adapter of; "
                "check that MODEL and --base are what they should be."
            )

    @property
    def share(self) -> float:
        """How much of ‖Δ‖² the adapter holds, over all tensors that both have."""
        return sum(self.kept.values()) / sum(self.squares.values())

    @property
    def left_out(self) -> list[str]:
        """The tensors that changed and are in no linear layer: norms, biases, tables of tokens, convolutions."""
        return sorted(self.squares.keys() - set(self.layers.values()))

    def config(self, base: str) -> dict[str, Any]:
        """What `adapter_config.json` holds.

        Args:
            base: What the base is called in it.
        """
        ranks = {path: self._rank(name) for path, name in self.layers.items()}
        most = max(ranks.values())
        lower = {path: rank for path, rank in ranks.items() if rank != most}
        return {
            "peft_type": "LORA",
            "base_model_name_or_path": base,
            "r": most,
            "lora_alpha": most,
            "rank_pattern": lower,
            "alpha_pattern": lower,
            "target_modules": list(self.layers),
            "fan_in_fan_out": self.turned,
            "lora_dropout": 0.0,
            "bias": "none",
            "inference_mode": True,
        }

    def write(self, out: Path, *, base: str, force: bool, card: Callable[[], str]) -> None:
        """Writes the adapter's folder, whole or not at all.

        Args:
            out: The folder.
            base: What the base is called in the config.
            force: Whether an adapter or a model that is there is replaced.
            card: Gives README.md once everything else is written.

        Raises:
            UnwritableOutput: If it cannot be written.
        """
        stored = self._stored()
        with new_folder(out, force=force) as folder:
            write_whole(folder / WEIGHTS, stored, self.progress)
            write_json(folder / CONFIG, self.config(base))
            add_card(card(), folder)

    def _moved(self, name: str) -> float:
        if not self.base.dtype(name).is_floating_point or not self.model.dtype(name).is_floating_point:
            return 0.0
        if not is_finite(self.base[name]):  # a mask, of which no difference is a number
            return 0.0
        return float(self._delta(name).square().sum())

    def _delta(self, name: str) -> Tensor:
        return self.model[name].to(torch.float64) - self.base[name].to(torch.float64)

    def _rank(self, name: str) -> int:
        return min(self.rank, *self.base.shape(name))

    def _stored(self) -> Checkpoint:
        """The factors in float32, by PEFT's names; both of a layer are computed together."""
        outline: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        places: dict[str, tuple[str, str]] = {}
        for path, name in self.layers.items():
            rows, columns = self.base.shape(name)[::-1] if self.turned else self.base.shape(name)
            for part, shape in (("A", (self._rank(name), columns)), ("B", (rows, self._rank(name)))):
                stored = f"base_model.model.{path}.lora_{part}.weight"
                outline[stored], places[stored] = (shape, torch.float32), (name, part)
        latest: dict[str, dict[str, Tensor]] = {}

        def read(stored: str) -> Tensor:
            name, part = places[stored]
            if name not in latest:
                latest.clear()
                delta = self._delta(name)
                found = cut_out(delta.mT if self.turned else delta, self.rank)
                self.kept[name] = float(found.change.square().sum())
                latest[name] = {"A": found.down.float(), "B": found.up.float()}
            return latest[name][part]

        return Checkpoint.computed(outline, read)


def _linear(model: Checkpoint) -> tuple[dict[str, str], bool]:
    """Path of a layer → its weight, of layers that are one matrix each; and whether they hold it the other way round.

    The table of the outputs is none of them: where it is tied it is no layer's alone, and tools leave it whole.
    """
    from torch.nn import Linear

    network: Any = bare_network(model.config)
    names = {place: name for name, place in plain_parameters(model).items()}
    head = network.get_output_embeddings()
    kinds: dict[bool, dict[str, str]] = {False: {}, True: {}}
    for path, module in network.named_modules():
        turned = type(module).__name__ == "Conv1D"  # GPT-2's, of transformers
        name = names.get(f"{path}.weight")
        if name is not None and module is not head and (turned or isinstance(module, Linear)):
            kinds[turned][path] = name
    turned = bool(kinds[True])
    return kinds[turned], turned
