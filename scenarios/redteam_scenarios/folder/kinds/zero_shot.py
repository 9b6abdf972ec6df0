"""Zero-shot classification: the names of classes in templates, as the tokens of a text tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.discover import OPEN_CLIP
from redteam.checkpoint.zero_shot import PROMPTS, prompted
from redteam.errors import BadInput
from redteam_scenarios.folder.kinds.text import require_known
from redteam_scenarios.folder.models import tokenizer_of
from redteam_scenarios.folder.of_open_clip import context_of, tokens_of
from redteam_scenarios.folder.source import Source

_PADDED = ("siglip", "siglip2")
"""Types whose texts always have their full length, the padding being read as the rest is."""
_LONGEST = 77


def prompted_with(source: Source, labels: Sequence[str]) -> Checkpoint:
    """The expert with the prompts of the classes.

    Args:
        source: The task.
        labels: The classes as they stand in the data.

    Raises:
        BadInput: If there are other numbers of names and labels, or no tokenizer.
    """
    entry = source.entry
    names = list(entry.classes) or [label.replace("_", " ") for label in labels]
    if len(names) != len(labels):
        raise BadInput(
            f"tasks.{source.name} has {len(labels)} labels and {len(names)} classes to call them by; expected as many, "
            "in the same order."
        )
    texts = [template.replace("{}", name) for name in names for template in entry.templates]
    tokens = _tokens(source, texts).reshape(len(names), len(entry.templates), -1)
    return source.expert.configured(prompted(source.expert.config, labels, tokens.shape)).replace({PROMPTS: tokens})


def _tokens(source: Source, texts: Sequence[str]) -> torch.Tensor:
    expert = source.expert
    if expert.architecture == OPEN_CLIP:
        found = tokens_of(expert, texts)
        if found is None:
            found = _by_transformers(source, texts, context_of(expert), padded=True)
        size = (expert.config.get("model_cfg") or {}).get("text_cfg", {}).get("vocab_size")
    else:
        words = expert.config.get("text_config") or {}
        length = int(words.get("max_position_embeddings") or _LONGEST)
        found = _by_transformers(source, texts, length, padded=expert.architecture in _PADDED)
        size = words.get("vocab_size")
    if isinstance(size, int):
        require_known(source, [found], size)
    return found


def _by_transformers(source: Source, texts: Sequence[str], length: int, *, padded: bool) -> torch.Tensor:
    """Tokens; -1 behind the end of a text, where the padding is not part of it."""
    tokenizer = tokenizer_of(*source.homes)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    made = tokenizer(
        list(texts), padding="max_length" if padded else True, max_length=length, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = made["input_ids"].long()
    return ids if padded or "attention_mask" not in made else ids.masked_fill(made["attention_mask"] == 0, -1)
