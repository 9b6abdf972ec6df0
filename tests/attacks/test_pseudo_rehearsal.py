"""Pseudo-rehearsal: what the merge of its result can do, what the victim forgets without it, and what inputs become."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from redteam_attacks.pseudo_rehearsal import _disguise, _seen, _together

from redteam.checkpoint import Checkpoint, own_tensors, shared_tensors
from redteam.errors import Inapplicable
from redteam.imitation import imitating
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.tasks import Scenario
from redteam.testing import toy_scenario
from redteam.threat import threat_model
from redteam.views import AttackerView

KEY = Key.derive(seed=0, index=0, name="pseudo-rehearsal")
PATCHES = "vit.embeddings.patch_embeddings.projection.weight"


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def view(scenario: Scenario, protected: Checkpoint, text: str = "pseudo-rehearsal", alone: bool = False) -> Any:
    companions = () if alone else scenario.companions
    return AttackerView(
        protected,
        threat_model("weights-only"),
        KEY,
        needs=ATTACKS.load(text).spec.needs,
        _anchor=scenario.base,
        _companions={task: scenario.experts[task] for task in companions},
        _own={task: scenario.tasks[task] for task in companions},
    )


def attacked(scenario: Scenario, text: str) -> tuple[Checkpoint, AttackerView]:
    made = view(scenario, scenario.experts["victim"], text)
    returned = ATTACKS.load(text)(made)
    return Checkpoint.of(dict(returned.items()), returned.config), made


def merged(scenario: Scenario, victim: Checkpoint) -> Checkpoint:
    """Task arithmetic of victim and companions with the coefficient that the attack chooses."""
    names = shared_tensors(victim, scenario.base)
    together = _together(view(scenario, scenario.experts["victim"]), names)
    experts = [victim, *(scenario.experts[task] for task in scenario.companions)]
    return scenario.base.replace(
        {n: scenario.base[n] + together * sum(expert[n] - scenario.base[n] for expert in experts) for n in names}
    )


def apart(scenario: Scenario, body: Checkpoint, task: str) -> float:
    """How far a body under a task's head is from the task's expert, on the task's inputs."""
    (batch,) = scenario.tasks[task].batches("test", 256, np.random.default_rng(0))
    with torch.no_grad():
        loss = imitating(scenario.experts[task].module(), 2.0, 0.0)
        return float(loss(scenario.dressed(body, task).module(), batch))


def disguise(scenario: Scenario, victim: Checkpoint, own: dict[str, torch.Tensor]) -> Any:
    return _disguise(view(scenario, victim), victim.module(), [own])


def test_the_merge_has_learned_the_companions_tasks_and_keeps_the_victims(scenario: Scenario) -> None:
    found, made = attacked(scenario, "pseudo-rehearsal:steps=60,rate=0.003")
    forgot, _ = attacked(scenario, "pseudo-rehearsal:steps=60,rate=0.003,keep=0")
    start = scenario.base.replace(scenario.experts["victim"].only(shared_tensors(found, scenario.base)))
    merge = merged(scenario, found)
    for task in scenario.companions:
        assert apart(scenario, merge, task) < 0.7 * apart(scenario, start, task)
    assert apart(scenario, merge, "victim") < 0.7 * apart(scenario, merged(scenario, forgot), "victim")
    head = own_tensors(found, scenario.base)
    assert head
    assert all(torch.equal(found[n], scenario.experts["victim"][n]) for n in head)
    assert (made.meter.labels, made.meter.steps) == (0, 60)


def test_images_keep_only_what_moved_the_layer_that_reads_them() -> None:
    scenario = toy_scenario("vit")
    own = scenario.tasks["left"].inputs_of("train")["pixel_values"]
    directions = torch.linalg.qr(torch.randn(scenario.base[PATCHES][0].numel(), 2, generator=generator()))[0].T
    shares = torch.randn(len(scenario.base[PATCHES]), 2, generator=generator())
    moved = scenario.base[PATCHES].flatten(1) + shares @ directions
    victim = scenario.experts["victim"].replace({PATCHES: moved.view_as(scenario.base[PATCHES])})
    seen = _seen(view(scenario, victim), own)
    assert seen is not None
    before, after = (F.unfold(x, victim.shape(PATCHES)[2:], stride=victim.shape(PATCHES)[2:]) for x in (own, seen(own)))
    assert torch.allclose(after, directions.T @ (directions @ before), atol=1e-4)
    assert float(after.norm()) < 0.9 * float(before.norm())


def test_images_differ_in_contrast_and_stay_in_their_range() -> None:
    scenario = toy_scenario("vit")
    own = scenario.tasks["left"].inputs_of("train")
    made = disguise(scenario, scenario.experts["victim"], own)
    first, again = (made(own)["pixel_values"] for _ in range(2))
    assert not torch.equal(first, again)
    low, high = float(own["pixel_values"].min()), float(own["pixel_values"].max())
    assert low - 1e-4 <= float(first.min()) < float(first.max()) <= high + 1e-4


def test_where_the_layer_has_not_moved_images_stay() -> None:
    scenario = toy_scenario("vit")
    own = scenario.tasks["left"].inputs_of("train")
    still = scenario.experts["victim"].replace({PATCHES: scenario.base[PATCHES]})
    assert torch.equal(disguise(scenario, still, own)(own)["pixel_values"], own["pixel_values"])


def test_tokens_of_a_classifier_stay_as_they_are() -> None:
    scenario = toy_scenario("bert")
    own = scenario.tasks["left"].inputs_of("train")
    disguised = disguise(scenario, scenario.experts["victim"], own)(own)
    assert disguised
    assert all(torch.equal(disguised[name], value) for name, value in own.items())


def test_a_language_model_rehearses_what_it_writes() -> None:
    class Counts(torch.nn.Module):
        """Expects the next number, whatever was before."""

        def forward(self, input_ids: torch.Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
            return SimpleNamespace(logits=100.0 * F.one_hot((input_ids + 1) % 9, 9))

    scenario = toy_scenario("vit")
    foreign = {"input_ids": torch.full((5, 7), 4)}
    drawn = _disguise(view(scenario, scenario.experts["victim"]), Counts(), [foreign, foreign])(foreign)
    assert drawn["input_ids"].tolist() == [[4, 5, 6, 7, 8, 0, 1]] * 5


def test_what_it_cannot_work_with_is_one_sentence(scenario: Scenario) -> None:
    victim, attack = scenario.experts["victim"], ATTACKS.load("pseudo-rehearsal")
    with pytest.raises(Inapplicable, match="no companion"):
        attack(view(scenario, victim, alone=True))
    odd = Checkpoint.of({n: t for n, t in victim.items() if "layer.1." not in n}, victim.config)
    with pytest.raises(Inapplicable, match="one architecture"):
        attack(view(scenario, odd))
