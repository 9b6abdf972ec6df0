"""What a language model writes by itself: inputs like those that it was trained on, from its weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

_ROWS = 256  # texts at a time
_SAME = 1e-5  # of the logits' size: what rounding may leave between two passes of one shape


def written(network: nn.Module, like: Mapping[str, Tensor], draws: np.random.Generator) -> dict[str, Tensor] | None:
    """Texts drawn token by token from what a network expects next, as LAMOL rehearses (Sun et al., arXiv:1909.03329).

    Args:
        network: Of any kind.
        like: Its inputs, `[n, length]` each. Texts begin with their first tokens, and are as many and as long.
        draws: The randomness.

    Returns:
        Inputs of the same names and dtypes, without padding; `None` where the network is no causal language model, or
        reads more than tokens.
    """
    ids, mask = like.get("input_ids"), like.get("attention_mask")
    if ids is None or not set(like) <= {"input_ids", "attention_mask"} or not _continues(network, ids):
        return None
    if mask is not None and mask.shape != ids.shape:  # which places see which: not of one text from its beginning on
        return None
    at = torch.zeros(len(ids), 1, dtype=torch.int64) if mask is None else mask.int().argmax(1, keepdim=True)
    begun = ids.gather(1, at)
    generator = torch.Generator().manual_seed(int(draws.integers(2**63)))
    texts = torch.cat([_text(network, part, ids.shape[1], generator) for part in begun.split(_ROWS)])
    return {"input_ids": texts} if mask is None else {"input_ids": texts, "attention_mask": torch.ones_like(mask)}


@torch.no_grad()
def _continues(network: nn.Module, ids: Tensor) -> bool:
    """Whether it has a logit for each token at each place, and what it says there hangs on none that comes later."""
    if ids.ndim != 2 or ids.shape[1] < 2 or getattr(getattr(network, "config", None), "is_encoder_decoder", False):
        return False
    generates: Any = getattr(network, "can_generate", None)  # transformers' word on it
    if generates is not None and not generates():
        return False
    some, other = ids[:1], ids[:1].clone()
    other[0, -1] = int(ids[0, -1] == 0)
    first, again = (getattr(network(input_ids=x), "logits", None) for x in (some, other))
    if first is None or first.ndim != 3 or first.shape[1] != ids.shape[1] or first.shape[2] <= int(ids.max()):
        return False
    return bool((first - again)[:, :-1].abs().max() <= _SAME * first.abs().max())


@torch.no_grad()
def _text(network: nn.Module, begun: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """`[n, 1]` → `[n, length]`."""
    text, past = begun, None
    for _ in range(length - 1):
        new = text if past is None else text[:, -1:]
        told: Any = network(input_ids=new, past_key_values=past, use_cache=True)
        past = getattr(told, "past_key_values", None)
        chance = torch.softmax(told.logits[:, -1].float().cpu(), -1)
        text = torch.cat([text, torch.multinomial(chance, 1, generator=generator).to(text.dtype)], 1)
    return text
