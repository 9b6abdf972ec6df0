"""Correlations and rankings: what a mean score is, what guessing gives, and what counts against a network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from redteam.tasks import Regression, Retrieval
from redteam.tasks.regression import standardised
from redteam.tasks.retrieval import DEPTH, MISSING, expected, ndcg


class Given(torch.nn.Module):
    """Gives what it is handed, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, values: torch.Tensor) -> Any:
        return SimpleNamespace(logits=values * self.weight)


def regression(values: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Regression:
    held = {split: {"values": torch.from_numpy(values)[:, None]} for split in ("train", "validation", "test")}
    return Regression("grade", 0.0, held, dict.fromkeys(held, torch.from_numpy(labels)), float(labels.std()))


def test_the_mean_score_is_pearsons_correlation() -> None:
    draws = np.random.default_rng(0)
    labels = draws.normal(size=400) * 3 + 1
    values = labels * 0.2 + draws.normal(size=400) - 5
    scores = regression(values, labels).scores(Given())
    assert scores.shape == (400,)
    assert scores.mean() == pytest.approx(np.corrcoef(values, labels)[0, 1], abs=1e-12)
    assert regression(values * 7 - 2, labels).scores(Given()).mean() == pytest.approx(scores.mean(), abs=1e-12)


def test_what_says_nothing_scores_nothing() -> None:
    labels = np.random.default_rng(0).normal(size=50)
    constant = regression(np.full(50, 0.1), labels)
    assert not constant.scores(Given()).any()
    values = labels.copy()
    values[3], values[7] = np.nan, np.inf
    scores = regression(values, labels).scores(Given())
    assert scores[3] == scores[7] == 0
    assert np.isfinite(scores).all()
    assert not regression(np.full(50, np.nan), labels).scores(Given()).any()
    assert not standardised(np.array([0.1 + 0.2, 0.3, 0.3])).any()


def test_the_loss_of_a_regression_is_in_units_of_the_labels() -> None:
    labels = np.array([1.0, 2.0, 3.0, 8.0])
    for unit in (1.0, 1000.0):
        task = regression(np.zeros(4), labels * unit)
        batch = next(task.batches("train", 9, np.random.default_rng(0)))
        assert float(task.loss(Given(), batch).detach()) == pytest.approx((labels**2).mean() / labels.var())


def test_ranks_answer_a_regression() -> None:
    task = regression(np.array([3.0, -1.0, 2.0]), np.array([0.0, 1.0, 2.0]))
    np.testing.assert_array_equal(task.predictions(Given(), "test"), [2, 0, 1])


def by_hand(nearness: list[float], relevant: list[int]) -> float:
    order = sorted(range(len(nearness)), key=lambda p: -nearness[p])
    gain = sum(1 / np.log2(rank + 2) for rank, place in enumerate(order[:DEPTH]) if place in relevant)
    return float(gain / sum(1 / np.log2(rank + 2) for rank in range(min(DEPTH, len(relevant)))))


def test_ndcg_is_what_the_formula_says() -> None:
    draws = np.random.default_rng(0)
    nearness = draws.normal(size=(30, 25))
    relevant = [sorted(draws.choice(25, size=draws.integers(1, 14), replace=False).tolist()) for _ in range(30)]
    padded = torch.tensor([row + [MISSING] * (14 - len(row)) for row in relevant])
    expected_values = [by_hand(list(row), held) for row, held in zip(nearness, relevant, strict=True)]
    np.testing.assert_allclose(ndcg(torch.from_numpy(nearness), padded), expected_values, atol=1e-12)
    assert min(expected_values) < 0.5 < max(expected_values)


def test_ties_and_what_is_no_number_count_against_the_relevant() -> None:
    relevant = torch.tensor([[0, MISSING]])
    assert float(ndcg(torch.ones(1, 30), relevant)[0]) == 0
    assert float(ndcg(torch.tensor([[0.5, torch.nan, 0.1]]), relevant)[0]) == pytest.approx(1 / np.log2(3))
    assert float(ndcg(torch.full((1, 3), torch.nan), relevant)[0]) == 0
    both = ndcg(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0, 1]]))
    assert float(both[0]) == pytest.approx(1)


def test_chance_is_what_random_orders_score() -> None:
    draws = torch.Generator().manual_seed(0)
    relevant = torch.tensor([[0, 5, 7]]).expand(20_000, -1)
    found = ndcg(torch.rand(20_000, 30, generator=draws), relevant)
    assert float(found.mean()) == pytest.approx(float(expected(torch.tensor([3]), 30)[0]), abs=4e-3)
    assert float(expected(torch.tensor([2]), 4)[0]) == pytest.approx(
        np.mean([ndcg(torch.rand(1, 4, generator=draws), torch.tensor([[0, 1]])).item() for _ in range(4000)]), abs=0.02
    )


def retrieval() -> Retrieval:
    generator = torch.Generator().manual_seed(0)
    corpus = torch.randn(40, 6, generator=generator)
    held = {split: {"values": corpus[:12] + 0.1} for split in ("train", "validation", "test")}
    labels = torch.stack([torch.arange(12), torch.full((12,), MISSING)], 1)
    return Retrieval("find", 0.1, held, dict.fromkeys(held, labels), {"values": corpus})


def test_queries_find_what_lies_near() -> None:
    task = retrieval()
    np.testing.assert_array_equal(task.predictions(Given(), "test"), range(12))
    assert task.scores(Given()).mean() == 1
    assert task.scores(Given()).dtype == np.float64
    other = Retrieval(task.name, 0.1, task.inputs, task.labels, {"values": task.corpus["values"] + 1})
    assert other.digest() != task.digest()


def test_the_loss_of_a_retrieval_sees_no_mistake_in_what_is_relevant_too() -> None:
    task, module = retrieval(), Given()
    batch = next(task.batches("train", 12, np.random.default_rng(0)))
    loss = task.loss(module, batch)
    assert loss.requires_grad
    also = batch[1].clone()
    also[:, 1] = (also[:, 0] + 1) % 12
    queries, corpus = (
        torch.nn.functional.normalize(held, dim=-1) for held in (batch[0]["values"], task.corpus["values"])
    )
    nearness = 20 * queries @ corpus[:12].T
    nearness[torch.arange(12), also[:, 1]] = -torch.inf
    by_formula = torch.nn.functional.cross_entropy(nearness, also[:, 0])
    assert float(task.loss(module, (batch[0], also)).detach()) == pytest.approx(float(by_formula), rel=1e-4)
    assert float(by_formula) < float(loss.detach())
