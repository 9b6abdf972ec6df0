"""Networks where their weights are: on a GPU if these are, and then they take inputs from the CPU as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

_CPU = torch.device("cpu")


def built_at_home(checkpoint: Any, build: Callable[[Any], nn.Module]) -> nn.Module:
    """The network that libraries build of a checkpoint on the CPU, moved to where its tensors are.

    Args:
        checkpoint: A `Checkpoint`, which lies above this module.
        build: Given the same with its tensors on the CPU.
    """
    elsewhere: set[torch.device] = set()

    def read(name: str) -> torch.Tensor:
        tensor: torch.Tensor = checkpoint[name]
        if tensor.device != _CPU:
            elsewhere.add(tensor.device)
        return tensor.cpu()

    network = build(checkpoint.computed(checkpoint.outline(), read, checkpoint.config))
    if not elsewhere:
        return network
    network.register_forward_pre_hook(_brought, with_kwargs=True, prepend=True)
    return network.to(elsewhere.pop())


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are; the CPU if it has none."""
    return next((weight.device for weight in network.parameters()), _CPU)


def _brought(network: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Data stay on the CPU, where there is room for them; each batch is moved when it is computed."""
    device = device_of(network)
    return tuple(_at(value, device) for value in given), {name: _at(value, device) for name, value in named.items()}


def _at(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
