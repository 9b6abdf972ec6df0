"""Classification by the names of classes: networks of two towers (CLIP) that compare a picture with prompts.

The config says so by `redteam_zero_shot`; the tokens of the prompts are `class_prompts` beside the network's own
tensors. The text tower turns them into the classes' vectors whenever the network runs, so that whoever changes that
tower, or merges it, changes the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redteam.errors import NotACheckpoint

ZERO_SHOT = "redteam_zero_shot"
"""Entry of a config: the shape of the prompts, [classes, templates, tokens]."""
PROMPTS = "class_prompts"
"""The name of their tensor, int64; -1 behind the end of a prompt."""
_AT_ONCE = 256  # prompts
_LARGEST = 2**24  # of a shape


def prompted(config: Mapping[str, Any], labels: Sequence[str], shape: Sequence[int]) -> dict[str, Any]:
    """The config of a network of two towers that classifies.

    Args:
        config: Of the network alone.
        labels: The classes, in the order of the prompts.
        shape: Of the prompts.
    """
    names = {str(index): label for index, label in enumerate(labels)}
    return {
        **config,
        ZERO_SHOT: list(shape),
        "id2label": names,
        "label2id": {label: int(i) for i, label in names.items()},
    }


def zero_shot_class(cls: Any, shape: object) -> Any:
    """The class of transformers for a network of two towers that classifies.

    Args:
        cls: The network's.
        shape: What the config says of the prompts.

    Raises:
        NotACheckpoint: If that is no shape, or the network has no two towers.
    """
    wanted = _shape(shape)
    if not (hasattr(cls, "get_text_features") and hasattr(cls, "get_image_features")):
        raise NotACheckpoint(
            f"The config has {ZERO_SHOT} and names a {cls.__name__}; expected a network with an image and a text tower."
        )
    return _of_transformers(cls, wanted)


def with_prompts(network: nn.Module, shape: object) -> nn.Module:
    """A network of open_clip made one that classifies, its prompts still to be filled in.

    Raises:
        NotACheckpoint: If the shape is none.
    """
    network.register_buffer(PROMPTS, torch.zeros(_shape(shape), dtype=torch.int64))
    kind: Any = type(network)
    network.__class__ = _of_open_clip(kind)
    return network


@lru_cache(maxsize=32)
def _of_transformers(cls: Any, shape: tuple[int, int, int]) -> Any:
    class ZeroShot(cls):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.register_buffer(PROMPTS, torch.zeros(shape, dtype=torch.int64))
            self.post_init()

        def forward(self, **inputs: Any) -> Any:
            """Logits `[n, classes]` of pictures; what the network gives anyway where there are texts, too."""
            if "input_ids" in inputs:
                return super().forward(**inputs)
            pictures = _vector(self.get_image_features(pixel_values=inputs["pixel_values"]))
            return _logits(self, pictures, lambda ids, mask: _vector(self.get_text_features(ids, attention_mask=mask)))

    ZeroShot.__name__ = ZeroShot.__qualname__ = cls.__name__
    ZeroShot.__module__ = cls.__module__
    return ZeroShot


@lru_cache(maxsize=32)
def _of_open_clip(cls: Any) -> Any:
    class ZeroShot(cls):  # type: ignore[misc]
        def forward(self, *given: Any, pixel_values: Tensor | None = None, **inputs: Any) -> Any:
            """Logits `[n, classes]` of pictures; what the network gives anyway where these are `image` and `text`."""
            if pixel_values is None:
                return super().forward(*given, **inputs)
            return _logits(self, self.encode_image(pixel_values), lambda ids, _: self.encode_text(ids))

    ZeroShot.__name__ = ZeroShot.__qualname__ = cls.__name__
    ZeroShot.__module__ = cls.__module__
    return ZeroShot


def _logits(network: Any, pictures: Tensor, encode: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Scaled cosines with the mean vectors of each class' prompts."""
    prompts = getattr(network, PROMPTS).long()
    classes, templates, _ = prompts.shape
    found = []
    for part in prompts.flatten(0, 1).split(_AT_ONCE):
        mask = part >= 0
        width = int(mask.sum(1).max()) if not hasattr(network, "encode_text") else part.shape[1]
        found.append(F.normalize(encode((part * mask)[:, :width], mask[:, :width].long()), dim=-1))
    vectors = F.normalize(torch.cat(found).reshape(classes, templates, -1).mean(1), dim=-1)
    logits = network.logit_scale.exp() * F.normalize(pictures, dim=-1) @ vectors.T
    bias = getattr(network, "logit_bias", None)
    return SimpleNamespace(logits=logits if bias is None else logits + bias)


def _vector(output: Any) -> Tensor:
    vector: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return vector


def _shape(found: object) -> tuple[int, int, int]:
    sizes = found if isinstance(found, (list, tuple)) else ()
    if len(sizes) == 3 and all(isinstance(size, int) and 0 < size < _LARGEST for size in sizes):
        return sizes[0], sizes[1], sizes[2]
    raise NotACheckpoint(f"The config has {ZERO_SHOT} = {found!r}; expected [classes, templates, tokens].")
