"""Low-rank adapters (LoRA, as PEFT writes them), merged into their base when a tensor is read.

The update of a weight is `scale · B A` (arXiv:2106.09685) with `scale = alpha / r`, or, rank-stabilised, `alpha / √r`
(arXiv:2312.03732).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from redteam.checkpoint.discover import Found, own
from redteam.checkpoint.safetensors_io import read_json, shown
from redteam.checkpoint.sources import Files
from redteam.checkpoint.tensors import Tensors
from redteam.errors import NotACheckpoint

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_STRANGE = {
    "use_dora": "scales whole columns (DoRA)",
    "lora_bias": "has biases of its own",
    "layer_replication": "repeats layers",
    "target_parameters": "changes parameters that are no layer's weight",
    "trainable_token_indices": "changes single tokens",
    "alora_invocation_tokens": "acts from some token on only (activated LoRA)",
    "use_qalora": "groups its inputs (QALoRA)",
    "use_bdlora": "is block-diagonal (BD-LoRA)",
}
_PARTS = {
    "lora_A": ("down", False),
    "lora_B": ("up", False),
    "lora_embedding_A": ("down", True),
    "lora_embedding_B": ("up", True),
}
_UNDER = ".base_layer."
"""What PEFT puts into the names of biases and embeddings that it stores from below an update."""
_ORDINARY_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_PATTERN = re.compile(r"\^?(?:[\w\-]|\\?\.|\\d|\.\*|\\d\+|\[0-9\]\+?|[|()](?![*+?{]))+\$?")


@dataclass
class _Update:
    """The tensors that change one weight: names of A and B."""

    down: str = ""
    up: str = ""
    embedding: bool = False


@dataclass(frozen=True)
class _Plan:
    """What an adapter does to which tensor of its base."""

    updates: dict[str, _Update] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)


def is_adapter(path: Path) -> bool:
    """Whether a folder, or the file in it, is an adapter, and no model beside it.

    Raises:
        NotACheckpoint: If a folder holds an adapter and a model: which one is meant cannot be known.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / CONFIG).is_file() or not (path.is_dir() or path.name == WEIGHTS):
        return False
    if path.is_dir() and any((folder / f"model.safetensors{end}").exists() for end in ("", ".index.json")):
        raise NotACheckpoint(f"{folder} holds both a model and an adapter; name the file that is meant.")
    return True


class Merged:
    """A base with an adapter merged into it, lazily, in the base's dtypes.

    Args:
        path: The adapter's folder, or the weights in it.
        base: What the adapter was trained on.

    Raises:
        NotACheckpoint: If the adapter is of another kind, is damaged, or does not fit the base.
    """

    def __init__(self, path: Path, base: Tensors | None) -> None:
        folder = path if path.is_dir() else path.parent
        self._where = folder
        settings = read_json(own(folder, CONFIG))
        if base is None:
            raise NotACheckpoint(
                f"{folder} holds an adapter of {shown(settings.get('base_model_name_or_path'))}, not a whole model; "
                "name its base with --base (in Python: Tensors.open(path, base=…))."
            )
        if not (folder / WEIGHTS).is_file():
            pickle = (folder / "adapter_model.bin").exists()
            why = "adapter_model.bin is a pickle, which is never loaded" if pickle else f"no {WEIGHTS} is in it"
            raise NotACheckpoint(f"{folder} is no adapter ({why}); expected {WEIGHTS}.")
        self._ordinary(settings)
        self._base = base
        self._files = Files(Found(folder, (own(folder, WEIGHTS),)))
        self._transposed = settings.get("fan_in_fan_out") is True
        self._longer: dict[str, list[str]] = {}
        for name in base:
            self._longer.setdefault(name.partition(".")[2], []).append(name)
        self._plan = self._planned(settings)
        self._names = dict.fromkeys((*base, *self._plan.whole))

    def names(self) -> Mapping[str, Any]:
        return self._names

    def settings(self) -> dict[str, Any]:
        """The base's config, with the size of a vocabulary that grew with the adapter."""
        return self._grown(self._base.config)

    def _grown(self, config: Mapping[str, Any]) -> dict[str, Any]:
        size = config.get("vocab_size")
        tables = [n for n in self._plan.whole if n in self._base and len(self._base.shape(n)) == 2]
        rows = {self.shape(n)[0] for n in tables if self._base.shape(n)[0] == size} - {size}
        grown = {k: self._grown(v) if k == "text_config" and isinstance(v, Mapping) else v for k, v in config.items()}
        return {**grown, "vocab_size": rows.pop()} if len(rows) == 1 else grown

    def shape(self, name: str) -> tuple[int, ...]:
        whole = self._plan.whole.get(name)
        return self._files.shape(whole) if whole else self._base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._base.dtype(name) if name in self._base else self._files.dtype(self._plan.whole[name])

    def load(self, name: str) -> torch.Tensor:
        whole = self._plan.whole.get(name)
        weight = self._base[name] if whole is None else self._files.load(whole).to(self.dtype(name))
        if name not in self._plan.updates:
            return weight
        update = self._plan.updates[name]
        dtype = torch.promote_types(weight.dtype, torch.float32)  # half-precision products would be rounded twice
        down, up = (self._files.load(half).to(weight.device, dtype).flatten(1) for half in (update.down, update.up))
        change = up @ down
        if self._flips(update, weight.dim()):
            change = change.T
        return torch.add(weight.to(dtype), change.reshape(weight.shape), alpha=self._plan.scales[name]).to(weight.dtype)

    def _flips(self, update: _Update, axes: int) -> bool:
        """Whether the weight is stored transposed: embeddings are, and what the config says so of."""
        return axes == 2 and (update.embedding or self._transposed)

    def _refuse(self, what: str) -> NotACheckpoint:
        return NotACheckpoint(f"The adapter in {self._where} {what}; merge it into its base with PEFT first.")

    def _ordinary(self, settings: Mapping[str, Any]) -> None:
        kind = settings.get("peft_type")
        if kind != "LORA":
            raise self._refuse(f"is of the kind {shown(kind)}, and only LORA is merged here")
        for setting, what in _STRANGE.items():
            if settings.get(setting):
                raise self._refuse(what)
        start = settings.get("init_lora_weights")
        if not any(start is ordinary or start == ordinary for ordinary in _ORDINARY_STARTS):
            raise self._refuse(f"changed its base when it was made (init_lora_weights = {shown(start)})")

    def _planned(self, settings: Mapping[str, Any]) -> _Plan:
        plan = _Plan()
        for stored in self._files.names():
            module, part = _parted(stored)
            if part in _PARTS:
                name = self._target(f"{module}.weight")
                half, embedding = _PARTS[part]
                update = plan.updates.setdefault(name, _Update(embedding=embedding))
                if getattr(update, half) or update.embedding is not embedding:
                    raise self._refuse(f"changes {shown(name)} twice")
                setattr(update, half, stored)
                plan.scales[name] = self._scale(module, stored, half, settings)
            elif part is None and "lora_" not in module:
                name = self._target(module, optional=True)
                if name in plan.whole:
                    raise self._refuse(f"replaces {shown(name)} twice")
                plan.whole[name] = stored
            else:
                raise self._refuse(f"holds {shown(stored)}, which is no part of a plain LoRA")
        if not plan.updates and not plan.whole:
            raise self._refuse("changes nothing")
        for name, update in plan.updates.items():
            whole = plan.whole.get(name)
            if whole is not None and _UNDER not in whole:
                raise self._refuse(f"both changes and replaces {shown(name)}")
            self._check(name, update, self._base.shape(name) if whole is None else self._files.shape(whole))
        return plan

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
        rank_of, alpha_of = settings.get("rank_pattern") or {}, settings.get("alpha_pattern") or {}
        rank = self._patterned(rank_of, module, settings.get("r"))
        alpha = self._patterned(alpha_of, module, settings.get("lora_alpha"))
        shape = self._files.shape(stored)
        found = shape[0] if half == "down" and shape else math.prod(shape[1:])
        if rank != found:
            raise self._refuse(f"has rank {found} at {shown(module)} and its config says {shown(rank)}")
        return alpha / (math.sqrt(rank) if settings.get("use_rslora") is True else rank)

    def _patterned(self, patterns: Any, module: str, usual: Any) -> float:
        """The setting of a module: the first pattern that its name ends with, as PEFT looks it up."""
        value = usual
        if not isinstance(patterns, dict) or len(patterns) > 4096 or (patterns and len(module) > 256):
            raise self._refuse("has a config with damaged patterns")
        for pattern, special in patterns.items():
            if len(pattern) > 256 or not _PATTERN.fullmatch(pattern) or sum(map(pattern.count, "*+(")) > 3:
                raise self._refuse(f"chooses modules by a pattern that is not followed here ({shown(pattern)})")
            try:
                if re.match(rf"(.*\.)?({pattern})$", module):
                    value = special
                    break
            except re.error:
                raise self._refuse(f"chooses modules by a damaged pattern ({shown(pattern)})") from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise self._refuse(f"has a rank or an alpha of {shown(value)} at {shown(module)}")
        return value

    def _target(self, name: str, *, optional: bool = False) -> str:
        """The tensor of the base that is meant; transformers puts a prefix before, or takes one away, at times."""
        if name in self._base:
            return name
        shorter = name.partition(".")[2]
        longer = self._longer.get(name, [])
        if shorter and shorter in self._base:
            return shorter
        if len(longer) == 1:
            return longer[0]
        tied = self._base.config.get("tie_word_embeddings")
        if optional and not (tied and name.startswith(("lm_head.", "embed_out."))):
            return name  # a head for the adapter's task
        raise self._refuse(f"changes {shown(name)}, which its base lacks")


def _parted(stored: str) -> tuple[str, str | None]:
    """A stored name as the module (or the whole tensor) that it belongs to, and which part of a LoRA it is."""
    name = stored.removeprefix("base_model.model.")
    match = re.fullmatch(r"(.+)\.(lora_\w+)(?:\.default)?(?:\.weight)?", name)
    if match:
        return match[1], match[2]
    name = name.replace(_UNDER, ".")
    if ".modules_to_save." in name:
        name = re.sub(r"\.modules_to_save\.(?:default\.)?", ".", name)
    return name, None
