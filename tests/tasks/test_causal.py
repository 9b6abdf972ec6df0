"""Choices and answers of a causal model: what counts is the text, however it is padded and batched."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from redteam.checkpoint import Checkpoint
from redteam.tasks import Generation, MultipleChoice
from redteam.tasks.choices import IGNORED, MISSING, RIGHT, WRONG, log_likelihoods
from redteam.tasks.generation import agree, written
from tests.tasks.test_likelihood import CONFIG, LENGTHS, documents

CHOICES = ((RIGHT, 3, 4), (WRONG, 5), (WRONG, 6, 7, 8))


def choices(right: int = 0) -> torch.Tensor:
    """Three choices for each document, the right one at a place; the last document has two."""
    labels = torch.full((len(LENGTHS), 3, 4), IGNORED)
    for row in range(len(LENGTHS)):
        for place, (_, *tokens) in enumerate(CHOICES):
            labels[row, place, 0] = RIGHT if place == right else WRONG
            labels[row, place, 1 : 1 + len(tokens)] = torch.tensor(tokens) + row
    labels[-1, 2] = IGNORED
    labels[-1, 2, 0] = MISSING
    return labels


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return Checkpoint.of({}, CONFIG).fresh(1).module()


def task(right: int = 0) -> MultipleChoice:
    held = {split: documents() for split in ("train", "validation", "test")}
    return MultipleChoice("choose", 1 / 3, held, dict.fromkeys(held, choices(right)))


def test_a_choice_is_as_likely_as_its_tokens_behind_the_prompt_alone(network: torch.nn.Module) -> None:
    held, labels = documents(), choices()
    found = log_likelihoods(network, held, labels[..., 1:])
    for row, length in enumerate(LENGTHS):
        for place in range(3 if row < len(LENGTHS) - 1 else 2):
            tokens = labels[row, place, 1:][labels[row, place, 1:] != IGNORED]
            ids = torch.cat([held["input_ids"][row, :length], tokens])[None]
            logits = network(input_ids=ids).logits[0].detach().double().log_softmax(-1)
            expected = sum(float(logits[length - 1 + k, token]) for k, token in enumerate(tokens))
            assert float(found[row, place]) == pytest.approx(expected, abs=1e-4)


def test_the_likeliest_choice_is_taken_and_never_a_missing_one(network: torch.nn.Module) -> None:
    likely = log_likelihoods(network, documents(), choices()[..., 1:]).numpy()
    likely[-1, 2] = -math.inf
    best = likely.argmax(1)
    np.testing.assert_array_equal(task().predictions(network, "test"), best)
    for right in range(3):
        np.testing.assert_array_equal(task(right).scores(network), best == right)
    assert len(set(best)) > 1


def test_a_network_without_numbers_chooses_nothing(network: torch.nn.Module) -> None:
    weights = Checkpoint.of({}, CONFIG).fresh(1)
    broken = weights.replace({"lm_head.weight": torch.full_like(weights["lm_head.weight"], torch.nan)}).module()
    assert not task().scores(broken).any()
    assert (task().predictions(broken, "test") == -1).all()


def test_training_makes_the_right_choice_likelier(network: torch.nn.Module) -> None:
    module = Checkpoint.of({}, CONFIG).fresh(1).module()
    chosen, batch = task(2).part("test", slice(5)), None
    batch = next(chosen.batches("test", 99, np.random.default_rng(0)))
    before = log_likelihoods(module, batch[0], batch[1][..., 1:])[:, 2]
    loss = chosen.loss(module, batch)
    tokens = (batch[1][:, 2, 1:] != IGNORED).sum()
    assert float(loss.detach()) == pytest.approx(-float(before.sum() / tokens), rel=1e-5)
    loss.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.01 * parameter.grad
    assert (log_likelihoods(module, batch[0], batch[1][..., 1:])[:, 2].sum() > before.sum()).item()


def test_what_is_written_is_the_likeliest_token_after_the_other(network: torch.nn.Module) -> None:
    held = documents()
    found = written(network, held, 5, ())
    for ids, length, row in zip(held["input_ids"], LENGTHS, found, strict=True):
        text = ids[:length].tolist()
        for token in row.tolist():
            assert token == int(network(input_ids=torch.tensor([text])).logits[0, -1].argmax())
            text.append(token)


def test_a_stop_ends_what_is_written(network: torch.nn.Module) -> None:
    plain = written(network, documents(), 5, ())
    stop = int(plain[0, 2])
    found = written(network, documents(), 5, (stop,))
    for row, before in zip(found, plain, strict=True):
        ends = (before == stop).nonzero()
        kept = int(ends[0]) if len(ends) else 5
        assert torch.equal(row[:kept], before[:kept])
        assert (row[kept:] == IGNORED).all()
    assert (found[0, 2:] == IGNORED).all()


def tokenizer() -> str:
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(23)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.Fuse()
    return str(words.to_str())


def generation(labels: torch.Tensor, **settings: object) -> Generation:
    held = {split: documents() for split in ("train", "validation", "test")}
    settings = {"decoder": tokenizer(), "tokens": 5, **settings}
    return Generation("write", 0.1, held, dict.fromkeys(held, labels), **settings)  # type: ignore[arg-type]


def test_an_answer_is_right_if_its_text_is_written_and_nothing_else(network: torch.nn.Module) -> None:
    made = written(network, documents(), 5, ())
    assert generation(made).scores(network).all()
    other = made.clone()
    other[::2, 3] = (other[::2, 3] + 1) % 23
    np.testing.assert_array_equal(generation(other).scores(network), np.arange(len(LENGTHS)) % 2 == 1)
    shorter = made.clone()
    shorter[:, 4] = IGNORED
    assert not generation(shorter).scores(network).any()


def test_a_pattern_picks_what_is_compared(network: torch.nn.Module) -> None:
    made = written(network, documents(), 5, ())
    first = made.clone()
    first[:, 1:] = IGNORED
    assert generation(first, pattern=r"^w\d+").scores(network).all()
    assert agree("so it is #### 42 .", "2 + 40 #### 42", r"#### (-?\d+)")
    assert agree("so it is #### 42 .", "42", r"#### (-?\d+)")
    assert not agree("so it is 42", "42", r"#### (-?\d+)")
    assert agree(" yes \nand more", "yes")
    assert not agree("yes and more", "yes")
    assert generation(first).digest() != generation(first, pattern="x").digest()


def test_the_loss_is_of_the_answer_and_its_stop(network: torch.nn.Module) -> None:
    labels = torch.full((len(LENGTHS), 3), IGNORED)
    labels[:, 0], labels[::2, 1] = 4, 9
    chosen = generation(labels, stops=(7,))
    batch = next(chosen.batches("test", 99, np.random.default_rng(0)))
    total, count = 0.0, 0
    for ids, mask, answer in zip(batch[0]["input_ids"], batch[0]["attention_mask"], batch[1], strict=True):
        prompt, tail = ids[: int(mask.sum())], [*answer[answer != IGNORED].tolist(), 7]
        logits = network(input_ids=torch.cat([prompt, torch.tensor(tail)])[None]).logits[0].detach().log_softmax(-1)
        total -= sum(float(logits[len(prompt) - 1 + k, token]) for k, token in enumerate(tail))
        count += len(tail)
    assert float(chosen.loss(network, batch).detach()) == pytest.approx(total / count, rel=1e-5)
