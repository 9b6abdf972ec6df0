"""Networks computed in float64 throughout: norms, softmax and angles ask for float32 whatever the weights are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def lifted() -> Iterator[None]:
    """While it is active, whatever asks torch for float32 gets float64.

    A lock that keeps the function keeps it in exact arithmetic; without this, two networks in float64 that compute the
    same agree to 1e-7 only, since their norms round to float32.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # numbers that code makes tensors of, such as float64's smallest
    try:
        with _Lifted():
            yield
    finally:
        torch.set_default_dtype(before)


class _Lifted(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = {name: _wider(value) for name, value in (kwargs or {}).items()}
        if func is torch.Tensor.float:
            return args[0].to(torch.float64, **named)
        return func(*(_wider(value) for value in args), **named)


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
