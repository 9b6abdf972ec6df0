"""A linear head on an encoder's pooled states, for bare networks: what embedding models are published as.

The config says so by `redteam_pooling`; the head is `classifier.weight` `[labels, width]` and `classifier.bias` beside
the network's own tensors. Without labels there is none, and the pooled states themselves are what the network gives. It
is a network of transformers like any other: loaded, initialised and saved by its rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from redteam.errors import NotACheckpoint

POOLING = "redteam_pooling"
"""Entry of a config: how the states of a text or picture become one vector, a key of `POOLINGS`."""
HEAD = ("classifier.weight", "classifier.bias")
"""The names of the head."""


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


def _first(states: Tensor, mask: Tensor) -> Tensor:
    return _at(states, mask.argmax(1))


def _last(states: Tensor, mask: Tensor) -> Tensor:
    return _at(states, mask.shape[1] - 1 - mask.flip(1).argmax(1))


def _at(states: Tensor, places: Tensor) -> Tensor:
    return states[torch.arange(len(states)), places]


POOLINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "cls": _first, "last": _last}
"""Functions of states `[n, length, width]` and a mask `[n, length]` of 0 and 1 that give `[n, width]`; padding counts
for nothing, on either side."""


def headed(config: Mapping[str, Any], labels: Sequence[str], pooling: str) -> dict[str, Any]:
    """The config of a bare network with a head on it.

    Args:
        config: Of the network alone.
        labels: The classes, in the order of the head's rows; none for a network without a head.
        pooling: A key of `POOLINGS`.
    """
    names = {str(index): label for index, label in enumerate(labels)}
    return {**config, POOLING: pooling, "id2label": names, "label2id": {label: int(i) for i, label in names.items()}}


def pooled(cls: Any, pooling: object) -> Any:
    """The class of transformers for a bare network with a head on its pooled states.

    Args:
        cls: The bare network's.
        pooling: What the config asks for.

    Raises:
        NotACheckpoint: If that is no pooling, or the network has a head already.
    """
    if not (isinstance(pooling, str) and pooling in POOLINGS):
        raise NotACheckpoint(f"The config has {POOLING} = {pooling!r}; expected one of {', '.join(POOLINGS)}.")
    if not cls.__name__.endswith("Model"):
        raise NotACheckpoint(f"The config has {POOLING} and names a {cls.__name__}; expected a network without a head.")
    return _class(cls, pooling)


@lru_cache(maxsize=32)
def _class(cls: Any, pooling: str) -> Any:
    from torch import nn
    from transformers.modeling_outputs import SequenceClassifierOutput

    class Pooled(cls):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.config.use_cache = False  # of decoders, whose earlier states nobody asks for
            width = getattr(config, "hidden_size", None) or config.hidden_sizes[-1]
            self.classifier = nn.Linear(width, config.num_labels) if config.num_labels else nn.Identity()
            self.post_init()

        def forward(self, **inputs: Any) -> Any:
            """Logits `[n, labels]`, or pooled states `[n, width]`."""
            states = super().forward(**inputs).last_hidden_state
            if states.ndim == 4:  # maps of a convolutional network
                states = states.flatten(2).transpose(1, 2)
            mask = inputs.get("attention_mask")
            if mask is None:
                mask = torch.ones(states.shape[:2], dtype=torch.int64, device=states.device)
            return SequenceClassifierOutput(logits=self.classifier(POOLINGS[pooling](states, mask)))

    Pooled.__name__ = Pooled.__qualname__ = cls.__name__
    Pooled.__module__ = cls.__module__
    return Pooled
