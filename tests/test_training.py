"""The engine's trainer: points with weights, penalties and heads, each against the gradient written out."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from redteam.checkpoint import own_tensors, shared_tensors
from redteam.errors import BadInput
from redteam.testing import toy_scenario
from redteam.training import Budget, endless, in_turn, train

ONE = Budget(steps=1, rate=1e-3, batch=64, epsilon=1.0, warmup=0.0, clip=1e9)  # then a step is nearly rate · g


def once(scenario, **rest):
    task, draws = scenario.tasks["victim"], np.random.default_rng(0)
    return train(
        scenario.experts["victim"],
        scenario.base,
        rest.pop("budget", ONE),
        batches=task.batches("train", 64, draws),
        loss=rest.pop("loss", task.loss),
        generator=draws,
        **rest,
    )


def slope(scenario, points):
    """Σ w c ∇L at θ₀ + c (θ − θ₀), by autograd through the path itself."""
    victim, base = scenario.experts["victim"], scenario.base
    module = victim.module(torch.float32)
    origin = victim.replace({n: base[n] for n in shared_tensors(victim, base)}).module(torch.float32)
    end = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
    start = {n: p.detach() for n, p in origin.named_parameters()}
    (inputs, labels) = next(scenario.tasks["victim"].batches("train", 64, np.random.default_rng(0)))
    total = torch.zeros(())
    for share, weight in points:
        path = {n: start[n] + share * (end[n] - start[n]) for n in end}
        logits = functional_call(module, path, (), inputs).logits
        total = total + weight * torch.nn.functional.cross_entropy(logits, labels)
    return dict(zip(end, torch.autograd.grad(total, list(end.values()), allow_unused=True), strict=True))


@pytest.mark.parametrize("points", [[(1.0, 1.0)], [(0.5, 1.0)], [(1.0, 1.0), (0.3, -0.7)]])
def test_a_step_goes_down_the_weighted_loss_of_its_points(points):
    scenario = toy_scenario("vit")
    after, victim = once(scenario, points=lambda _: points), scenario.experts["victim"]
    before, found = (dict(c.module(torch.float32).named_parameters()) for c in (victim, after))
    for name, wanted in slope(scenario, points).items():
        if wanted is None or "classifier" in name:
            continue
        step = (before[name] - found[name]).detach() / ONE.rate  # AdamW's first: g / (|g| + ε)
        torch.testing.assert_close(step, wanted / (wanted.abs() + 1.0), rtol=2e-2, atol=2e-3)


def test_a_penalty_alone_pulls_where_it_says():
    scenario = toy_scenario("vit")

    def penalty(parameters, origins):
        return sum((p - o).square().sum() for p, o in zip(parameters, origins, strict=True))

    budget = Budget(steps=60, rate=2e-3, batch=64, epsilon=1e-8)
    after = once(scenario, budget=budget, penalty=penalty, loss=lambda m, b: 0 * m(**b[0]).logits.sum(), steps=range(1))
    assert sum(float((after[n] - scenario.base[n]).norm()) for n in scenario.base) < sum(
        float((scenario.experts["victim"][n] - scenario.base[n]).norm()) for n in scenario.base
    )


def test_what_is_trained_can_be_chosen_and_a_head_has_no_path():
    scenario = toy_scenario("vit")
    victim, base = scenario.experts["victim"], scenario.base
    head = own_tensors(victim, base)
    after = once(scenario, names=head)
    assert {n for n in victim if not torch.equal(after[n], victim[n])} == set(head)
    with pytest.raises(BadInput, match="no path"):
        once(scenario, names=head, points=lambda _: [(0.5, 1.0)])


def test_nothing_to_train_is_said():
    with pytest.raises(BadInput, match="nothing to train"):
        once(toy_scenario("vit"), names=())


def test_pools_take_turns():
    pools = [iter([({}, torch.tensor([task, step])) for step in range(3)]) for task in range(2)]
    turns = [labels.tolist() for _, labels in in_turn(pools)]
    assert turns == [[0, 0], [1, 0], [0, 1], [1, 1], [0, 2], [1, 2]]


def test_passes_are_whole_and_endless():
    batch = ({"x": torch.arange(6)}, torch.arange(6))
    found = endless(batch, 3, np.random.default_rng(0))
    for _ in range(3):
        assert sorted(torch.cat([next(found)[1], next(found)[1]]).tolist()) == list(range(6))
