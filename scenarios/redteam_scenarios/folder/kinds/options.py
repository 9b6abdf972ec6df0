"""Multiple choice for encoders with a head that compares choices: prompt and choice as pairs of texts."""

from __future__ import annotations

import torch

from redteam.checkpoint.tensors import classes_of
from redteam.errors import BadInput
from redteam.tasks import Classification, MultipleChoice
from redteam_scenarios.folder.kinds import causal
from redteam_scenarios.folder.kinds.text import tokenized
from redteam_scenarios.folder.prepared import Parts
from redteam_scenarios.folder.source import Source

HEAD = "ForMultipleChoice"
"""End of the name of an architecture with such a head."""


def choices(source: Source) -> Parts:
    """Pairs of prompt and choice `[n, choices, tokens]` and the places of the right ones; of causal models, as theirs.

    Raises:
        BadInput: If rows have different numbers of choices, which such a head cannot compare.
    """
    if not any(name.endswith(HEAD) for name in classes_of(source.expert.config)):
        return causal.choices(source)
    entry = source.entry
    named = (entry.choices,) if isinstance(entry.choices, str) else entry.choices
    told = {
        split: [(str(row[entry.prompt]), *causal.told(source, row)) for row in held]
        for split, held in source.rows((entry.prompt, *named), (entry.answer,)).items()
    }
    counts = {len(texts) for held in told.values() for _, texts, _ in held}
    if len(counts) > 1:
        raise BadInput(
            f"The rows of {source.name!r} have {min(counts)} to {max(counts)} choices, and the head of its expert "
            "compares as many in each; leave some out."
        )
    pairs = {split: [(prompt, text) for prompt, texts, _ in held for text in texts] for split, held in told.items()}
    tokens, count = tokenized(source, pairs), counts.pop()
    return {
        split: (
            {name: tensor.reshape(len(held), count, -1) for name, tensor in tokens[split].items()},
            torch.tensor([right for _, _, right in held]),
        )
        for split, held in told.items()
    }


def chosen(source: Source, parts: Parts) -> Classification | MultipleChoice:
    """The task; guessing takes each choice as often as any other."""
    if parts["test"][1].ndim > 1:
        return causal.chosen(source, parts)
    return Classification(
        source.name,
        1 / parts["test"][0]["input_ids"].shape[1],
        {split: inputs for split, (inputs, _) in parts.items()},
        {split: labels for split, (_, labels) in parts.items()},
    )
