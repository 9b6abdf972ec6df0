"""Language modelling: scores are what the base's are not, and are the same however documents are padded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.tasks import LogLikelihood, answers, halves
from redteam.tasks.likelihood import log_likelihoods

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
LENGTHS = (9, 4, 12, 2, 7, 12)


def documents(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 23, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


@pytest.fixture(scope="module")
def base() -> torch.nn.Module:
    return Checkpoint.of({}, CONFIG).fresh(0).module()


@pytest.fixture(scope="module")
def other() -> torch.nn.Module:
    return Checkpoint.of({}, CONFIG).fresh(1).module()


@pytest.fixture(scope="module")
def task(base: torch.nn.Module) -> LogLikelihood:
    return LogLikelihood.of(
        "text", {split: documents(i) for i, split in enumerate(("train", "validation", "test"))}, base
    )


def test_a_documents_likelihood_is_that_of_its_tokens_one_by_one(other: torch.nn.Module) -> None:
    held = documents(7)
    expected = []
    for ids, length in zip(held["input_ids"], LENGTHS, strict=True):
        logits = other(input_ids=ids[None, :length]).logits[0].detach().double().log_softmax(-1)
        expected.append(float(np.mean([float(logits[t, ids[t + 1]]) for t in range(length - 1)])))
    floor = -math.log(23)
    assert min(expected) < floor < max(expected)  # both sides of guessing are looked at
    np.testing.assert_allclose(log_likelihoods(other, held), np.maximum(expected, floor), atol=1e-6)


def test_the_base_scores_nothing_and_another_network_the_difference(
    task: LogLikelihood, base: torch.nn.Module, other: torch.nn.Module
) -> None:
    assert not task.scores(base).any()
    difference = log_likelihoods(other, task.inputs["test"]) - log_likelihoods(base, task.inputs["test"])
    np.testing.assert_array_equal(task.scores(other), difference)
    assert task.scores(other).shape == (len(LENGTHS),)


def test_a_network_without_sense_counts_as_one_that_guesses(task: LogLikelihood) -> None:
    weights = Checkpoint.of({}, CONFIG).fresh(0)
    broken = weights.replace({"lm_head.weight": torch.full_like(weights["lm_head.weight"], torch.nan)})
    guessing = weights.replace({"lm_head.weight": torch.zeros_like(weights["lm_head.weight"])})
    np.testing.assert_allclose(task.scores(broken.module()), task.scores(guessing.module()), atol=1e-6)


def test_the_loss_is_what_the_scores_count(task: LogLikelihood, other: torch.nn.Module) -> None:
    batch = next(task.batches("test", 99, np.random.default_rng(0)))
    tokens = batch[0]["attention_mask"].sum(1).double() - 1
    logits = other(**batch[0]).logits.detach().double().log_softmax(-1)[:, :-1]
    per_token = logits.gather(2, batch[0]["input_ids"][:, 1:, None])[..., 0] * batch[0]["attention_mask"][:, 1:]
    assert float(task.loss(other, batch).detach()) == pytest.approx(-float(per_token.sum() / tokens.sum()), rel=1e-5)


def test_the_answer_is_the_token_that_would_come_next(task: LogLikelihood, other: torch.nn.Module) -> None:
    found = answers(other, task.inputs["test"])
    for ids, length, answer in zip(task.inputs["test"]["input_ids"], LENGTHS, found, strict=True):
        assert answer == int(other(input_ids=ids[None, :length]).logits[0, -1].argmax())


def test_halves_share_no_document(task: LogLikelihood) -> None:
    first, second = halves(task)
    together = torch.cat([first.inputs_of("validation")["input_ids"], second.inputs_of("validation")["input_ids"]])
    assert torch.equal(together, task.inputs["validation"]["input_ids"])
    assert first.digest() != second.digest()
