"""Random inputs for a network, made from its config: enough to see whether a rewrite changed what it computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.known import completed
from redteam.errors import BadInput

_SAMPLES, _TOKENS = 4, 16
_LIMITS, _LOW = ("clip_qkv",), 0.2
_CASTS = ("reorder_and_upcast_attn",)  # GPT-2's, which runs in no dtype but float32 and half of it
_PLACEHOLDER = ("image_token_id", "image_token_index")  # in a config: the token in whose place an image's features come
_COUNT = (
    "mm_tokens_per_image",
    "image_seq_length",
    "num_query_tokens",
)  # how many of them an image takes up, else one a patch
_FEWER = "downsample"  # in the name of a setting: patches are put together
_SQUARE = 64  # pixels, where a network takes images of any size and its config names none


def random_inputs(checkpoint: Checkpoint, seed: int = 0, *, text: bool = False) -> dict[str, Tensor]:
    """Keyword arguments for the network of a checkpoint: token ids, pixel values, or both.

    Encoder-decoder models get `decoder_input_ids` as well, decoders with cross attention the states of an encoder that
    they have not; an open_clip model gets `image` and `text`. Token ids are
    uniform over the vocabulary but for padding, pixel values are standard normal, four samples of each. Where a text
    has placeholders for images, it begins with as many as an image takes up.

    Args:
        checkpoint: Whose config is asked.
        seed: Of the draws.
        text: Whether to leave out all but texts, which then have no placeholders.

    Raises:
        BadInput: If the config says neither how large a vocabulary is nor how large an image, or says so in no numbers.
    """
    draws, config = np.random.default_rng(seed), completed(checkpoint.config)
    try:
        return _made_up(draws, config, checkpoint.architecture, text)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise BadInput(
            f"No inputs can be made up from the sizes that the config gives ({error}); correct its config.json."
        ) from error


def _made_up(draws: np.random.Generator, config: Mapping[str, Any], architecture: str, text: bool) -> dict[str, Tensor]:
    if architecture == "open_clip":
        model = _part(config, "model_cfg") or config
        vision, words = _part(model, "vision_cfg"), _part(model, "text_cfg")
        size = vision.get("image_size") or 224
        length = int(words.get("context_length") or 77)
        return {
            "image": _pixels(draws, 3, size),
            "text": _tokens(draws, int(words.get("vocab_size") or 49408), length, None),
        }
    found: dict[str, Tensor] = {}
    vision, words = _picture_part(config), _text_part(config)
    if words.get("vocab_size"):
        found["input_ids"] = _with_placeholders(_text(draws, words), config, vision, pictures=not text)
        if config.get("is_encoder_decoder"):
            found["decoder_input_ids"] = _text(draws, words)
        elif words.get("add_cross_attention"):
            found["encoder_hidden_states"] = _states(draws, words)
    if "bi_data" in words:  # XLNet, which looks at segments only where it is told them
        found["token_type_ids"] = torch.arange(found["input_ids"].shape[1]).ge(_TOKENS // 2).long().expand(_SAMPLES, -1)
    if words.get("cross_attention_layers"):  # in place of pictures, which come with masks of tiles
        found["cross_attention_states"] = _states(draws, words)
    elif not text:
        found |= {**_pictures(draws, vision), **_sounds(draws, config)}
    if not found:
        raise BadInput(
            "The config has neither a vocab_size nor an image_size, so that no inputs can be made up; pass some."
        )
    return found


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of what reads text; of an encoder and a decoder that have one each, the encoder's."""
    return next((part for name in ("text_config", "encoder") if (part := _part(config, name))), config)


def _picture_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((part for name in ("vision_config", "backbone_config") if (part := _part(config, name))), config)


def _pictures(draws: np.random.Generator, vision: Mapping[str, Any]) -> dict[str, Tensor]:
    channels = int(vision.get("num_channels") or 3)
    if vision.get("num_patches") and not vision.get("image_size"):  # pictures of any shape, cut up beforehand
        side = math.isqrt(int(vision["num_patches"]))
        patch = channels * int(vision.get("patch_size") or 1) ** 2
        return {
            "pixel_values": torch.from_numpy(draws.standard_normal((_SAMPLES, side * side, patch))),
            "pixel_attention_mask": torch.ones(_SAMPLES, side * side, dtype=torch.int64),
            "spatial_shapes": torch.full((_SAMPLES, 2), side),
        }
    if vision.get("num_frames") and vision.get("tubelet_size"):
        frames = [_pixels(draws, channels, vision["image_size"]) for _ in range(int(vision["num_frames"]))]
        return {"pixel_values": torch.stack(frames, dim=1)}
    size = vision.get("image_size") or vision.get("input_size")
    if size or vision.get("num_channels"):
        return {"pixel_values": _pixels(draws, channels, _uneven(size or _SQUARE, vision))}
    return {}


def _uneven(size: Any, vision: Mapping[str, Any]) -> Any:
    """A size that windows do not divide, where a network has some: what it pads them with is seen beside it."""
    window, patch = vision.get("window_size"), vision.get("patch_size")
    if not (isinstance(size, int) and isinstance(window, int) and isinstance(patch, int) and vision.get("depths")):
        return size
    return size + patch if size // patch % window == 0 and not vision.get("use_absolute_embeddings") else size


def _sounds(draws: np.random.Generator, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A spectrogram or a wave, where a config is one of a network that takes it."""
    if config.get("num_mel_bins") and config.get("max_source_positions"):  # two convolutions, of which one halves
        frames = 2 * int(config["max_source_positions"])
        shape: tuple[int, ...] = (_SAMPLES, int(config["num_mel_bins"]), frames)
        return {"input_features": torch.from_numpy(draws.standard_normal(shape))}
    if config.get("num_mel_bins") and config.get("max_length"):
        shape = (_SAMPLES, int(config["max_length"]), int(config["num_mel_bins"]))
        return {"input_values": torch.from_numpy(draws.standard_normal(shape))}
    if config.get("input_feat_per_channel") or config.get("feature_projection_input_dim"):
        features = int(config.get("feature_projection_input_dim") or config["input_feat_per_channel"])
        return {"input_features": torch.from_numpy(draws.standard_normal((_SAMPLES, 2 * _TOKENS, features)))}
    if config.get("conv_stride") and config.get("conv_kernel"):
        length = 8 * math.prod(int(stride) for stride in config["conv_stride"])
        return {"input_values": torch.from_numpy(draws.standard_normal((_SAMPLES, length)))}
    return {}


def tightened(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose limits on activations are low enough for most numbers to be cut off; as it is where it has none.

    What keeps a network's function keeps it whatever the limit is. Casts that some code insists on are switched off.
    """
    found = {k: tightened(v) if isinstance(v, Mapping) else v for k, v in config.items()}
    found |= {key: False for key in _CASTS if found.get(key)}
    return found | {key: _LOW for key in _LIMITS if isinstance(found.get(key), int | float)}


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(draws: np.random.Generator, config: Mapping[str, Any]) -> Tensor:
    places = config.get("max_position_embeddings") or config.get("n_positions") or 2 * _TOKENS
    padding = config.get("pad_token_id")
    # RoBERTa counts positions from behind the padding token's, which is one of the first.
    free = int(places) - 1 - (padding if isinstance(padding, int) and 0 <= padding < int(places) // 2 else 0)
    ids = _tokens(draws, int(config["vocab_size"]), max(1, min(_TOKENS, free)), padding)
    end = config.get("eos_token_id")
    if isinstance(end, int) and 0 <= end < int(config["vocab_size"]):
        ids[ids == end] = abs(end - 1)
        ids[:, -1] = end  # where some encoders look for what a text means
    return ids


def _states(draws: np.random.Generator, config: Mapping[str, Any]) -> Tensor:
    """What an encoder would give a decoder that attends to one."""
    widths = ("cross_attention_hidden_size", "hidden_size", "n_embd", "d_model")
    width = next(int(value) for name in widths if (value := config.get(name)))
    return torch.from_numpy(draws.standard_normal((_SAMPLES, _TOKENS, width)))


def _with_placeholders(ids: Tensor, config: Mapping[str, Any], vision: Mapping[str, Any], *, pictures: bool) -> Tensor:
    """Token ids behind the placeholders of one image, which occur nowhere else; as they are where there are none."""
    held = next((value for name in _PLACEHOLDER if isinstance(value := config.get(name), int)), None)
    if held is None or vision is config:
        return ids
    height, width = _both(vision.get("image_size") or 0)
    rows, columns = _both(vision.get("patch_size") or 1)
    patches = (height // rows) * (width // columns)
    plain = config.get("vision_feature_select_strategy") == "default" and not any(_FEWER in key for key in config)
    counts = () if plain else (value for name in _COUNT if isinstance(value := config.get(name), int))
    count = next(iter(counts), patches)
    ids[ids == held] = abs(held - 1)  # its neighbour
    if not pictures:
        return ids
    return torch.cat([torch.full((len(ids), count), held), ids], dim=1)


def _tokens(draws: np.random.Generator, vocabulary: int, length: int, padding: Any) -> Tensor:
    ids = draws.integers(0, vocabulary, (_SAMPLES, length))
    if isinstance(padding, int):
        ids[ids == padding] = (padding + 1) % vocabulary
    return torch.from_numpy(ids)


def _pixels(draws: np.random.Generator, channels: int, size: Any) -> Tensor:
    return torch.from_numpy(draws.standard_normal((_SAMPLES, channels, *_both(size))))


def _both(size: Any) -> tuple[int, int]:
    """Height and width, where one number may stand for both."""
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return int(height), int(width)
