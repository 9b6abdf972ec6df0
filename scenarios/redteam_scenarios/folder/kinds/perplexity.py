"""Perplexity: documents, scored by how much likelier a causal language model finds them than the base does."""

from __future__ import annotations

import torch

from redteam.tasks import LogLikelihood
from redteam.tasks.likelihood import log_likelihoods
from redteam_scenarios.folder.kinds.text import columns, texts, tokenized
from redteam_scenarios.folder.prepared import Parts
from redteam_scenarios.folder.source import Source


def documents(source: Source) -> Parts:
    """Tokens of a table's texts, and how likely the base finds each."""
    rows = source.rows(columns(source))
    tokens = tokenized(source, {split: texts(source, held) for split, held in rows.items()})
    base = source.base.module()
    kept = {split: {name: part[name] for name in ("input_ids", "attention_mask")} for split, part in tokens.items()}
    return {split: (part, torch.from_numpy(log_likelihoods(base, part))) for split, part in kept.items()}


def scored(source: Source, parts: Parts) -> LogLikelihood:
    """The task."""
    inputs = {split: inputs for split, (inputs, _) in parts.items()}
    return LogLikelihood(source.name, 0.0, inputs, {split: labels for split, (_, labels) in parts.items()})
