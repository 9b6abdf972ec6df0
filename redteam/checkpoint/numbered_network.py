"""A network whose tokenizer numbers tokens otherwise than the base's, run on the base's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

_TOKENS = ("input_ids", "decoder_input_ids")


def on_the_base_numbers(network: nn.Module, numbers: Tensor) -> None:
    """Has a network take token ids as the base's tokenizer gives them, and give logits in their order.

    It stands for the tokenizer that goes with the network: the network itself gets the ids that this would give, and
    whatever it does with ids of special tokens it does with these.

    Args:
        network: Of transformers; it is changed.
        numbers: int64 [2, m], as in the tensor `NUMBERS`.
    """
    there = torch.arange(int(numbers.max()) + 1 if numbers.numel() else 0)
    there[numbers[0]] = numbers[1]
    head: Any = getattr(network, "get_output_embeddings", lambda: None)()
    width = None if head is None else int(head.weight.shape[0])
    named = (*_TOKENS, "labels") if width is not None else _TOKENS

    def entering(part: nn.Module, given: tuple[Any, ...], settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if given and getattr(part, "main_input_name", "") == "input_ids" and isinstance(given[0], Tensor):
            given = (_under(given[0], there), *given[1:])
        mapped = {name: _under(settings[name], there) for name in named if isinstance(settings.get(name), Tensor)}
        return given, {**settings, **mapped}

    def leaving(_part: nn.Module, _given: Any, output: Any) -> Any:
        if width is None or not isinstance(output, Mapping):
            return output
        order = torch.arange(width)
        order[: len(there)] = there[:width]
        for name, value in output.items():
            if name.endswith("logits") and value is not None and value.shape[-1] == width:
                output[name] = value[..., order.to(value.device)]  # type: ignore[index]
        return output

    network.register_forward_pre_hook(entering, with_kwargs=True)
    network.register_forward_hook(leaving)


def _under(ids: Tensor, there: Tensor) -> Tensor:
    """Ids under their other numbers; those that have none, and negative ones, which mark what is left out, stay."""
    if not len(there):
        return ids
    known = (ids >= 0) & (ids < len(there))
    return torch.where(known, there.to(ids.device)[ids.clamp(0, len(there) - 1)].to(ids.dtype), ids)
