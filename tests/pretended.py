"""A pretended GPU: tensors that say they are on `cuda`, are computed on the CPU, and refuse what CUDA refuses.

While it is active, tensors that are moved to `cuda` are wrappers around tensors on the CPU. Figures are the CPU's to
the last bit, so that a run on it must give what a run on the CPU gives, and whatever mixes devices, makes a tensor on
the wrong one or takes one to numpy without `.cpu()` fails as it would on a GPU. To torch they are on its device `lazy`,
of which it keeps no account: without a driver it lets nothing be on `cuda`, and has no gradients there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
NAME = "a pretended GPU"
_PLACE = torch.device("lazy", 0)
_MAY_MIX = {aten._to_copy, aten.copy_, aten.copy, aten._foreach_copy_}
_TAKES_PLACES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
"""CUDA takes the places from the CPU; the values must be where the tensor is."""
_PRODUCTS = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__}
_FLOATS_ONLY = {aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.mv, aten.dot, aten.addmv}
_MISSING = {aten.geqrf, aten.histogram, aten._histogramdd_bin_edges}


class Away(torch.Tensor):
    """A tensor of the pretended GPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Away:
        made: Away = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=_PLACE,
        )
        made.inner = inner
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:  # so that modules are moved whole
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, Tensor], _: None, size: Any, stride: Any) -> Away:
        return Away(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} was given a tensor of a pretended GPU after that was gone")

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()


class _Pretended(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ran = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(isinstance(x, Away) for x in given)
        assert not (there and torch.Tag.inplace_view in func.tags), f"a wrapper has one shape for good ({func})"
        packet = func.overloadpacket
        if there:
            self.ran += 1
            _require(func, packet, given, args)
        to = there
        if kwargs.get("device") is not None:
            to = torch.device(kwargs["device"]).type == _PLACE.type
            kwargs["device"] = torch.device("cpu") if to else kwargs["device"]
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if packet is aten._to_copy and not to and kwargs.get("device") is None:
            to = there
        own = {id(x.inner): x for x in given if isinstance(x, Away)}  # what was written in place is what was given

        def wrapped(x: Any) -> Any:
            if not to or not isinstance(x, Tensor):
                return x
            # A wrapper has no mark for what is yet to be conjugated.
            return own[id(x)] if id(x) in own else Away(x.resolve_conj().resolve_neg())

        return tree_map(wrapped, found)


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Away) else x


def _require(func: Any, packet: Any, given: list[Tensor], args: Any) -> None:
    """Raises RuntimeError where CUDA would."""
    if packet in _MISSING or (
        packet in _FLOATS_ONLY and not given[0].is_floating_point() and not given[0].is_complex()
    ):
        raise RuntimeError(f"{func} is not implemented on CUDA for {given[0].dtype}")
    if packet in _MAY_MIX:
        return
    if packet in _TAKES_PLACES and isinstance(args[0], Away):
        given = [args[0], *(x for x in args[2:] if isinstance(x, Tensor))]
    here = [tuple(x.shape) for x in given if not isinstance(x, Away) and x.ndim > 0]
    if here:
        raise RuntimeError(f"Expected all tensors to be on the same device, and {func} was given {here} on the CPU")


class _Named(TorchFunctionMode):
    """Takes `cuda` for the pretended GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, named = [_placed(x) for x in args], {name: _placed(x) for name, x in (kwargs or {}).items()}
        if (
            func in (torch.tensor, torch.as_tensor) and named.get("device") == _PLACE
        ):  # which torch does out of our sight
            return func(*args, **{**named, "device": "cpu"}).to(_PLACE)
        if func in _PRODUCTS and isinstance(args[0], Away) and args[0].ndim == 1 and args[1].ndim == 2:
            return func(args[0][None], args[1]).squeeze(0)  # torch drops that dimension in place
        return func(*args, **named)


def _placed(x: Any) -> Any:
    named = (isinstance(x, str) and x.startswith("cuda")) or (isinstance(x, torch.device) and x.type == "cuda")
    return _PLACE if named else x


@contextmanager
def pretended_gpu() -> Iterator[_Pretended]:
    """While it is active, there is a device `cuda`; no tensor on it may be used afterwards."""
    with (
        mock.patch("torch.optim.optimizer._get_fused_kernels_supported_devices", return_value=["lazy", "cpu"]),
        mock.patch("torch.inference_mode", torch.no_grad),  # which knows no views of such wrappers
        mock.patch("torch.lazy", torch.cuda, create=True),  # what has a type has a module
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.get_device_name", return_value=NAME),
        mock.patch("torch.cuda.synchronize"),
        mock.patch("torch.optim.Optimizer._accelerator_graph_capture_health_check"),
        mock.patch("torch.cuda.reset_peak_memory_stats"),
        mock.patch("torch.cuda.max_memory_allocated", return_value=2**20),
        _Named(),
        _Pretended() as mode,
    ):
        yield mode
