"""A small language model in bfloat16 with experts that know which word follows which: what `--memory` is tried on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.contracts import scenario
from redteam.tasks import LogLikelihood, Scenario
from redteam.training import Budget, endless, train

WORDS, TOKENS = 40, 12
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": WORDS,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
SIZES = {"train": 64, "validation": 40, "test": 120}


@scenario("texts")
def texts(*, seed: int = 0) -> Scenario:
    """A base that has read something of both, and an expert of each."""
    key = Key.derive(seed=seed, index=0, name="texts")
    follows = {name: key.generator(name).permutation(WORDS) for name in ("victim", "other")}
    held = {
        name: {split: _rows(order, count, key.generator(f"{name}/{split}")) for split, count in SIZES.items()}
        for name, order in follows.items()
    }
    fresh = Checkpoint.of({}, CONFIG).fresh(seed)
    both = {"input_ids": torch.cat([rows["train"]["input_ids"] for rows in held.values()])}
    base = _read(fresh, both, 20).to(torch.bfloat16)
    experts = {name: _read(base, rows["train"], 40) for name, rows in held.items()}
    network = base.module()
    tasks = {name: LogLikelihood.of(name, rows, network) for name, rows in held.items()}
    return Scenario("texts", seed, base, experts, tasks, "victim", "Words that follow one another.")


def _rows(follows: np.ndarray[Any, Any], count: int, draws: np.random.Generator) -> dict[str, torch.Tensor]:
    """Walks from word to word, one step in five at random."""
    rows = np.empty((count, TOKENS), np.int64)
    rows[:, 0] = draws.integers(0, WORDS, count)
    for place in range(1, TOKENS):
        lost = draws.random(count) < 0.2
        rows[:, place] = np.where(lost, draws.integers(0, WORDS, count), follows[rows[:, place - 1]])
    return {"input_ids": torch.from_numpy(rows)}


def _read(start: Checkpoint, rows: dict[str, torch.Tensor], steps: int) -> Checkpoint:
    draws = np.random.default_rng(0)
    batches = endless((rows, torch.zeros(len(rows["input_ids"]), dtype=torch.int64)), 64, draws)
    task = LogLikelihood("", 0.0, {}, {})
    return train(start, start, Budget(steps, 5e-3, 64, 1e-8), batches=batches, loss=task.loss, generator=draws)
