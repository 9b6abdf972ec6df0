"""Names that a wrapper has left in a checkpoint: of compilers, parallel training and adapters that were not merged."""

from __future__ import annotations

import re
from collections.abc import Collection

from redteam.checkpoint.safetensors_io import shown
from redteam.errors import NotACheckpoint

_MERGE = "merge it (in PEFT: model = model.merge_and_unload()) and save the model again"
_MARKS = (
    (r"(^|\.)(base_layer|lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)(\.|$)", "an adapter unmerged", _MERGE),
    (r"(^|\.)(modules_to_save|original_module)\.", "an adapter unmerged", _MERGE),
    (r"^base_model\.model\.", "the names of PEFT's wrapper", _MERGE),
    (r"(^|\.)_orig_mod\.", "the names of torch.compile's wrapper", "save the network inside, model._orig_mod"),
    (
        r"(^|\.)(_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.",
        "the names of a wrapper for training",
        "save the network inside it",
    ),
)
"""Pattern of a name → what it tells, and the remedy. Networks have no parts that are called so."""
_PARALLEL = "module."


def require_unwrapped(names: Collection[str], where: str) -> None:
    """Refuses a checkpoint that was saved with what a network was wrapped into: loaders take nothing of it, or half.

    Args:
        names: Of its tensors.
        where: What it is called in the message.

    Raises:
        NotACheckpoint: If a name tells a wrapper.
    """
    for pattern, what, remedy in _MARKS:
        found = next((name for name in names if re.search(pattern, name)), None)
        if found is not None:
            raise NotACheckpoint(f"{where} holds {what} ({shown(found)}); {remedy}.")
    if names and all(name.startswith(_PARALLEL) for name in names):
        raise NotACheckpoint(
            f"{where} holds the names of parallel training's wrapper ({shown(next(iter(names)))}); save the network "
            "inside, model.module."
        )
