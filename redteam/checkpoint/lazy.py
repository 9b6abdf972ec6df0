"""Lazy overlays: what a checkpoint's tensors become, computed when they are read."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import torch

from redteam.checkpoint.factors import Factors
from redteam.checkpoint.safetensors_io import shown
from redteam.checkpoint.tensors import Tensors
from redteam.errors import BadInput

if TYPE_CHECKING:
    from redteam.checkpoint.sources import Source

Outline = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Name → shape and dtype."""


_keeping: WeakSet[Transformed | Recent] = WeakSet()


def forget() -> None:
    """Drops what overlays keep of tensors that were read; they are read or computed anew when they are asked for.

    For readers that have done with a layer and need the memory: what is kept helps within one.
    """
    for source in list(_keeping):
        source.forget()


class Rewrite(Protocol):
    """A place in a checkpoint that a gauge can rewrite; `redteam.anatomy.Site` is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that change together."""

    def apply(self, checkpoint: Mapping[str, torch.Tensor], gauge: Any, /) -> dict[str, torch.Tensor]:
        """Those tensors under `gauge`."""


class Computed:
    """A source whose tensors are computed."""

    def __init__(
        self,
        outline: Outline,
        compute: Callable[[str], torch.Tensor],
        rough: Callable[[str], torch.Tensor] | None = None,
        factors: Callable[[str], Factors | None] | None = None,
    ) -> None:
        self._outline, self._compute, self._rough, self._factors = outline, compute, rough, factors

    def names(self) -> Outline:
        return self._outline

    def load(self, name: str) -> torch.Tensor:
        if name not in self._outline:
            raise KeyError(name)
        return self._compute(name)

    def rough(self, name: str) -> torch.Tensor:
        return self.load(name) if self._rough is None else self._rough(name)

    def factors(self, name: str) -> Factors | None:
        return None if self._factors is None else self._factors(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._outline[name][0]

    def dtype(self, name: str) -> torch.dtype:
        return self._outline[name][1]


class Renamed:
    """Some of the tensors of a checkpoint, under other names or their own: new name → name below."""

    def __init__(self, below: Tensors, names: Mapping[str, str]) -> None:
        self._below, self._names = below, names

    def names(self) -> Mapping[str, str]:
        return self._names

    def load(self, name: str) -> torch.Tensor:
        return self._below[self._names[name]]

    def rough(self, name: str) -> torch.Tensor:
        return self._below.rough(self._names[name])

    def part(self, name: str, place: int) -> torch.Tensor:
        return self._below.part(self._names[name], place)

    def factors(self, name: str) -> Factors | None:
        return self._below.factors(self._names[name])

    def shape(self, name: str) -> tuple[int, ...]:
        return self._below.shape(self._names[name])

    def dtype(self, name: str) -> torch.dtype:
        return self._below.dtype(self._names[name])


class Replaced:
    """A source with some tensors exchanged."""

    def __init__(self, below: Tensors, over: Tensors) -> None:
        self._below, self._over = below, over
        self._names = dict.fromkeys((*below, *over))

    def names(self) -> Mapping[str, Any]:
        return self._names

    def load(self, name: str) -> torch.Tensor:
        return self._holder(name)[name]

    def rough(self, name: str) -> torch.Tensor:
        return self._holder(name).rough(name)

    def part(self, name: str, place: int) -> torch.Tensor:
        return self._holder(name).part(name, place)

    def factors(self, name: str) -> Factors | None:
        return self._holder(name).factors(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._holder(name).shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._holder(name).dtype(name)

    def _holder(self, name: str) -> Tensors:
        return self._over if name in self._over else self._below


class Transformed:
    """A source whose rewritten tensors are computed place by place, when they are read."""

    KEPT = 2  # the places of one kind in a layer: names sorted within a layer alternate between them
    BYTES = 2**24  # what is kept in any case, so that overlays of small checkpoints are computed once

    def __init__(self, below: Tensors, rewrites: tuple[Rewrite, ...], fn: Callable[[Any], Any]) -> None:
        self._below, self._fn = below, fn
        self._place: dict[str, int] = {}
        self._rewrites = rewrites
        for index, rewrite in enumerate(rewrites):
            for name in rewrite.names:
                if self._place.setdefault(name, index) != index:
                    raise BadInput(
                        f"Two places of one transform both rewrite {name!r}; apply them one after the other."
                    )
        self.forget()
        _keeping.add(self)

    def forget(self) -> None:
        self._latest: dict[int, dict[str, torch.Tensor] | None] = {}  # None where the gauge changes nothing

    def names(self) -> Any:
        return self._below

    def load(self, name: str) -> torch.Tensor:
        rewritten = self._rewritten(name)
        return self._below[name] if rewritten is None else rewritten[name]

    def rough(self, name: str) -> torch.Tensor:
        rewritten = self._rewritten(name)
        return self._below.rough(name) if rewritten is None else rewritten[name]

    def part(self, name: str, place: int) -> torch.Tensor:
        rewritten = self._rewritten(name)
        return self._below.part(name, place) if rewritten is None else rewritten[name][place : place + 1]

    def _rewritten(self, name: str) -> dict[str, torch.Tensor] | None:
        if name not in self._place:
            return None
        index, latest = self._place[name], self._latest
        if index not in latest:
            rewrite = self._rewrites[index]
            while len(latest) >= self.KEPT and sum(map(_bytes, latest.values())) > self.BYTES:
                latest.pop(next(iter(latest)))
            gauge = self._fn(rewrite)
            still = bool(getattr(gauge, "neutral", False)) and getattr(rewrite, "still", False)
            latest[index] = None if still else rewrite.apply(self._below, gauge)
        return latest[index]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._below.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._below.dtype(name)


def _bytes(tensors: Mapping[str, torch.Tensor] | None) -> int:
    return sum(tensor.nbytes for tensor in (tensors or {}).values())


class Refactored:
    """A source whose low-rank changes are split into other factors; a tensor moves by what that does to the product."""

    def __init__(self, below: Tensors, fn: Callable[[str, Factors], Factors]) -> None:
        self._below, self._fn = below, fn

    def names(self) -> Any:
        return self._below

    def load(self, name: str) -> torch.Tensor:
        weight, own = self._below[name], self._below.factors(name)
        if own is None:
            return weight
        own = own.to(dtype=torch.float64, device=weight.device)
        moved = self._fn(name, own).to(dtype=torch.float64, device=weight.device).change - own.change
        wide = torch.promote_types(weight.dtype, torch.float32)
        return (weight.to(wide) + moved.reshape(weight.shape).to(wide)).to(weight.dtype)

    def factors(self, name: str) -> Factors | None:
        own = self._below.factors(name)
        return None if own is None else self._fn(name, own)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._below.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._below.dtype(name)


class Recent:
    """A source that keeps what was read last, for readers that come back to the same layer."""

    def __init__(self, below: Tensors, limit: int) -> None:
        self._below, self._limit = below, limit
        self.forget()
        _keeping.add(self)

    def forget(self) -> None:
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def names(self) -> Any:
        return self._below

    def load(self, name: str) -> torch.Tensor:
        return self.rough(name).clone()

    def rough(self, name: str) -> torch.Tensor:
        recent = self._kept
        tensor = recent.pop(name, None)
        tensor = self._below.rough(name) if tensor is None else tensor
        recent[name] = tensor
        while sum(kept.nbytes for kept in recent.values()) > self._limit and len(recent) > 1:
            recent.popitem(last=False)
        return tensor

    def part(self, name: str, place: int) -> torch.Tensor:
        kept = self._kept.get(name)
        return self._below.part(name, place) if kept is None else kept[place : place + 1].clone()

    def factors(self, name: str) -> Factors | None:
        return self._below.factors(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._below.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._below.dtype(name)


class Cast:
    """A source whose floating-point tensors come in another dtype, on another device."""

    def __init__(self, below: Tensors, dtype: torch.dtype | None, device: torch.device | str | None) -> None:
        self._below, self._dtype, self._device = below, dtype, device

    def names(self) -> Any:
        return self._below

    def load(self, name: str) -> torch.Tensor:
        if self._dtype is None or not self.dtype(name).is_floating_point:
            return self._below[name].to(device=self._device)
        return self._below.rough(name).to(device=self._device, dtype=self._dtype, copy=True)

    def rough(self, name: str) -> torch.Tensor:
        tensor = self._below.rough(name)
        return tensor if self._device is None else tensor.to(self._device)

    def part(self, name: str, place: int) -> torch.Tensor:
        dtype = self._dtype if self.dtype(name).is_floating_point else None
        return self._below.part(name, place).to(device=self._device, dtype=dtype)

    def factors(self, name: str) -> Factors | None:
        found = self._below.factors(name)
        return None if found is None else found.to(device=self._device)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._below.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        found = self._below.dtype(name)
        return self._dtype if self._dtype is not None and found.is_floating_point else found


class StoredAs:
    """A source whose floating-point tensors are rounded to the dtypes of another checkpoint, on the CPU."""

    def __init__(self, below: Tensors, other: Tensors) -> None:
        self._below, self._other = below, other
        self._usual = usual_dtype(other)

    def names(self) -> Any:
        return self._below

    def load(self, name: str) -> torch.Tensor:
        tensor, dtype = self._below.rough(name), self.dtype(name)
        rounded = tensor.to(dtype).cpu()
        if dtype.is_floating_point and torch.finfo(dtype).max < 1e38:
            lost = ~torch.isfinite(rounded.float()) & torch.isfinite(tensor).cpu()
            if bool(lost.any()):
                raise BadInput(
                    f"{shown(name)} reaches {float(tensor.abs().max()):.3g}, more than {dtype} holds; ask for another "
                    "dtype, such as bfloat16."
                )
        return rounded

    def shape(self, name: str) -> tuple[int, ...]:
        return self._below.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        found = self._below.dtype(name)
        if not found.is_floating_point:
            return found
        wanted = self._other.dtype(name) if name in self._other else self._usual
        return wanted if wanted is not None and wanted.is_floating_point else found


def usual_dtype(checkpoint: Tensors | Source) -> torch.dtype | None:
    """The floating-point dtype that most of a checkpoint's numbers have, `None` if it has none."""
    counts: Counter[torch.dtype] = Counter()
    for name in checkpoint if isinstance(checkpoint, Mapping) else checkpoint.names():
        if (dtype := checkpoint.dtype(name)).is_floating_point:
            counts[dtype] += math.prod(checkpoint.shape(name))
    return counts.most_common(1)[0][0] if counts else None
