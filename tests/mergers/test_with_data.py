"""Mergers that take data of the experts' tasks: what they are shown, what holds of them, and who may use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput, ThreatModelViolation
from redteam.evaluation.layout import withheld
from redteam.evaluation.resolve import Pipeline
from redteam.key import Key
from redteam.plugins.contracts import LAWS, Needs, merger
from redteam.plugins.registry import MERGERS
from redteam.symmetry import Orthogonal, Permutation
from redteam.testing import toy_scenario
from redteam.threat import threat_model
from redteam.views import DefenderView, MergerView
from tests.evaluation.layouts import laid, resolved
from tests.mergers.data_oracles import STREAM, batch_of, in_float64
from tests.mergers.oracles import merged, of_toy

EACH = (
    "regmean:samples=16",
    "fisher:samples=8",
    "neulig:samples=16,steps=6,rate=0.1",
    "adamerging:samples=16,steps=4,rate=0.05",
)
TOY = toy_scenario("vit")
EXPERTS, BASE = in_float64()


def apart(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """‖one − other‖ ÷ ‖other‖ over the tensors of the first."""
    far = sum(float((one[n].double() - other[n].double()).square().sum()) for n in one)
    return float(np.sqrt(far / sum(float(other[n].double().square().sum()) for n in one)))


def gauged(kind: str, group: Permutation | Orthogonal) -> Callable[[Checkpoint], Checkpoint]:
    """The same gauge on any checkpoint."""
    key = Key.derive(seed=5, index=0, name="gauge")
    return lambda one: DefenderView(one, BASE, key).lock((kind,), group)


def identical(text: str) -> bool:
    left = EXPERTS["left"]
    return apart(of_toy(text, dict.fromkeys(EXPERTS, left), BASE), left) < 1e-6


def order(text: str) -> bool:
    return apart(of_toy(text, dict(reversed(EXPERTS.items())), BASE), of_toy(text, EXPERTS, BASE)) < 1e-6


def commutes(text: str, kind: str, group: Permutation | Orthogonal) -> bool:
    move = gauged(kind, group)
    there = of_toy(text, {t: move(e) for t, e in EXPERTS.items()}, move(BASE))
    whole = move(BASE.replace(dict(of_toy(text, EXPERTS, BASE).items())))
    return apart(there, whole) < 1e-5


def still(text: str) -> bool:
    base = {t: e.replace(BASE.only(shared_tensors(e, BASE))) for t, e in EXPERTS.items()}
    return apart(of_toy(text, base, BASE), BASE) < 1e-6


TRIED: Mapping[str, Callable[[str], bool]] = {
    "identical": identical,
    "order": order,
    "permutation": lambda text: commutes(text, "mlp", Permutation()),
    "rotation": lambda text: commutes(text, "vo", Orthogonal()),
    "still": still,
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("text", EACH)
def test_a_law_holds_where_it_is_declared_and_fails_where_it_is_not(text: str, law: str) -> None:
    """Gauges are those of sites of a network, whose function they keep: others would change what is read."""
    assert TRIED[law](text) == (law in MERGERS.load(text).spec.holds)


def test_they_are_all_tried() -> None:
    assert {text.partition(":")[0] for text in EACH} == set(MERGERS.names_where(lambda spec: bool(spec.needs)))


def shown(needs: Needs, most: int | None = None) -> MergerView:
    held = {"_tasks": TOY.tasks, "_victim": TOY.victim, "_owner": STREAM.child("owner"), "_most": most}
    return MergerView(TOY.experts, TOY.base, STREAM, needs=needs, **held)  # type: ignore[arg-type]


def test_the_view_shows_samples_that_were_declared_and_no_more() -> None:
    for task in TOY.experts:
        inputs, labels = shown(Needs.SAMPLES).samples(task, 8)
        wanted, answers = batch_of(task, 8)
        assert torch.equal(labels, answers)
        assert all(torch.equal(inputs[key], wanted[key]) for key in wanted)
        assert torch.equal(next(iter(shown(Needs.INPUTS).inputs(task, 8).values())), next(iter(wanted.values())))
    with pytest.raises(ThreatModelViolation, match="does not declare it"):
        shown(Needs.INPUTS).samples("left", 8)
    with pytest.raises(ThreatModelViolation, match="does not declare it"):
        shown(Needs.NONE).inputs("left", 8)
    view = shown(Needs.SAMPLES)
    view.samples("left", 12)
    assert view.labels == 0
    view.samples("victim", 8)
    assert view.labels == 8
    with pytest.raises(ThreatModelViolation, match="asked for 9 samples of victim"):
        shown(Needs.INPUTS, 8).inputs("victim", 9)


@pytest.mark.parametrize("text", EACH)
def test_without_data_it_is_one_sentence(text: str) -> None:
    with pytest.raises(BadInput, match="takes data of the experts' tasks"):
        merged(text, TOY.base, TOY.experts)


def test_a_merger_can_need_nothing_else() -> None:
    with pytest.raises(ValueError, match="needs INPUTS or SAMPLES or nothing"):
        merger("greedy", needs=Needs.KEY)


@pytest.mark.parametrize(
    ("text", "threat", "lacking"),
    [
        ("regmean", "weights-only", "256 inputs of the victim's task"),
        ("regmean", "few-shot", "256 inputs of the victim's task"),
        ("regmean:samples=64", "few-shot", ""),
        ("regmean", "data-rich", ""),
        ("fisher", "few-shot:samples=255", "256 labelled samples of the victim's task"),
        ("fisher", "few-shot:samples=256", ""),
        ("adamerging:samples=64", "few-shot", ""),
        ("adamerging", "weights-only", "256 inputs of the victim's task"),
        ("task-arithmetic", "weights-only", ""),
        ("task-arithmetic", "no-base", "the base"),
        ("linear", "no-base", ""),
    ],
)
def test_it_is_left_out_where_a_threat_model_grants_less(text: str, threat: str, lacking: str) -> None:
    assert withheld(Pipeline.load(MERGERS, text, Path()), threat_model(threat)) == lacking


def test_a_plan_says_which_mergers_are_left_out_where() -> None:
    plan = {"defenses": ("rotation",), "attacks": ("procrustes",), "mergers": ("linear", "regmean:samples=64")}
    found = laid(resolved({**plan, "threats": ("weights-only", "few-shot:samples=64")}))
    used = {asked.threat.name: {p.merger for p in asked.pairings} for asked in found.asked.values()}
    assert used == {"weights-only": {"linear"}, "few-shot:samples=64": {"linear", "regmean:samples=64"}}
    (told,) = found.withheld
    assert told.startswith("The merger regmean:samples=64 under weights-only: it takes 64 inputs of the victim's task")
