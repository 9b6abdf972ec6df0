"""Pretrains the base and fine-tunes the experts, to the same bits each time on one machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint
from redteam.tasks import Batch
from redteam.training import Budget, endless, train
from redteam_scenarios.causal.documents import BEGIN
from redteam_scenarios.causal.recipe import Recipe
from redteam_scenarios.together import Steps

_PRETRAINING, _TUNING = 1, 3  # streams of a seed


def config(recipe: Recipe) -> dict[str, Any]:
    """Of a decoder with rotary embeddings, grouped heads, RMSNorm and a gated MLP."""
    from transformers import LlamaConfig

    made = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.groups,
        intermediate_size=recipe.mlp,
        max_position_embeddings=4 * recipe.length,
        bos_token_id=BEGIN,
        eos_token_id=BEGIN,
        tie_word_embeddings=False,
        dtype="float32",
    )
    return made.to_dict()  # type: ignore[no-any-return]


def pretrain(recipe: Recipe, seed: int, documents: Tensor, steps: Steps) -> Checkpoint:
    """The base, trained on every document once, in random order."""
    generator = np.random.default_rng([seed, _PRETRAINING])
    start = Checkpoint.of({}, config(recipe)).fresh(int(generator.integers(2**31)))
    budget = Budget(recipe.pretraining_steps, recipe.pretraining_rate, recipe.pretraining_batch, recipe.epsilon)
    return _trained(start, budget, documents, generator, steps)


def finetune(recipe: Recipe, seed: int, base: Checkpoint, task: str, documents: Tensor, steps: Steps) -> Checkpoint:
    """The expert of a task: all of the base is trained."""
    generator = np.random.default_rng([seed, _TUNING, list(recipe.domains).index(task)])
    budget = Budget(recipe.tuning_steps[task], recipe.tuning_rate, recipe.tuning_batch, recipe.epsilon)
    return _trained(base, budget, documents, generator, steps)


def surprise(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy of every token behind the first."""
    ids = batch[0]["input_ids"].long()
    return F.cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def _trained(
    start: Checkpoint, budget: Budget, documents: Tensor, generator: np.random.Generator, steps: Steps
) -> Checkpoint:
    batches = endless(({"input_ids": documents}, documents[:, 0]), budget.batch, generator)
    trained = train(
        start, start, budget, batches=batches, loss=surprise, generator=generator, steps=steps(budget.steps)
    )
    return Checkpoint.of({name: tensor.contiguous() for name, tensor in trained.items()}, start.config)
