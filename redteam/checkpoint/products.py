"""Products with weights in float32 by oneDNN: MKL, which torch takes, leaves half of an AMD processor's width idle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_WORTH = 2**21  # multiplications in a product; with fewer, what a call costs tells more
_BOTH = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()  # else there is nothing to choose


def with_fast_products(network: nn.Module) -> nn.Module:
    """The same network, in which linear maps are computed by the faster library, up to rounding as before."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear
    return network


class FastLinear(nn.Linear):
    """A linear map like any other, to be had by giving one this class."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """`x Wᵀ + b`."""
        return product(input, self.weight, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b`, [..., in] × [out, in] → [..., out], differentiable as often as wanted."""
    if not _suits(x, weight):
        return nn.functional.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _onednn(x, weight, bias)
    found: Tensor = _Product.apply(x, weight, bias)
    return found


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (slope,), (x, weight), needed = slopes, ctx.saved_tensors, ctx.needs_input_grad
        rows = slope.flatten(0, -2)
        return (
            product(slope, weight.mT) if needed[0] else None,
            product(rows.mT, x.flatten(0, -2).mT) if needed[1] else None,
            rows.sum(0) if needed[2] else None,
        )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether there is a choice, these are enough plain numbers of the kind, and nothing but gradients is taken."""
    return (
        _BOTH
        and x.dtype is weight.dtype is torch.float32
        and x.device.type == weight.device.type == "cpu"
        and type(x) is Tensor
        and type(weight) in (nn.Parameter, Tensor)
        and x.ndim > 1
        and x.numel() * len(weight) >= _WORTH
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )
