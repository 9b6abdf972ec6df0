"""Neurons from what they were seen to do: the true weights where the data show them, the start where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from redteam_attacks.neurons import regressed
from torch import Tensor

WIDTH, NEURONS, SAMPLES = 6, 9, 400
Activation = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


X, TRUE = normal(SAMPLES, WIDTH, seed=0), normal(NEURONS, WIDTH, seed=1)
START = TRUE + 0.3 * normal(NEURONS, WIDTH, seed=2)


def seen(activation: Activation, inputs: Tensor = X, weights: Tensor = TRUE) -> Tensor:
    """What neurons give, one sample and one neuron at a time."""
    return torch.stack([torch.stack([activation((w * x).sum()) for w in weights]) for x in inputs])


@pytest.mark.parametrize("activation", [torch.nn.functional.gelu, torch.tanh, torch.relu, lambda x: x])
def test_the_true_weights_come_back(activation: Activation) -> None:
    found = regressed(X, seen(activation), START, activation, ridge=1e-12)
    assert found.dtype == torch.float64
    assert found.shape == TRUE.shape
    assert float((found - TRUE).abs().max()) < 1e-6


def test_the_objective_is_the_one_that_is_written_down() -> None:
    """At the minimum its gradient is zero, here by autograd over the formula in the docstring."""
    ridge, noisy = 0.03, seen(torch.tanh) + 0.1 * normal(SAMPLES, NEURONS, seed=3)
    found = regressed(X, noisy, START, torch.tanh, ridge=ridge).requires_grad_()
    per_input = float(X.square().sum(1).mean()) / WIDTH

    def cost(weights: Tensor) -> Tensor:
        error = (torch.tanh(X @ weights.T) - noisy).square().mean(0)
        return error + ridge * (weights - START).square().sum(1) * per_input

    (slope,) = torch.autograd.grad(cost(found).sum(), found)
    assert float(slope.abs().max()) < 1e-6
    assert (cost(found) < cost(START)).all()


def test_a_large_ridge_gives_the_start_and_a_small_one_the_data() -> None:
    outputs = seen(torch.tanh)
    away = [float((regressed(X, outputs, START, torch.tanh, ridge=r) - START).norm()) for r in (1e9, 1.0, 1e-2, 1e-9)]
    assert away[0] < 1e-7
    assert away == sorted(away)
    assert away[-1] == pytest.approx(float((TRUE - START).norm()), rel=1e-5)


def test_the_ridge_weighs_the_same_at_every_scale_of_the_inputs() -> None:
    outputs = seen(torch.tanh)
    here = regressed(X, outputs, START, torch.tanh, ridge=0.1)
    scaled = regressed(100 * X, outputs, START / 100, torch.tanh, ridge=0.1)
    assert torch.allclose(100 * scaled, here, rtol=1e-6, atol=1e-8)


def test_directions_that_the_inputs_do_not_show_stay_where_they_were() -> None:
    flat = X.clone()
    flat[:, 0] = 0
    found = regressed(flat, seen(torch.tanh, flat), START, torch.tanh, ridge=1e-9)
    assert torch.equal(found[:, 0], START[:, 0])
    assert float((found - TRUE)[:, 1:].abs().max()) < 1e-5


def test_a_bias_is_a_column_of_ones() -> None:
    ones = torch.cat([X, torch.ones(SAMPLES, 1, dtype=X.dtype)], 1)
    true = torch.cat([TRUE, normal(NEURONS, 1, seed=4)], 1)
    start = true + 0.2 * normal(NEURONS, WIDTH + 1, seed=5)
    gelu = torch.nn.functional.gelu
    found = regressed(ones, seen(gelu, ones, true), start, gelu, ridge=1e-12)
    assert float((found - true).abs().max()) < 1e-6


def test_a_neuron_that_never_stirred_stays_at_its_start() -> None:
    start, true = START.clone(), TRUE.clone()
    x = X.abs()
    start[3] = true[3] = -1.0  # ReLU off on every input
    found = regressed(x, seen(torch.relu, x, true), start, torch.relu, ridge=1e-9)
    assert torch.equal(found[3], start[3])


def test_a_neuron_that_strays_far_is_returned_as_it_started() -> None:
    true = TRUE.clone()
    true[2] = START[2] + 50
    linear = seen(lambda x: x, X, true)
    found = regressed(X, linear, START, lambda x: x, ridge=1e-9)
    others = [n for n in range(NEURONS) if n != 2]
    assert torch.equal(found[2], START[2])
    assert float((found - true)[others].abs().max()) < 1e-6


def test_outputs_that_no_neuron_could_give_do_not_make_it_worse() -> None:
    outputs = 5 + normal(SAMPLES, NEURONS, seed=6)
    found = regressed(X, outputs, START, torch.tanh, ridge=1e-4)
    before, after = ((torch.tanh(X @ w.T) - outputs).square().mean(0) for w in (START, found))
    assert (after <= before).all()
    assert torch.isfinite(found).all()


def test_neurons_have_nothing_to_do_with_each_other() -> None:
    """Those past the first part, too: in another order they are the same, and alone they are the same."""
    many, true = 150, normal(150, WIDTH, seed=7)
    start = true + 0.3 * normal(many, WIDTH, seed=8)
    outputs = torch.tanh(X @ true.T)
    order = torch.from_numpy(np.random.default_rng(9).permutation(many))
    found = regressed(X, outputs, start, torch.tanh, ridge=1e-6)
    other = regressed(X, outputs[:, order], start[order], torch.tanh, ridge=1e-6)
    assert torch.allclose(other, found[order], rtol=1e-9, atol=1e-9)
    alone = regressed(X, outputs[:, 70:71], start[70:71], torch.tanh, ridge=1e-6)
    assert torch.allclose(alone, found[70:71], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", [torch.nn.functional.gelu, torch.tanh, torch.relu, lambda x: x])
def test_outputs_that_the_neuron_never_gave_are_left_out(activation: Activation) -> None:
    """As of a polynomial far from its middle: a tenth of them off by anything from a thousandth to a million."""
    outputs, draws = seen(activation), np.random.default_rng(10)
    wrong = torch.from_numpy(draws.random(outputs.shape) < 0.1)
    outputs += torch.where(wrong, torch.from_numpy(10 ** draws.uniform(-3, 6, outputs.shape)), 0.0)
    outputs[17, 4] = float("nan")
    found = regressed(X, outputs, START, activation, ridge=1e-12)
    assert float((found - TRUE).abs().max()) < 1e-6


def test_outputs_that_are_no_numbers_cost_that_neuron_alone() -> None:
    outputs = seen(torch.tanh)
    outputs[:, 4] = float("nan")
    found = regressed(X, outputs, START, torch.tanh, ridge=1e-12)
    others = [n for n in range(NEURONS) if n != 4]
    assert torch.equal(found[4], START[4])
    assert float((found - TRUE)[others].abs().max()) < 1e-6


def test_an_input_that_is_not_a_number_leaves_every_neuron_where_it_was() -> None:
    inputs = X.clone()
    inputs[5, 2] = float("nan")
    assert torch.equal(regressed(inputs, seen(torch.tanh), START, torch.tanh, ridge=1e-6), START)


def test_nothing_that_was_given_is_changed() -> None:
    inputs, outputs, start = X.clone(), seen(torch.tanh), START.clone()
    kept = outputs.clone()
    regressed(inputs, outputs, start, torch.tanh, ridge=1e-6)
    assert torch.equal(inputs, X)
    assert torch.equal(outputs, kept)
    assert torch.equal(start, START)
