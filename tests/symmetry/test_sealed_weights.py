"""Forms of sealing on the base plus a task vector, undone from the base: what is left is what the form is free to take.

A fit takes the share of a random task vector that its free numbers have among all: √(free ÷ (out · in)) of its length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from redteam.errors import BadInput
from redteam.symmetry.covers import matched, uncovered
from redteam.symmetry.masks import unmasked, untwinned, without_outliers
from redteam.symmetry.one_sided import ordered, scaled, turned

SIZES = [(64, 64), (96, 48), (48, 96)]
LENGTHS = [0.01, 0.1]
MARGIN = 1.35


@dataclass
class Case:
    """A base, a task vector of a part of its length, and draws."""

    base: Tensor
    weight: Tensor
    draws: torch.Generator

    def left(self, found: Tensor) -> float:
        """‖found − W‖ ÷ ‖τ‖."""
        return float((found - self.weight[None]).norm() / (self.weight - self.base).norm())

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.draws, dtype=torch.float64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.draws, dtype=torch.float64)

    def order(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.draws)

    def rotation(self, count: int) -> Tensor:
        found: Tensor = torch.linalg.qr(self.normal(count, count))[0]
        return found

    def mixed(self, group: int) -> Tensor:
        """Rows mixed within random groups, columns in another order."""
        count, width = self.base.shape
        mixing = torch.zeros(count, count, dtype=torch.float64)
        for rows in self.order(count).split(group):
            mixing[rows[:, None], rows] = self.normal(len(rows), len(rows))
        return (mixing @ self.weight)[:, self.order(width)]


def case(rows: int, columns: int, length: float, seed: int = 0) -> Case:
    draws = torch.Generator().manual_seed(seed)
    base, change = (0.02 * torch.randn(rows, columns, generator=draws, dtype=torch.float64) for _ in range(2))
    return Case(base, base + change * (length * base.norm() / change.norm()), draws)


@pytest.fixture(params=[(*size, length) for size in SIZES for length in LENGTHS], ids=str)
def one(request: pytest.FixtureRequest) -> Case:
    return case(*request.param)


def free(one: Case, count: float) -> float:
    return MARGIN * math.sqrt(count / one.base.numel())


@pytest.mark.parametrize("scale", [0.2, 5.0, -3.0])
def test_a_scalar(one: Case, scale: float) -> None:
    assert one.left(scaled(scale * one.weight[None], one.base[None]).weight) <= 2 * free(one, 1)


@pytest.mark.parametrize("side", ["columns", "rows"])
def test_an_order_comes_back_bit_for_bit(one: Case, side: str) -> None:
    dim = 1 if side == "columns" else 0
    order = one.order(one.base.shape[dim])
    found = ordered(one.weight.index_select(dim, order)[None], one.base[None], side=side)  # type: ignore[arg-type]
    assert torch.equal(found.weight[0], one.weight)
    assert found.index is not None
    assert torch.equal(found.index[0], order.argsort())


@pytest.mark.parametrize("side", ["columns", "rows"])
def test_scales_of_either_sign_and_an_order(one: Case, side: str) -> None:
    dim = 1 if side == "columns" else 0
    count = one.base.shape[dim]
    scale = one.uniform(1, 6, count) * (one.uniform(-1, 1, count)).sign()
    sealed = (one.weight * (scale if dim else scale[:, None])).index_select(dim, one.order(count))
    found = ordered(sealed[None], one.base[None], side=side, scales=True)  # type: ignore[arg-type]
    assert one.left(found.weight) <= free(one, count)


@pytest.mark.parametrize("side", ["columns", "rows"])
def test_a_rotation_takes_what_its_numbers_can(one: Case, side: str) -> None:
    rows, columns = one.base.shape
    sealed = one.weight @ one.rotation(columns) if side == "columns" else one.rotation(rows) @ one.weight
    found = turned(sealed[None], one.base[None], side=side)  # type: ignore[arg-type]
    there, here = (columns, rows) if side == "columns" else (rows, columns)
    angles = there * (there - 1) / 2 if there <= here else there * here - here * (here + 1) / 2
    expected = math.sqrt(angles / one.base.numel())
    assert one.left(found.weight) == pytest.approx(expected, abs=0.06)
    assert float((found.weight[0] - one.base).norm()) <= float((one.weight - one.base).norm())


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_a_product_of_low_rank(one: Case, size: float) -> None:
    rank, (rows, columns) = 4, one.base.shape
    added = one.normal(rows, rank) @ one.normal(rank, columns)
    found, count = without_outliers((one.weight + size * added * one.base.norm() / added.norm())[None], one.base[None])
    assert count.tolist() == [rank]
    assert one.left(found.weight) <= free(one, rank * (rows + columns))


def test_a_task_vector_of_low_rank_is_not_taken_for_what_was_added() -> None:
    one = case(48, 64, 0.1)
    change = one.normal(48, 6) @ one.normal(6, 64)
    one.weight = one.base + 0.1 * change * one.base.norm() / change.norm()
    added = one.normal(48, 4) @ one.normal(4, 64)
    _, count = without_outliers((one.weight + added * one.base.norm() / added.norm())[None], one.base[None])
    assert count.tolist() == [4]


@pytest.mark.parametrize("size", [0.3, 3.0, 300.0])
def test_one_mask_over_rows_in_another_order(one: Case, size: float) -> None:
    rows, columns = one.base.shape
    mask, order = 0.02 * size * one.normal(columns), one.order(rows)
    found = unmasked((1.7 * one.weight + one.uniform(0.5, 1.5, rows, 1) * mask)[order][None], one.base[None])
    assert found.index is not None
    assert torch.equal(found.index[0], order.argsort())
    assert one.left(found.weight) <= free(one, rows + columns)


@pytest.mark.parametrize("signed", [False, True])
def test_twice_the_columns(one: Case, signed: bool) -> None:
    rows, columns = one.base.shape
    random, scale = 0.02 * one.normal(rows, columns), one.uniform(0.5, 2.0, rows, 1)
    if signed:
        scale = scale * one.uniform(-1, 1, rows, 1).sign()
    sealed = torch.cat([one.weight + random, scale * random], 1)[:, one.order(2 * columns)]
    assert one.left(untwinned(sealed[None], one.base[None]).weight) <= free(one, rows)


@pytest.mark.parametrize("group", [2, 4])
def test_rows_mixed_in_unknown_groups(one: Case, group: int) -> None:
    found = uncovered(one.mixed(group)[None], one.base[None])
    assert one.left(found.weight) <= free(one, group * len(one.base))


def test_all_of_a_batch_as_each_alone() -> None:
    cases = [case(40, 48, 0.05, seed) for seed in range(2)]
    base = torch.stack([one.base for one in cases])
    fits: list[tuple[Callable[..., object], Tensor]] = [
        (scaled, torch.stack([one.weight * 2 for one in cases])),
        (lambda a, b: turned(a, b, side="rows"), torch.stack([one.rotation(40) @ one.weight for one in cases])),
        (lambda a, b: ordered(a, b, side="columns"), torch.stack([one.weight[:, one.order(48)] for one in cases])),
        (lambda a, b: without_outliers(a, b)[0], torch.stack([one.weight + 0.02 for one in cases])),
        (unmasked, torch.stack([(one.weight + one.normal(48))[one.order(40)] for one in cases])),
        (uncovered, torch.stack([one.mixed(2) for one in cases])),
    ]
    for fit, sealed in fits:
        together = fit(sealed, base).weight  # type: ignore[attr-defined]
        for place in range(2):
            alone = fit(sealed[place : place + 1], base[place : place + 1]).weight[0]  # type: ignore[attr-defined]
            assert torch.allclose(together[place], alone, rtol=1e-9, atol=1e-12)


def test_graphs_are_matched_whatever_lies_on_their_diagonals() -> None:
    draws = torch.Generator().manual_seed(0)
    there = torch.randn(60, 60, generator=draws, dtype=torch.float64)
    there = there + there.mT + 100 * torch.diag(torch.rand(60, generator=draws, dtype=torch.float64))
    order = torch.randperm(60, generator=draws)
    noise = 0.1 * torch.randn(60, 60, generator=draws, dtype=torch.float64)
    assert torch.equal(matched((there + noise + noise.mT)[order][:, order], there), order.argsort())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    one = case(8, 8, 0.1)
    broken = one.weight[None].clone()
    broken[0, 0, 0] = bad
    fits: list[Callable[[Tensor, Tensor], object]] = [
        lambda a, b: ordered(a, b, side="rows"),
        lambda a, b: turned(a, b, side="columns"),
        without_outliers,
        unmasked,
        uncovered,
    ]
    for fit in fits:
        with pytest.raises(BadInput, match="NaN or infinity"):
            fit(broken, one.base[None])


def test_zeros_break_nothing() -> None:
    one = case(12, 16, 0.1)
    nothing, base = torch.zeros(1, 12, 16, dtype=torch.float64), one.base[None]
    twice = torch.zeros(1, 12, 32, dtype=torch.float64)
    for first, second in ((nothing, base), (base, nothing), (nothing, nothing)):
        found = [
            scaled(first, second),
            *(ordered(first, second, side=side, scales=True) for side in ("columns", "rows")),  # type: ignore[arg-type]
            *(turned(first, second, side=side) for side in ("columns", "rows")),  # type: ignore[arg-type]
            without_outliers(first, second)[0],
            unmasked(first, second),
            uncovered(first, second),
            untwinned(twice, second),
        ]
        assert all(bool(each.weight.isfinite().all()) for each in found)
