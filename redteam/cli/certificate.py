"""What `protect --certify` prints: how far outputs changed, exactly and as stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from redteam.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from redteam.checkpoint import Checkpoint

BOUND = 0.01
"""The largest change of an output, relative to the largest output, that `--strict` lets pass."""
_COUNT = 4  # random inputs
_TOKENS = 32


def certified(
    victim: Checkpoint,
    protected: Checkpoint,
    stored: Checkpoint,
    inputs: Mapping[str, Tensor] | None,
    *,
    strict: bool,
) -> list[str]:
    """Lines about a rewrite.

    Args:
        victim: As it was.
        protected: Rewritten, not rounded.
        stored: Says in which dtype it will be stored.
        inputs: Real ones; random ones where there are none.
        strict: Whether a change over `BOUND` is refused.

    Raises:
        BadInput: If it is, or if there is no way to draw inputs.
    """
    import torch

    from redteam.symmetry import certify

    found = certify(
        victim.cast(torch.float64),
        protected.cast(torch.float64, "cpu"),
        random_inputs(victim.config) if inputs is None else {k: v[:_COUNT] for k, v in inputs.items()},
    )
    on = "random inputs" if inputs is None else "real inputs"
    lines = [f"Change of the outputs on {on}, before rounding: {found.change:.2g}"]
    lines += [
        f"Stored in {name}: {found.stored[name]:.2g} (unprotected {found.rounding[name]:.2g})" for name in found.stored
    ]
    conditions = {site: value for site, value in found.conditions.items() if not math.isnan(value)}
    if conditions:
        worst = max(conditions, key=lambda site: conditions[site])
        lines.append(f"Largest condition number: {conditions[worst]:.3g}, at {worst}")
    released = {str(stored.dtype(name)).removeprefix("torch.") for name in stored} & set(found.stored)
    change = max([found.change, *(found.stored[name] for name in released)])
    if strict and not change <= BOUND:
        raise BadInput(
            f"The outputs change by {change:.2g} of the largest as stored, more than {BOUND:g}; nothing was written, "
            "so choose a milder setting or a wider --dtype."
        )
    return lines


def random_inputs(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random images or tokens of the size that a config names, under the names that the network takes them by.

    Raises:
        BadInput: If it names none.
    """
    import numpy as np
    import torch

    draws = np.random.default_rng(seed)
    own = config.get("model_cfg", {}) if config.get("model_type") == "open_clip" else {}
    image, tokens = ("image", "text") if own else ("pixel_values", "input_ids")
    names = ("vision_cfg", "text_cfg") if own else ("vision_config", "text_config")
    whole = own or config
    inputs: dict[str, Tensor] = {}
    for part in (whole, *(whole[name] for name in names if isinstance(whole.get(name), Mapping))):
        if "image_size" in part:
            sides = part["image_size"] if isinstance(part["image_size"], (list, tuple)) else [part["image_size"]] * 2
            shape = (_COUNT, int(part.get("num_channels", 3)), *map(int, sides))
            inputs[image] = torch.from_numpy(draws.standard_normal(shape)).float()
        elif "vocab_size" in part:
            # open_clip wants the whole context; some position embeddings count from 2, so that two places are missing.
            limit = int(part.get("max_position_embeddings", _TOKENS + 2)) - 2
            length = int(part.get("context_length", 77)) if own else min(_TOKENS, limit)
            inputs[tokens] = torch.from_numpy(draws.integers(1, int(part["vocab_size"]), (_COUNT, length)))
    if config.get("is_encoder_decoder") and tokens in inputs:
        inputs[f"decoder_{tokens}"] = inputs[tokens].flip(-1)
    if not inputs:
        raise BadInput("The config names no image_size and no vocab_size, so that no inputs can be drawn; give --data.")
    return inputs
