"""Plain low-rank adapters (LoRA), merged into their base when a tensor is read.

The update of a weight is `scale · B A` (arXiv:2106.09685) with `scale = alpha / r`, or, rank-stabilised, `alpha / √r`
(arXiv:2312.03732). What is more than that is left to PEFT (`redteam.checkpoint.by_peft`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from redteam.checkpoint.adapter_config import listed, patterned, require_mergeable
from redteam.checkpoint.adapters import UNDER, Adapted, parted
from redteam.checkpoint.factors import Factors
from redteam.checkpoint.safetensors_io import shown
from redteam.checkpoint.tensors import Tensors
from redteam.errors import NotACheckpoint

_STRANGE = {
    "use_dora": "scales whole columns (DoRA)",
    "lora_bias": "has biases of its own",
    "target_parameters": "changes parameters that are no layer's weight",
    "trainable_token_indices": "changes single tokens",
}
_PARTS = {
    "lora_A": ("down", False),
    "lora_B": ("up", False),
    "lora_embedding_A": ("down", True),
    "lora_embedding_B": ("up", True),
}


@dataclass
class _Update:
    """The tensors that change one weight: names of A and B."""

    down: str = ""
    up: str = ""
    embedding: bool = False


class BeyondPlain(NotACheckpoint):
    """An adapter that is more than a plain LoRA; PEFT may know it."""


class Merged(Adapted):
    """A base with a plain LoRA merged into it, lazily, in the base's dtypes.

    Args:
        path: The adapter's folder, or the weights in it.
        base: What the adapter was trained on.
        places: As of `Adapted`.

    Raises:
        BeyondPlain: If the adapter is more than that.
        NotACheckpoint: If the adapter is damaged, or does not fit the base.
    """

    def __init__(self, path: Path, base: Tensors | None, places: Callable[[], Mapping[str, str]] = dict) -> None:
        super().__init__(path, base, places)
        self._ordinary(self._said)
        self._transposed = self._said.get("fan_in_fan_out") is True
        self._updates: dict[str, _Update] = {}
        self._scales: dict[str, float] = {}
        self._twin: tuple[str, Mapping[str, str]] = ("", {})  # an embedding, and the parts of the head tied to it
        self._plan(self._said)

    def load(self, name: str) -> torch.Tensor:
        weight = super().load(name)
        if name not in self._updates:
            return weight
        dtype = torch.promote_types(weight.dtype, torch.float32)  # half-precision products would be rounded twice
        own = self._of(name).to(device=weight.device, dtype=dtype)
        change = (own.up @ own.down).reshape(weight.shape)
        return torch.add(weight.to(dtype), change, alpha=own.scale).to(weight.dtype)

    def factors(self, name: str) -> Factors | None:
        """What is added to a tensor of the base; `None` where another takes its place, and is another."""
        if name not in self._updates:
            return None
        same = name not in self._whole or torch.equal(super().load(name), self._base[name])  # PEFT stores embeddings
        return self._of(name) if same else None

    def _of(self, name: str) -> Factors:
        update = self._updates[name]
        down, up = (self._files.load(half).flatten(1) for half in (update.down, update.up))
        if self._flips(update, len(self.shape(name))):
            up, down = down.T, up.T
        return Factors(up, down, self._scales[name])

    def as_stored(self, name: str, factors: Factors) -> dict[str, torch.Tensor]:
        """Factors of a tensor as the adapter's file holds them: stored name → tensor, in the shapes found there."""
        update = self._updates[name]
        up, down = factors.up, factors.down
        if self._flips(update, len(self.shape(name))):
            up, down = down.T, up.T
        halves = {update.down: down, update.up: up}
        if name == self._twin[0]:
            halves |= {self._twin[1]["down"]: up.T, self._twin[1]["up"]: down.T}
        return {stored: half.reshape(self.held.shape(stored)) for stored, half in halves.items()}

    def updated(self) -> set[str]:
        return set(self._updates)

    def _flips(self, update: _Update, axes: int) -> bool:
        """Whether the weight is stored transposed: embeddings are, and what the config says so of."""
        return axes == 2 and (update.embedding or self._transposed)

    def _beyond(self, what: str) -> BeyondPlain:
        return BeyondPlain(f"The adapter in {self.where} {what}")

    def _ordinary(self, settings: Mapping[str, Any]) -> None:
        require_mergeable(settings, lambda what: self._refuse(what, "merge it into its base with what made it first"))
        if (kind := settings["peft_type"]) != "LORA":
            raise self._beyond(f"is of the kind {kind}")
        for setting, what in _STRANGE.items():
            if settings.get(setting):
                raise self._beyond(what)

    def _plan(self, settings: Mapping[str, Any]) -> None:
        tied: dict[str, str] = {}
        for stored in self._files.names():
            module, part = parted(stored)
            if part in _PARTS and self._is_tied(f"{module}.weight"):
                tied[_PARTS[part][0]] = stored
            elif part in _PARTS:
                name = self._target(f"{module}.weight")
                half, embedding = _PARTS[part]
                update = self._updates.setdefault(name, _Update(embedding=embedding))
                if getattr(update, half) or update.embedding is not embedding:
                    raise self._refuse(f"changes {shown(name)} twice")
                setattr(update, half, stored)
                self._scales[name] = self._scale(module, stored, half, settings)
            elif part is None and "lora_" not in module:
                self._replace(module, stored)
            else:
                raise self._beyond(f"holds {shown(stored)}, which is no part of a plain LoRA")
        if not (self._updates or self._whole or self._heads):
            raise self._refuse("changes nothing")
        self._require_same(tied)
        self._require_all(name.removesuffix(".weight") for name in self._updates)
        for name, update in self._updates.items():
            whole = self._whole.get(name)
            if whole is not None and UNDER not in whole:
                raise self._refuse(f"both changes and replaces {shown(name)}")
            self._check(name, update, self._base.shape(name) if whole is None else self._files.shape(whole))

    def _require_same(self, tied: Mapping[str, str]) -> None:
        """Refuses an update of a head that is not the one of the embedding to which the base ties it, turned round."""
        if not tied:
            return
        load = self._files.load
        for name, update in self._updates.items():
            if update.embedding and update.down and update.up and tied.keys() == {"down", "up"}:
                pairs = ((tied["up"], update.down), (tied["down"], update.up))
                if all(torch.equal(load(head), load(mine).T) for head, mine in pairs):
                    self._twin = (name, tied)
                    return
        raise self._refuse(f"has an update of its own for {listed(tied.values())}, and its base ties the head")

    def _check(self, name: str, update: _Update, weight: tuple[int, ...]) -> None:
        if not update.down or not update.up:
            raise self._refuse(f"has only one of the two factors for {shown(name)}")
        down, up = self._files.shape(update.down), self._files.shape(update.up)
        fits = len(down) >= 2 and len(up) >= 2 and down[0] == math.prod(up[1:]) > 0 and len(weight) >= 2
        shape = (up[0], *down[1:]) if fits else ()
        if self._flips(update, len(weight)):
            shape = shape[::-1]
        if not fits or shape != weight:
            raise self._refuse(f"has factors {down} and {up} for {shown(name)}, which is {weight}")
        dtypes = [self._base.dtype(name), *(self._files.dtype(half) for half in (update.down, update.up))]
        if not all(dtype.is_floating_point and dtype.itemsize >= 2 for dtype in dtypes):
            raise self._refuse(f"changes {shown(name)}, where {', '.join(map(str, dtypes))} meet: it is quantised")

    def _scale(self, module: str, stored: str, half: str, settings: Mapping[str, Any]) -> float:
        rank = patterned(settings, "rank_pattern", "r", module, self._refuse)
        alpha = patterned(settings, "alpha_pattern", "lora_alpha", module, self._refuse)
        shape = self._files.shape(stored)
        found = shape[0] if half == "down" and shape else math.prod(shape[1:])
        if rank != found:
            raise self._refuse(f"has rank {found} at {shown(module)} and its config says {shown(rank)}")
        return alpha / (math.sqrt(rank) if settings.get("use_rslora") is True else rank)
