"""A checkpoint: names → tensors, read lazily, with the config that says how to build the network.

Weights come from safetensors alone. An overlay (`replace`, `transform`) costs nothing until a tensor is read, so a
checkpoint can be rewritten layer by layer without being held in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from redteam.errors import BadInput, NotACheckpoint, UnwritableOutput
from redteam.storage import Files, Memory, Source, write_safetensors

if TYPE_CHECKING:
    from torch import nn

G = TypeVar("G")
Outline = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Name → shape and dtype."""


class Rewrite(Protocol):
    """A place in a checkpoint that a gauge can rewrite; `redteam.anatomy.Site` is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that change together."""

    def apply(self, checkpoint: Mapping[str, torch.Tensor], gauge: Any, /) -> dict[str, torch.Tensor]:
        """Those tensors under `gauge`."""


class Checkpoint(Mapping[str, torch.Tensor]):
    """An immutable mapping of tensors with a config.

    Attributes:
        config: What `config.json` holds, `{}` where there is none.
        architecture: `config["model_type"]`, or the empty string.
    """

    def __init__(self, source: Source, config: Mapping[str, Any]) -> None:
        self._source = source
        self.config: Mapping[str, Any] = MappingProxyType(dict(config))
        self.architecture = str(config.get("model_type", ""))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Reads a Hugging Face folder or a safetensors file; only headers are read now.

        Raises:
            NotACheckpoint: If there is nothing there from which weights can be read safely.
        """
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        config: dict[str, Any] = {}
        if (folder / "config.json").is_file():
            try:
                config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            except ValueError as error:
                raise NotACheckpoint(
                    f"{folder / 'config.json'} is not readable JSON ({error}); restore the file."
                ) from None
            if not isinstance(config, dict):
                raise NotACheckpoint(f"{folder / 'config.json'} must hold a JSON object; restore the file.")
        return cls(Files.find(path), config)

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Checkpoint:
        """A checkpoint in memory. The tensors are not copied, and must not be changed afterwards."""
        return cls(Memory({name: tensor.detach() for name, tensor in tensors.items()}), config)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._source.load(name)

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
        cls, outline: Outline, compute: Callable[[str], torch.Tensor], config: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """A checkpoint whose tensors are computed when they are read, anew each time.

        Args:
            outline: Name → shape and dtype of what will be computed; `Checkpoint.outline` gives that of another.
            compute: Gives the tensor of a name; must be pure.
            config: As of `Checkpoint.of`.
        """
        return cls(_Computed(outline, compute), config or {})

    def outline(self, names: Iterable[str] | None = None) -> Outline:
        """Name → shape and dtype of some tensors, of all by default, without reading them."""
        return {name: (self.shape(name), self.dtype(name)) for name in (self if names is None else names)}

    def replace(self, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
        """This checkpoint with some tensors exchanged or added; those of a checkpoint are read when they are asked for."""
        over = tensors if isinstance(tensors, Checkpoint) else Checkpoint.of(tensors, {})
        return Checkpoint(_Replaced(self, over), self.config)

    def transform(self, rewrites: Iterable[Rewrite], fn: Callable[[Any], G]) -> Checkpoint:
        """A lazy overlay: `fn(rewrite)` runs when one of its tensors is read, and the latest results alone are kept.

        Args:
            rewrites: Places that do not overlap.
            fn: Gives the gauge of a place; must be pure, since it can run again.
        """
        return Checkpoint(_Transformed(self, tuple(rewrites), fn), self.config)

    def to(self, dtype: torch.dtype) -> Checkpoint:
        """Every floating-point tensor rounded to `dtype` (as stored), in memory."""
        return Checkpoint.of({n: t.to(dtype) if t.is_floating_point() else t for n, t in self.items()}, self.config)

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes, in hexadecimal."""
        digest = hashlib.sha256()
        for name in sorted(self):
            tensor = self[name].contiguous()
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder with `model.safetensors` and `config.json`, whole or not at all, tensor by tensor.

        Raises:
            UnwritableOutput: If the folder exists or cannot be written.
        """
        folder = Path(folder)
        if folder.exists():
            raise UnwritableOutput(f"{folder} exists already; name a folder that does not.")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        except OSError as error:
            raise UnwritableOutput(f"{folder} cannot be written ({error.strerror}); name another place.") from None
        try:
            write_safetensors(work / "model.safetensors", self)
            (work / "config.json").write_text(
                json.dumps(dict(self.config), indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )
            os.replace(work, folder)
        except OSError as error:
            raise UnwritableOutput(f"{folder} cannot be written ({error.strerror}); name another place.") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def module(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The network, in evaluation mode, built by transformers from the config; remote code is never run.

        Args:
            dtype: In which the weights are held; as stored by default.

        Raises:
            NotACheckpoint: If transformers has no such network, or the tensors do not fit it.
        """
        cls, config = self._network()
        tensors = {n: t.clone() if dtype is None else t.to(dtype, copy=True) for n, t in self.items()}
        with _quiet_transformers():
            network, info = cls.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below
                dtype=dtype or "auto",
            )
        wrong = {
            k: sorted(map(str, info[k])) for k in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[k]
        }
        if wrong:
            found = "; ".join(f"{k.replace('_', ' ')}: {', '.join(v[:3])}" for k, v in wrong.items())
            raise NotACheckpoint(
                f"The tensors do not fit a {cls.__name__} ({found}); config and weights must belong together."
            )
        return network.eval()  # type: ignore[no-any-return]

    def fresh(self, seed: int) -> Checkpoint:
        """The same network, freshly initialised as transformers does before training, in the dtypes found here."""
        cls, config = self._network()
        with torch.random.fork_rng(devices=[]), _quiet_transformers():
            torch.manual_seed(seed)
            return self.trained(cls(config))

    def trained(self, module: nn.Module) -> Checkpoint:
        """The weights of a network that `module()` gave, after training, under the names and in the dtypes found here.

        transformers renames tensors on the way in, so a state dict of the network does not fit a checkpoint.
        """
        with _quiet_transformers(), tempfile.TemporaryDirectory() as folder:
            module.save_pretrained(folder)  # type: ignore[operator]
            tensors = {n: t.to(self.dtype(n)) if n in self else t for n, t in Checkpoint.open(folder).items()}
            return Checkpoint.of(tensors, self.config)

    def _network(self) -> tuple[Any, Any]:
        import transformers

        names = self.config.get("architectures") or [""]
        cls = getattr(transformers, str(names[0]), None)
        if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
            raise NotACheckpoint(
                f"The config names no network that transformers knows (architectures = {names}); expected for example "
                "'ViTForImageClassification'."
            )
        known = {key: value for key, value in self.config.items() if key != "auto_map"}
        return cls, transformers.AutoConfig.for_model(**known)


class _Computed:
    """A source whose tensors are computed."""

    def __init__(self, outline: Outline, compute: Callable[[str], torch.Tensor]) -> None:
        self._outline, self._compute = outline, compute

    def names(self) -> Outline:
        return self._outline

    def load(self, name: str) -> torch.Tensor:
        if name not in self._outline:
            raise KeyError(name)
        return self._compute(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._outline[name][0]

    def dtype(self, name: str) -> torch.dtype:
        return self._outline[name][1]


class _Replaced:
    """A source with some tensors exchanged."""

    def __init__(self, below: Checkpoint, over: Checkpoint) -> None:
        self._below, self._over = below, over
        self._names = dict.fromkeys((*below, *over))

    def names(self) -> Mapping[str, Any]:
        return self._names

    def load(self, name: str) -> torch.Tensor:
        return self._holder(name)[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._holder(name).shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._holder(name).dtype(name)

    def _holder(self, name: str) -> Checkpoint:
        return self._over if name in self._over else self._below


class _Transformed:
    """A source whose rewritten tensors are computed place by place, when they are read."""

    KEPT = 4  # the places of one layer: names sorted within a layer alternate between them

    def __init__(self, below: Checkpoint, rewrites: tuple[Rewrite, ...], fn: Callable[[Any], Any]) -> None:
        self._below, self._fn = below, fn
        self._place: dict[str, int] = {}
        self._rewrites = rewrites
        for index, rewrite in enumerate(rewrites):
            for name in rewrite.names:
                if self._place.setdefault(name, index) != index:
                    raise BadInput(
                        f"Two places of one transform both rewrite {name!r}; apply them one after the other."
                    )
        self._latest: dict[int, dict[str, torch.Tensor]] = {}

    def names(self) -> Any:
        return self._below._source.names()

    def load(self, name: str) -> torch.Tensor:
        if name not in self._place:
            return self._below[name]
        index = self._place[name]
        if index not in self._latest:
            rewrite = self._rewrites[index]
            while len(self._latest) >= self.KEPT:
                del self._latest[next(iter(self._latest))]
            self._latest[index] = rewrite.apply(self._below, self._fn(rewrite))
        return self._latest[index][name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._below.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._below.dtype(name)


class _quiet_transformers:
    """Silences transformers' progress bars and advice, and puts its settings back."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._level, self._bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._level)
        if self._bars:
            logging.enable_progress_bar()


def own_tensors(expert: Checkpoint, base: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors that belong to the expert's task: the base lacks them or has another shape (task heads)."""
    return tuple(name for name in expert if name not in base or base.shape(name) != expert.shape(name))


def shared_tensors(expert: Checkpoint, base: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors that expert and base have in common: what can be merged."""
    own = set(own_tensors(expert, base))
    return tuple(name for name in expert if name not in own)
