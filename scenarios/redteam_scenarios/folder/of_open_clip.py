"""How networks of open_clip are shown pictures and texts: as their config says, from what the library brings along."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.extras import require_extra

_LENGTH, _PIXELS = 77, 224


def transform_of(expert: Checkpoint) -> Callable[[Any], torch.Tensor]:
    """What makes pixels `[channels, height, width]` of a picture.

    Raises:
        BadInput: If the config does not say how, or open_clip is not installed.
    """
    require_extra("open-clip", "A network of open_clip")
    from open_clip.transform import PreprocessCfg, image_transform_v2

    said = dict(expert.config.get("preprocess_cfg") or {})
    said.setdefault("size", _part(expert, "vision_cfg").get("image_size", _PIXELS))
    try:
        return image_transform_v2(PreprocessCfg(**said), is_train=False)  # type: ignore[no-any-return]
    except (TypeError, ValueError, AssertionError) as error:
        why = " ".join(str(error).split())
        raise BadInput(
            f"The preprocess_cfg of an open_clip checkpoint says no way to read pictures ({why}); restore "
            "open_clip_config.json."
        ) from None


def tokens_of(expert: Checkpoint, texts: Sequence[str]) -> torch.Tensor | None:
    """Tokens int64 `[n, context]` by open_clip's own vocabulary; `None` where the config names another's tokenizer.

    Raises:
        BadInput: If open_clip is not installed.
    """
    require_extra("open-clip", "A network of open_clip")
    from open_clip.tokenizer import SimpleTokenizer

    settings = _part(expert, "text_cfg")
    if settings.get("hf_tokenizer_name"):
        return None
    length = int(settings.get("context_length") or _LENGTH)
    options = settings.get("tokenizer_kwargs")
    tokenizer = SimpleTokenizer(context_length=length, **(options if isinstance(options, dict) else {}))
    found: torch.Tensor = tokenizer(list(texts))
    return found


def context_of(expert: Checkpoint) -> int:
    """How many tokens a text of it has."""
    return int(_part(expert, "text_cfg").get("context_length") or _LENGTH)


def _part(expert: Checkpoint, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (expert.config.get("model_cfg") or {}).get(name) or {}
    return found
