"""A checkpoint: names → tensors, read lazily, with the config that says how to build the network.

Weights come from safetensors alone. An overlay (`replace`, `transform`) costs nothing until a tensor is read, so a
checkpoint can be rewritten layer by layer without being held in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from redteam.checkpoint.adapters import is_adapter
from redteam.checkpoint.by_peft import merged_adapter
from redteam.checkpoint.dequantised import Dequantised
from redteam.checkpoint.discover import find
from redteam.checkpoint.factors import Factors
from redteam.checkpoint.lazy import (
    Cast,
    Computed,
    Outline,
    Recent,
    Refactored,
    Renamed,
    Replaced,
    Rewrite,
    StoredAs,
    Transformed,
)
from redteam.checkpoint.quantised import can_be_brought_back, scheme_of
from redteam.checkpoint.save import write
from redteam.checkpoint.sources import Files, Memory, Source
from redteam.checkpoint.tensors import NUMBERS, Tensors, is_finite
from redteam.checkpoint.wrapped import require_unwrapped
from redteam.errors import Inapplicable, NotACheckpoint, Quantised
from redteam.memory import require

if TYPE_CHECKING:
    from torch import nn

    from redteam.checkpoint.spelling import Spelling

G = TypeVar("G")


class Checkpoint(Tensors):
    """An immutable mapping of tensors with a config.

    Attributes:
        config: What `config.json` holds, `{}` where there is none; not to be changed.
        remarks: What was odd about the files and did not keep them from being read, in sentences.
        spelling: How its file names the tensors, where they have other names here.
    """

    def __init__(self, source: Source, config: Mapping[str, Any]) -> None:
        self._source = source
        self.remarks: tuple[str, ...] = tuple(getattr(source, "remarks", ()))
        self.config: Mapping[str, Any] = MappingProxyType(dict(config))
        self.spelling: Spelling | None = None
        self._digest = ""

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        base: Checkpoint | None = None,
        dequantise: torch.dtype | None = None,
    ) -> Checkpoint:
        """Reads a checkpoint of Hugging Face or open_clip, or a safetensors file; only headers are read now.

        Args:
            path: A folder, or a safetensors file.
            base: What an adapter is merged into, when tensors are read; of no use to whole checkpoints.
            dequantise: In what weights come that are stored as FP8 with scales, or MXFP4; they are refused otherwise.

        Raises:
            NotACheckpoint: If there is nothing there from which weights can be read safely, no base for an adapter, the
                names are those of a wrapper around the network, or the weights are quantised, by another scheme or
                without what their scheme needs.
        """
        if is_adapter(Path(path)):
            merged = merged_adapter(Path(path), base)
            return cls(merged, merged.settings())
        found = find(Path(path))
        opened = cls(Files(found), found.settings())
        require_unwrapped(tuple(opened), str(path))
        if not (scheme := scheme_of(opened)):
            return opened
        readable = can_be_brought_back(opened)
        if readable and dequantise is not None:
            plain = Dequantised(opened, Path(path), dequantise)
            return cls(plain, plain.settings())
        what = f"The weights in {path} are quantised ({scheme}): codes, not numbers; "
        if readable:
            raise Quantised(f"{what}--dequantise reads them (in Python: Checkpoint.open(path, dequantise=dtype)).")
        only = "" if dequantise is None else "--dequantise reads FP8 with scales and MXFP4 alone; "
        raise Quantised(
            f"{what}{only}expected the model before that, or a config without quantization_config if its weights were "
            "brought back."
        )

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Checkpoint:
        """A checkpoint in memory. The tensors are not copied, and must not be changed afterwards."""
        return cls(Memory({name: tensor.detach() for name, tensor in tensors.items()}), config)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._source.load(name)

    def rough(self, name: str) -> torch.Tensor:
        """The tensor in whatever dtype it is stored, before casts, to look at a part of it; not to be written to."""
        look: Callable[[str], torch.Tensor] = getattr(self._source, "rough", self._source.load)
        return look(name)

    def part(self, name: str, place: int) -> torch.Tensor:
        """`self[name][place : place + 1]`, without reading the rest where that can be had."""
        look = getattr(self._source, "part", None)
        found: torch.Tensor = self[name][place : place + 1] if look is None else look(name, place)
        return found

    def factors(self, name: str) -> Factors | None:
        """What a plain low-rank adapter adds to a tensor of the base that it was opened with; `None` if not known."""
        look: Callable[[str], Factors | None] = getattr(self._source, "factors", super().factors)
        return look(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.names())

    def __len__(self) -> int:
        return len(self._source.names())

    def __contains__(self, name: object) -> bool:
        return name in self._source.names()

    def __repr__(self) -> str:
        return f"Checkpoint({self.architecture or 'unknown architecture'}, {len(self)} tensors)"

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor, without reading it."""
        return self._source.dtype(name)

    @classmethod
    def computed(
        cls,
        outline: Outline,
        compute: Callable[[str], torch.Tensor],
        config: Mapping[str, Any] | None = None,
        rough: Callable[[str], torch.Tensor] | None = None,
        factors: Callable[[str], Factors | None] | None = None,
    ) -> Checkpoint:
        """A checkpoint whose tensors are computed when they are read, anew each time.

        Args:
            outline: Name → shape and dtype of what will be computed; `Checkpoint.outline` gives that of another.
            compute: Gives the tensor of a name; must be pure.
            config: As of `Checkpoint.of`.
            rough: Gives what `Checkpoint.rough` does, where that is cheaper.
            factors: Gives what `Checkpoint.factors` does, where `compute` gives another's tensors as they are.
        """
        return cls(Computed(outline, compute, rough, factors), config or {})

    def outline(self, names: Iterable[str] | None = None) -> Outline:
        """Name → shape and dtype of some tensors, of all by default, without reading them."""
        return {name: (self.shape(name), self.dtype(name)) for name in (self if names is None else names)}

    def only(self, names: Iterable[str]) -> Checkpoint:
        """Some of the tensors, with the same config; lazy."""
        return self.renamed({name: name for name in names})

    def replace(self, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
        """This checkpoint with some tensors exchanged or added; those of a checkpoint are read when they are needed."""
        over = tensors if isinstance(tensors, Checkpoint) else Checkpoint.of(tensors, {})
        return Checkpoint(Replaced(self, over), self.config)

    def transform(self, rewrites: Iterable[Rewrite], fn: Callable[[Any], G]) -> Checkpoint:
        """A lazy overlay: `fn(rewrite)` runs when one of its tensors is read, and the latest results alone are kept.

        Args:
            rewrites: Places that do not overlap.
            fn: Gives the gauge of a place; must be pure, since it can run again.
        """
        return Checkpoint(Transformed(self, tuple(rewrites), fn), self.config)

    @property
    def has_factors(self) -> bool:
        """Whether any tensor is a base's plus what a plain low-rank adapter adds."""
        return any(self.factors(name) is not None for name in self)

    def refactored(self, fn: Callable[[str, Factors], Factors]) -> Checkpoint:
        """A lazy overlay: what a plain low-rank adapter adds, split into other factors.

        Args:
            fn: Gives the new factors of a tensor from its name and those found here; must be pure.

        Raises:
            Inapplicable: If no tensor has factors.
        """
        if not self.has_factors:
            raise Inapplicable(
                "The checkpoint has no factors of a low-rank adapter; expected a LoRA opened over its base, as "
                "redteam protect, attack and merge open ADAPTER with --base. Runs merge adapters into whole models."
            )
        return Checkpoint(Refactored(self, fn), self.config)

    def cast(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Checkpoint:
        """A lazy overlay: floating-point tensors come in `dtype`, on `device`; the others as they are."""
        return Checkpoint(Cast(self, dtype, device), self.config)

    def recent(self, megabytes: int = 96) -> Checkpoint:
        """The same tensors, of which those read last are kept, up to so much memory: a layer or two."""
        return Checkpoint(Recent(self, megabytes * 2**20), self.config)

    def stored_as(self, other: Checkpoint) -> Checkpoint:
        """A lazy overlay: floating-point tensors rounded to the dtypes that `other` has, on the CPU.

        A tensor that `other` lacks gets the dtype that most of the numbers of `other` have.

        Raises:
            BadInput: When a tensor is read that has numbers too large for its dtype.
        """
        return Checkpoint(StoredAs(self, other), self.config)

    def renamed(self, names: Mapping[str, str]) -> Checkpoint:
        """Some of the tensors under other names, new name → name found here; lazy."""
        return Checkpoint(Renamed(self, names), self.config)

    def canonical(self) -> Checkpoint:
        """The tensors under the names by which transformers saves them, where it also loads the names found here.

        What it has no use for stays as it is. The checkpoint itself where it has these names, where nobody knows its
        network, or where it holds one tensor twice.
        """
        from redteam.checkpoint.naming import frame_of
        from redteam.checkpoint.spelling import spelling

        frame = frame_of(self)
        try:
            found = None if frame is None else spelling(self, frame)
        except NotACheckpoint:
            return self
        return self if found is None else self.spelled(found)

    def spelled(self, spelling: Spelling) -> Checkpoint:
        """The tensors of a file under the names that a spelling gives them; lazy."""
        found = Checkpoint(spelling.here(self), self.config)
        found.spelling = spelling
        return found

    def as_in_file(self, spelling: Spelling | None) -> Checkpoint:
        """What was made of `spelled` tensors under the names in their file again; itself where they were the same."""
        return self if spelling is None else Checkpoint(spelling.there(self), self.config)

    def configured(self, changes: Mapping[str, Any]) -> Checkpoint:
        """The same tensors with some entries of the config exchanged or added."""
        return Checkpoint(self._source, {**self.config, **changes})

    def to(self, dtype: torch.dtype) -> Checkpoint:
        """Every floating-point tensor rounded to `dtype` (as stored), in memory."""
        return Checkpoint.of({n: t.to(dtype) if t.is_floating_point() else t for n, t in self.items()}, self.config)

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes, in hexadecimal; computed once."""
        if self._digest:
            return self._digest
        digest = hashlib.sha256()
        for name in sorted(self):
            tensor = self[name].cpu().contiguous()
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        self._digest = digest.hexdigest()
        return self._digest

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder with `model.safetensors` and `config.json`, whole or not at all, tensor by tensor.

        Raises:
            UnwritableOutput: If the folder exists or cannot be written.
        """
        write(self, folder)

    def module(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The network, in evaluation mode, built by transformers or open_clip; code that came along is never run.

        Args:
            dtype: In which the weights are held; as stored by default.

        Raises:
            NotACheckpoint: If neither knows such a network, or the tensors do not fit it.
        """
        from redteam.checkpoint.modules import build

        return build(self, dtype)

    def fresh(self, seed: int) -> Checkpoint:
        """The same network, freshly initialised as its library does before training, in the dtypes found here.

        Whole numbers, as of prompts and positions, are not drawn and stay.
        """
        from redteam.checkpoint.modules import drawn_weights

        require(4 * self.weights, f"Drawing a network of {self.weights / 1e6:.3g} million weights anew, in float32,")
        tensors = drawn_weights(self.config, seed, lambda n, t: t if n not in self else t.to(self.dtype(n)))
        kept = {n: self[n] for n, t in tensors.items() if n in self and not t.is_floating_point()}
        return Checkpoint.of(tensors | kept, self.config)

    def trained(self, module: nn.Module) -> Checkpoint:
        """The weights of a network that `module()` gave, after training, under the names and dtypes found here."""
        from redteam.checkpoint.modules import trained_weights

        return Checkpoint.of(trained_weights(module, self), self.config)


def own_tensors(expert: Checkpoint, base: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors that belong to the expert's task: the base lacks them or has another shape (task heads)."""
    return tuple(
        name for name in expert if name != NUMBERS and (name not in base or base.shape(name) != expert.shape(name))
    )


def shared_tensors(expert: Checkpoint, base: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors that expert and base have in common: what can be merged."""
    own = {NUMBERS, *own_tensors(expert, base)}
    return tuple(name for name in expert if name not in own)


def not_finite(checkpoint: Checkpoint) -> str:
    """The first tensor with a value that is not finite, the empty string if there is none."""
    for name, tensor in checkpoint.items():
        if not is_finite(tensor):
            return name
    return ""


def in_memory(returned: Any) -> Any:
    """A checkpoint with every tensor computed once; anything else that a plugin may return as it is."""
    return Checkpoint.of(dict(returned.items()), returned.config) if isinstance(returned, Checkpoint) else returned
