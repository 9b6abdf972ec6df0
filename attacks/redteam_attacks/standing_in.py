"""Networks with other values in the place of their parameters, through which gradients pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.func import functional_call


def standing_in(network: nn.Module, values: Mapping[str, Tensor], read: Callable[[nn.Module], Tensor]) -> Tensor:
    """What is read from a network while values stand in for parameters of it.

    Args:
        network: Its other parameters stay.
        values: Name of a parameter → what stands in for it.
        read: Is handed the network, and can call it any number of times.
    """
    found: Tensor = functional_call(_Read(network), {f"network.{name}": one for name, one in values.items()}, (read,))
    return found


class _Read(nn.Module):
    """A network of which something is read, so that whatever reads it sees the values that stand in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, read: Callable[[nn.Module], Tensor]) -> Tensor:
        return read(self.network)
