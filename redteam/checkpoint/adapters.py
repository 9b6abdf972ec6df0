"""Adapters as PEFT writes them: their files, the base that they are for, and what they replace in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from redteam.checkpoint.adapter_config import listed, untouched
from redteam.checkpoint.discover import Found, own
from redteam.checkpoint.safetensors_io import read_json, shown
from redteam.checkpoint.sources import Files
from redteam.checkpoint.tensors import Tensors, in_a_block
from redteam.errors import NotACheckpoint

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

UNDER = ".base_layer."
"""What PEFT puts into the names of biases and embeddings that it stores from below an update."""
_AROUND = {"model", "language_model", "transformer", "base_model", "module"}
"""Words that stand before the names of one network in one order or another, from one version to the next."""
_HEADS = ("lm_head.", "embed_out.")


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


class Adapted:
    """A base under an adapter: what both ways of merging have in common.

    Args:
        path: The adapter's folder, or the weights in it.
        base: What the adapter was trained on.
        places: Gives parameter of the network → tensor of the base, asked where a name is not the base's.

    Attributes:
        where: The adapter's folder.
        remarks: What is odd about it, in sentences.

    Raises:
        NotACheckpoint: If there is no base, or the adapter cannot be read.
    """

    def __init__(self, path: Path, base: Tensors | None, places: Callable[[], Mapping[str, str]] = dict) -> None:
        folder = path if path.is_dir() else path.parent
        self.where = folder
        self._said = read_json(own(folder, CONFIG))
        if base is None:
            raise NotACheckpoint(
                f"{folder} holds an adapter of {shown(self._said.get('base_model_name_or_path'))}, not a whole model; "
                "name its base with --base (in Python: Checkpoint.open(path, base=…))."
            )
        if not (folder / WEIGHTS).is_file():
            pickle = (folder / "adapter_model.bin").exists()
            why = "adapter_model.bin is a pickle, which is never loaded" if pickle else f"no {WEIGHTS} is in it"
            raise NotACheckpoint(f"{folder} is no adapter ({why}); expected {WEIGHTS}.")
        self._base, self._places_in = base, places
        self._files = Files(Found(folder, (own(folder, WEIGHTS),)))
        self._longer: dict[str, list[str]] = {}
        self._cores: dict[str, list[str]] = {}
        for name in base:
            self._longer.setdefault(name.partition(".")[2], []).append(name)
            self._cores.setdefault(core(name), []).append(name)
        self._whole: dict[str, str] = {}  # name → that of the stored tensor which takes its place
        self._retied: set[str] = set()  # embeddings that change together with the head that is tied to them
        self._heads: list[str] = []  # stored heads that the base has in its embedding
        self._lacking: list[str] = []
        self.remarks: list[str] = []

    @property
    def held(self) -> Files:
        """The adapter's own tensors, under the names in its file."""
        return self._files

    def names(self) -> Mapping[str, Any]:
        return dict.fromkeys((*self._base, *self._whole))

    def settings(self) -> dict[str, Any]:
        """The base's config, with the size of a vocabulary that grew with the adapter."""
        return self._grown(self._base.config)

    def _grown(self, config: Mapping[str, Any]) -> dict[str, Any]:
        size = config.get("vocab_size")
        tables = [n for n in self._whole if n in self._base and len(self._base.shape(n)) == 2]
        rows = {self.shape(n)[0] for n in tables if self._base.shape(n)[0] == size} - {size}
        grown = {k: self._grown(v) if k == "text_config" and isinstance(v, Mapping) else v for k, v in config.items()}
        return {**grown, "vocab_size": rows.pop()} if len(rows) == 1 else grown

    def shape(self, name: str) -> tuple[int, ...]:
        whole = self._whole.get(name)
        return self._files.shape(whole) if whole else self._base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._base.dtype(name) if name in self._base else self._files.dtype(self._whole[name])

    def load(self, name: str) -> torch.Tensor:
        """The tensor below the changes: the base's, or the one that takes its place."""
        whole = self._whole.get(name)
        return self._base[name] if whole is None else self._files.load(whole).to(self.dtype(name))

    def part(self, name: str, place: int) -> torch.Tensor:
        """`load(name)[place : place + 1]`, of the base alone where nothing changes the tensor."""
        if name in self._whole or name in self.updated():
            return self.load(name)[place : place + 1]
        return self._base.part(name, place)

    def updated(self) -> set[str]:
        """Names of the tensors that are computed from those below."""
        return set()

    def changed_embedding(self) -> str:
        """The table of tokens that it changes without the head that is tied to it, if there is such a pair; or ''."""
        if not self._base.config.get("tie_word_embeddings") or self._said.get("ensure_weight_tying"):
            return ""
        size = self._base.config.get("vocab_size")
        matrices = [n for n in self._base if len(self._base.shape(n)) == 2 and not in_a_block(n)]
        tables = [n for n in matrices if self._base.shape(n)[0] == size]
        said = self._said.get("modules_to_save")
        copied = tuple(f".{name}.weight" for name in said) if isinstance(said, list) else ()
        saved = {name for name in self._whole if copied and f".{name}".endswith(copied)}
        return next((name for name in tables if name in self.updated() | saved and name not in self._retied), "")

    def _refuse(self, what: str, remedy: str = "check that it is whole, and made for this base") -> NotACheckpoint:
        return NotACheckpoint(f"The adapter in {self.where} {what}; {remedy}.")

    def _replace(self, module: str, stored: str) -> None:
        """Notes that a stored tensor takes the place of one of the base's, or is added."""
        if self._is_tied(module):
            self._heads.append(stored)
            return
        name = self._target(module, optional=True)
        if name in self._whole:
            raise self._refuse(f"replaces {shown(name)} twice")
        self._whole[name] = stored

    def _target(self, name: str, *, optional: bool = False) -> str:
        """The tensor of the base that is meant; transformers puts a prefix before, or takes one away, at times."""
        if name in self._base:
            return name
        shorter = name.partition(".")[2]
        if shorter and shorter in self._base:
            return shorter
        for found in (self._cores.get(core(name), []), self._longer.get(name, [])):
            if len(found) == 1:
                return found[0]
        if not optional:
            for longer in (name, shorter):
                if longer in self._by_place:
                    return self._by_place[longer]
            self._lacking.append(name)
        return name  # a head for the adapter's task

    @cached_property
    def _by_place(self) -> Mapping[str, str]:
        """Parameter of the network → tensor of the base: PEFT's names are the network's, which it may rename."""
        return self._places_in()

    def _is_tied(self, name: str) -> bool:
        """Whether a name is that of a head which the base has in its embedding."""
        tied = self._base.config.get("tie_word_embeddings")
        return bool(tied) and name.startswith(_HEADS) and name not in self._base

    def _require_all(self, modules: Iterable[str]) -> None:
        """Refuses an adapter that names tensors which the base lacks, or lacks weights that its config speaks of.

        What it does change is counted in a remark.

        Args:
            modules: The modules of the base that it changes.
        """
        touched = set(modules)
        for head in self._heads:
            shape = self._files.shape(head)
            twins = [n for n, whole in self._whole.items() if self._files.shape(whole) == shape and n in self._base]
            same = [n for n in twins if torch.equal(self._files.load(self._whole[n]), self._files.load(head))]
            if not same:
                raise self._refuse(f"has a head of its own, {shown(head)}, and its base ties it to the embedding")
            self._retied |= set(same)
        if self._lacking:
            lacking = sorted(set(self._lacking))
            of = f" (those and {len(touched - {n.rpartition('.')[0] for n in lacking})} others)" if touched else ""
            raise self._refuse(f"changes {listed(lacking)}, which its base lacks{of}")
        saved = {name.rpartition(".")[0] for name in self._whole}
        if missing := untouched(self._said, self._base, touched, saved):
            count = f"{len(touched)} of {len(touched) + len(missing)}"
            raise self._refuse(
                f"has weights for {count} modules that its config speaks of, and none for {listed(missing)}"
            )
        counts = {"changes": (len(touched), "module"), "replaces": (len(self._whole), "tensor")}
        told = [f"{verb} {count} {what}{'s' * (count > 1)}" for verb, (count, what) in counts.items() if count]
        self.remarks.insert(0, f"The adapter {' and '.join(told)} of its base.")


def core(name: str) -> str:
    """A name without the words that stand around a network at its beginning."""
    words = name.split(".")
    while len(words) > 1 and words[0] in _AROUND:
        words.pop(0)
    return ".".join(words)


def parted(stored: str) -> tuple[str, str | None]:
    """A stored name as the module (or the whole tensor) that it belongs to, and which part of a LoRA it is."""
    name = stored.removeprefix("base_model.model.")
    match = re.fullmatch(r"(.+)\.(lora_\w+)(?:\.default)?(?:\.weight)?", name)
    if match:
        return match[1], match[2]
    name = name.replace(UNDER, ".")
    if ".modules_to_save." in name:
        name = re.sub(r"\.modules_to_save\.(?:default\.)?", ".", name)
    return name, None
