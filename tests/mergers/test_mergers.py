"""Mergers against formulas written out entry by entry, and what holds for all of them."""

import itertools

import numpy as np
import pytest
import torch
from redteam_attacks.merging.dare import dare
from redteam_attacks.merging.linear import linear
from redteam_attacks.merging.task_arithmetic import task_arithmetic
from redteam_attacks.merging.ties import ties

from redteam.checkpoint import Checkpoint
from redteam.errors import BadSetting, ThreatModelViolation
from redteam.key import Key
from redteam.plugins.contracts import spec_of
from redteam.views import MergerView

STREAM = Key(bytes(range(32)))
SHAPES = {"a.weight": (5, 4), "a.bias": (5,), "b.weight": (3, 5)}
MERGERS = {
    "linear": linear,
    "task-arithmetic": task_arithmetic,
    "ties": lambda view: ties(view, density=0.4),
    "ties mergekit": lambda view: ties(view, variant="mergekit", density=0.4),
    "ties peft": lambda view: ties(view, variant="peft", density=0.4),
    "dare": dare,
    "dare mergekit": lambda view: dare(view, variant="mergekit"),
    "dare-ties": lambda view: dare(view, signs="elected"),
    "dare-ties mergekit": lambda view: dare(view, variant="mergekit", signs="elected"),
}
every = pytest.mark.parametrize("merge", MERGERS.values(), ids=MERGERS)


def drawn(seed, size=1.0, head=None):
    draws = np.random.default_rng(seed)
    tensors = {name: size * torch.from_numpy(np.asarray(draws.standard_normal(s))) for name, s in SHAPES.items()}
    return tensors | ({"head": torch.ones(head, 3, dtype=torch.float64)} if head else {})


BASE = Checkpoint.of(drawn(0), {"model_type": "none"})


def moved(seed, head, size=0.1):
    return Checkpoint.of({n: t + BASE.get(n, 0) for n, t in drawn(seed, size, head).items()}, {"model_type": "none"})


EXPERTS = {"x": moved(1, 2), "y": moved(2, 3, 0.2), "z": moved(3, 4)}


def view(experts=EXPERTS, merger=task_arithmetic, base=BASE):
    return MergerView(experts, base, STREAM, getattr(spec_of(merger), "needs_base", True))


def close(one, two, tolerance=1e-12):
    return all(float((one[name] - two[name]).abs().max()) <= tolerance for name in SHAPES)


def deltas(experts):
    """[T, entries], all tensors of the model in a row."""
    return np.stack([np.concatenate([(e[n] - BASE[n]).flatten().numpy() for n in SHAPES]) for e in experts.values()])


def model(flat):
    parts = np.split(flat, np.cumsum([int(np.prod(s)) for s in SHAPES.values()])[:-1])
    return {n: BASE[n] + torch.from_numpy(p.reshape(s)) for (n, s), p in zip(SHAPES.items(), parts, strict=True)}


@every
def test_the_order_of_experts_is_irrelevant_and_heads_are_left_out(merge):
    first = merge(view(merger=merge))
    assert {name for name in first if name in SHAPES} == set(SHAPES)
    assert all(first.shape(name) == BASE.shape(name) for name in SHAPES)
    for order in itertools.permutations(EXPERTS):
        assert close(merge(view({name: EXPERTS[name] for name in order}, merge)), first)


@every
def test_tensors_of_another_shape_are_left_to_the_others(merge):
    other = {**EXPERTS, "y": EXPERTS["y"].replace({"b.weight": torch.zeros(3, 6, dtype=torch.float64)})}
    merged = merge(view(other, merge))
    without = merge(view({name: EXPERTS[name] for name in ("x", "z")}, merge))
    assert float((merged["b.weight"] - without["b.weight"]).abs().max()) <= 1e-12
    assert merged.shape("b.weight") == (3, 5)
    assert float((merged["a.weight"] - without["a.weight"]).abs().max()) > 1e-3


@every
def test_half_precision_stays_and_is_rounded_once(merge):
    half = {name: expert.to(torch.bfloat16) for name, expert in EXPERTS.items()}
    merged = merge(view(half, merge, BASE.to(torch.bfloat16)))
    assert all(merged.dtype(name) == torch.bfloat16 for name in SHAPES)
    exact = merge(
        view({n: e.to(torch.float64) for n, e in half.items()}, merge, BASE.to(torch.bfloat16).to(torch.float64))
    )
    assert all(torch.equal(merged[n], exact[n].to(torch.bfloat16)) for n in SHAPES)


def test_linear_is_the_weighted_mean_and_never_sees_the_base():
    merged = linear(view(merger=linear), weights=(1.0, 2.0, 5.0))
    x, y, z = EXPERTS.values()
    assert all(torch.allclose(merged[n], (x[n] + 2 * y[n] + 5 * z[n]) / 8, atol=1e-14) for n in SHAPES)
    same = linear(view({"x": EXPERTS["x"], "again": EXPERTS["x"]}, linear), weights=(1.0, 3.0))
    assert close(same, EXPERTS["x"])
    with pytest.raises(BadSetting, match="2 numbers; expected one for each of 3"):
        linear(view(merger=linear), weights=(1.0, 2.0))
    with pytest.raises(ThreatModelViolation):
        _ = view(merger=linear).base


def test_ties_as_in_the_paper():
    """Algorithm 1 of arXiv 2306.01708, entry by entry."""
    tau, keep = deltas(EXPERTS), 0.4
    for row in tau:
        sizes = np.sort(np.abs(row))[::-1]
        row[np.abs(row) < sizes[int(keep * row.size) - 1]] = 0.0
    merged = np.zeros(tau.shape[1])
    for p in range(tau.shape[1]):
        sign = 1.0 if tau[:, p].sum() >= 0 else -1.0
        agreeing = [x for x in tau[:, p] if x * sign > 0]
        merged[p] = np.mean(agreeing) if agreeing else 0.0
    assert close(ties(view(), density=keep, coefficient=0.7), model(0.7 * merged))


@pytest.mark.parametrize("variant", ["mergekit", "peft"])
def test_ties_per_tensor_with_weights(variant):
    """Both tools trim per tensor; they differ in who weighs votes, and in what is divided by."""
    weights, keep, merged = np.array([1.0, 3.0, 0.5]), 0.4, {}
    for name in SHAPES:
        tau = np.stack([(e[name] - BASE[name]).flatten().numpy() for e in EXPERTS.values()])
        for row in tau:
            count = max(1, int(keep * row.size))
            row[np.argsort(np.abs(row))[: row.size - count]] = 0.0
        out = np.zeros(tau.shape[1])
        for p in range(tau.shape[1]):
            column = tau[:, p]
            votes = column * weights if variant == "mergekit" else column
            sign = 1.0 if votes.sum() >= 0 else -1.0
            agree = column * sign > 0
            divisor = weights[agree].sum() if variant == "mergekit" else agree.sum()
            out[p] = (column * weights)[agree].sum() / divisor if agree.any() else 0.0
        merged[name] = BASE[name] + torch.from_numpy(out.reshape(SHAPES[name]))
    assert close(ties(view(), variant=variant, density=keep, weights=tuple(weights)), merged)
    other = "peft" if variant == "mergekit" else "mergekit"
    assert not close(ties(view(), variant=other, density=keep, weights=tuple(weights)), merged)
    equal = [ties(view(), variant=v, density=keep) for v in ("mergekit", "peft")]
    assert close(*equal)
    assert not close(ties(view(), density=keep), equal[0])


def test_ties_of_identical_experts_is_the_trimmed_expert():
    twins = {"x": EXPERTS["x"], "again": EXPERTS["x"]}
    assert close(ties(view(twins), density=1.0), EXPERTS["x"])
    trimmed = ties(view(twins), density=0.5)
    for name in SHAPES:
        delta = trimmed[name] - BASE[name]
        assert torch.allclose(delta[delta != 0], (EXPERTS["x"][name] - BASE[name])[delta != 0], atol=1e-14)
    kept = sum(int((trimmed[n] != BASE[n]).sum()) for n in SHAPES)
    assert kept == int(0.5 * sum(BASE[n].numel() for n in SHAPES))
    with pytest.raises(BadSetting, match="expected one for each of 3"):
        ties(view(), weights=(1.0,))


@pytest.mark.parametrize("variant", ["paper", "mergekit"])
def test_dare_that_drops_nothing_is_task_arithmetic(variant):
    plain = task_arithmetic(view(), coefficient=0.4)
    assert close(dare(view(), variant=variant, density=1.0, coefficient=0.4), plain)
    elected = dare(view(), variant=variant, density=1.0, coefficient=0.4, signs="elected")
    tau = deltas(EXPERTS)
    agree = np.sign(tau) == np.where(tau.sum(0) >= 0, 1.0, -1.0)
    total = (tau * agree).sum(0) / (agree.sum(0) if variant == "paper" else 1)
    assert close(elected, model(0.4 * total))


def test_dare_rescales():
    wide = {"w": torch.zeros(400, 500, dtype=torch.float64)}
    base = Checkpoint.of(wide, {})
    delta = torch.from_numpy(np.random.default_rng(0).standard_normal((400, 500)))
    experts = {"x": Checkpoint.of({"w": delta}, {})}
    paper, tool = (
        dare(view(experts, base=base), variant=variant, density=0.3, coefficient=1.0)["w"]
        for variant in ("paper", "mergekit")
    )
    kept = paper != 0
    assert abs(float(kept.double().mean()) - 0.3) < 0.005
    assert torch.equal(kept, tool != 0)
    assert torch.allclose(paper[kept], delta[kept] / 0.3)
    assert float(tool.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-12)
    assert float((tool[kept] / delta[kept]).std()) < 1e-12


def test_dare_draws_apart_for_each_expert_and_tensor_and_the_same_every_time():
    twins = {"x": EXPERTS["x"], "again": EXPERTS["x"]}
    merged = dare(view(twins), density=0.5, coefficient=1.0)
    ratio = torch.cat([((merged[n] - BASE[n]) / (EXPERTS["x"][n] - BASE[n])).flatten() for n in SHAPES])
    assert set(ratio.round(decimals=6).tolist()) == {0.0, 2.0, 4.0}
    assert close(dare(view(twins), density=0.5, coefficient=1.0), merged, 0.0)
    other = MergerView(twins, BASE, Key(bytes(range(1, 33))))
    assert not close(dare(other, density=0.5, coefficient=1.0), merged)
