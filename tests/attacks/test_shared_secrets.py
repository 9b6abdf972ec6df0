"""Secrets that are none: a key on two models, of which the attacker knows one, and a seed that can be counted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput, Inapplicable
from redteam.key import Key
from redteam.plugins.reference import Reference
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS
from redteam.symmetry import GeneralLinear, Permutation, ShiftLock
from redteam.tasks import Scenario
from redteam.testing import toy_scenario
from redteam.testing.toys import in_dtype
from redteam.threat import OWNER
from redteam.views import AttackerView, DefenderView, MergerView, unlocked

KEY, OTHER = (Key.derive(seed=0, index=index, name="shared secrets") for index in (0, 1))
Defend = Callable[[DefenderView], Checkpoint]


@pytest.fixture(scope="module", params=["vit", "bert"])
def exact(request: pytest.FixtureRequest) -> Iterator[Scenario]:
    """A toy in float64, so that what is left is the attack's own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield in_dtype(toy_scenario(request.param), torch.float64)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> Scenario:
    made: Scenario = SCENARIOS.load("digits:seed=0")()
    return made


def under(defend: Defend, scenario: Scenario, task: str, key: Key) -> Checkpoint:
    expert = scenario.experts[task]
    locked = defend(DefenderView(expert, scenario.base, key, scenario.tasks[task]))
    return Checkpoint.of(dict(locked.items()), locked.config)


def attacked(name: str, scenario: Scenario, protected: Checkpoint, **rest: Any) -> Checkpoint:
    attack = ATTACKS.load(name)
    companions = {task: scenario.experts[task] for task in scenario.companions}
    given = {"_anchor": scenario.base, "_companions": companions, **rest}
    returned = attack(AttackerView(protected, OWNER, KEY.child("attack"), needs=attack.spec.needs, **given))
    return Checkpoint.of(dict(returned.items()), returned.config)


def residual(found: Checkpoint, scenario: Scenario) -> float:
    """‖found − victim‖ ÷ ‖τ‖ over everything that is merged."""
    victim, base = scenario.experts[scenario.victim], scenario.base
    left = moved = 0.0
    for name in shared_tensors(victim, base):
        left += float((found[name].double() - victim[name].double()).square().sum())
        moved += float((base[name].double() - victim[name].double()).square().sum())
    return (left / moved) ** 0.5


def change(found: Checkpoint, scenario: Scenario) -> float:
    task = scenario.tasks[scenario.victim]
    inputs = task.inputs_of("test")
    with torch.inference_mode():
        ours, theirs = (m.module()(**inputs).logits for m in (found, scenario.experts[scenario.victim]))
    return float((ours - theirs).norm() / theirs.norm())


def lock(view: DefenderView) -> Checkpoint:
    """A matrix where one is legal and what is legal elsewhere, and neurons in another order."""
    heads = view.lock(("qk", "vo"), GeneralLinear(), adapts=True)
    return view.lock(("mlp",), Permutation(), checkpoint=heads)


def with_heads(view: DefenderView) -> Checkpoint:
    return view.lock(("heads",), Permutation(), checkpoint=lock(view))


def shifted(view: DefenderView) -> Checkpoint:
    shift = ShiftLock(1.0, lambda label: view.generator(f"shift {label}"), ("qk", "vo"))
    return shift.put_on(lock(view))


def seeded(view: DefenderView, seed: int = 5) -> Checkpoint:
    return lock(view.seeded(seed))


class TestCollusion:
    @pytest.mark.parametrize("defend", [lock, with_heads])
    def test_a_shared_gauge_comes_off_to_rounding_and_one_of_its_own_does_not(
        self, exact: Scenario, defend: Defend
    ) -> None:
        protected, own = under(defend, exact, exact.victim, KEY), exact.companions[0]
        shared, apart = (
            attacked("collusion", exact, protected, _siblings={own: under(defend, exact, own, key)})
            for key in (KEY, OTHER)
        )
        assert residual(shared, exact) <= 1e-8
        assert min(residual(apart, exact), residual(protected, exact)) >= 0.5
        assert max(change(found, exact) for found in (shared, apart)) <= 1e-8, "the function stays either way"

    def test_it_is_closer_than_any_fit_to_the_base_can_be(self, exact: Scenario) -> None:
        protected, own = under(lock, exact, exact.victim, KEY), exact.companions[0]
        shared = attacked("collusion", exact, protected, _siblings={own: under(lock, exact, own, KEY)})
        fitted = attacked("gauge-fit", exact, protected)
        assert residual(shared, exact) <= 1e-6 * residual(fitted, exact)

    def test_shifts_on_top_take_the_amounts_of_the_expert(self, exact: Scenario) -> None:
        protected, own = under(shifted, exact, exact.victim, KEY), exact.companions[0]
        shared = attacked("collusion", exact, protected, _siblings={own: under(shifted, exact, own, KEY)})
        assert residual(shared, exact) <= 0.5 < residual(protected, exact)
        assert change(shared, exact) <= 1e-8

    def test_where_nothing_lies_on_either_nothing_moves(self, exact: Scenario) -> None:
        own = exact.companions[0]
        kept = attacked("collusion", exact, exact.experts[exact.victim], _siblings={own: exact.experts[own]})
        assert residual(kept, exact) <= 1e-8

    def test_without_an_expert_it_says_what_it_needs(self, exact: Scenario) -> None:
        with pytest.raises(Inapplicable, match="went through this defense"):
            attacked("collusion", exact, exact.experts[exact.victim])

    def test_other_shapes_are_one_sentence(self, exact: Scenario) -> None:
        own = exact.companions[0]
        name = next(n for n in exact.base if n.endswith("query.weight"))
        odd = exact.experts[own].replace({name: torch.zeros(3, 3)})
        with pytest.raises(BadInput, match=r"has shape .* expected"):
            attacked("collusion", exact, exact.experts[exact.victim], _siblings={own: odd})


class TestSeedRegeneration:
    def try_on(self, scenario: Scenario, defend: Defend, **settings: Any) -> Checkpoint:
        def unlock(checkpoint: Checkpoint, key: Key) -> Checkpoint:
            return unlocked(checkpoint, defend, scenario.base, key, guessed=True)

        name = str(Reference("seed-regeneration", settings))
        return attacked(name, scenario, under(defend, scenario, scenario.victim, KEY), _unlock=unlock)

    def test_a_seed_that_is_fixed_is_found(self, exact: Scenario) -> None:
        assert residual(self.try_on(exact, seeded, limit=6), exact) <= 1e-8

    def test_one_beyond_the_limit_or_a_key_is_not(self, exact: Scenario) -> None:
        assert residual(self.try_on(exact, seeded, limit=5), exact) >= 0.5
        found = self.try_on(exact, lock, limit=6)
        assert residual(found, exact) >= 0.5
        assert change(found, exact) <= 1e-8

    def test_an_open_model_stays_what_it_is(self, exact: Scenario) -> None:
        victim = exact.experts[exact.victim]
        kept = attacked("seed-regeneration:limit=3", exact, victim, _unlock=lambda given, key: given)
        assert all(torch.equal(kept[name], victim[name]) for name in victim)


class TestOneKeyOnTwoModels:
    """What a merge of two models keeps, both locked: as much as without locks under one key, nothing under two."""

    @staticmethod
    def merged(digits: Scenario, keys: Mapping[str, Key] | None) -> dict[str, float]:
        defend, experts = DEFENSES.load("mergelock"), {}
        for task in (digits.victim, digits.companions[0]):
            expert = digits.experts[task]
            experts[task] = expert if keys is None else under(defend, digits, task, keys[task])
        merge = MERGERS.load("linear")(MergerView(experts, digits.base, KEY))
        found = {}
        for name in experts:
            task = digits.tasks[name]
            right, alone = (
                float(task.scores(x.module()).mean()) for x in (digits.dressed(merge, name), digits.experts[name])
            )
            found[name] = (right - task.chance) / (alone - task.chance)
        return found

    def test_one_key_merges_two_keys_do_not(self, digits: Scenario) -> None:
        names = (digits.victim, digits.companions[0])
        open_, one, two = (
            self.merged(digits, keys)
            for keys in (None, dict.fromkeys(names, KEY), dict(zip(names, (KEY, OTHER), strict=True)))
        )
        for name in names:
            assert abs(one[name] - open_[name]) <= 0.01, "a shared gauge is no gauge"
            assert one[name] >= 0.8, "of the skill above chance of the expert alone"
            assert two[name] <= 0.2
