"""The ways around MLPs of another form: the base's in their place, or neurons fitted to what they do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from redteam_attacks.gauge_fit import gauge_fit
from redteam_attacks.mlp_regression import mlp_regression
from redteam_attacks.mlp_substitution import mlp_substitution
from redteam_attacks.reformed import reformed
from redteam_defenses.mergebarrier import mergebarrier

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.known import NETWORK
from redteam.errors import Inapplicable, RedteamError
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.plugins.returned import check_returned
from redteam.tasks import Scenario
from redteam.testing import toy_scenario
from redteam.testing.toys import in_dtype
from redteam.threat import OWNER, threat_model
from redteam.views import AttackerView, DefenderView

KEY = Key(bytes(range(32)))
BOTH = [mlp_substitution, mlp_regression]
ARCHITECTURES = ["vit", "bert"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def calm(architecture: str) -> Scenario:
    """The toy in float64 with neurons that stay where a polynomial about their middle is close to them."""
    scenario = in_dtype(toy_scenario(architecture), torch.float64)
    ups = [site.left.linear.weight for site in anatomy_of(scenario.base).sites(("mlp",))]  # type: ignore[attr-defined]

    def calmed(checkpoint: Checkpoint) -> Checkpoint:
        return checkpoint.replace({name: 0.3 * checkpoint[name] for name in ups})

    experts = {name: calmed(expert) for name, expert in scenario.experts.items()}
    return replace(scenario, base=calmed(scenario.base), experts=experts)


@cache
def protected(architecture: str, parts: tuple[str, ...] = ("attention", "mlp")) -> Checkpoint:
    scenario = calm(architecture)
    view = DefenderView(scenario.experts["victim"], scenario.base, KEY, scenario.tasks["victim"])
    return mergebarrier(view, parts=parts)


def view(scenario: Scenario, checkpoint: Checkpoint, **rest: Any) -> AttackerView:
    given: dict[str, Any] = {
        "_anchor": scenario.base,
        "_companions": {task: scenario.experts[task] for task in scenario.companions},
        "_own": {task: scenario.tasks[task] for task in scenario.companions},
    }
    threat = rest.pop("threat", threat_model("weights-only"))
    return AttackerView(checkpoint, threat, KEY.child("attack"), **{**given, **rest})


def ups(checkpoint: Checkpoint) -> list[tuple[str, ...]]:
    """Names of every layer's projection into the neurons, the weight first."""
    return [site.left.linear.names for site in anatomy_of(checkpoint).sites(("mlp",))]


def neurons(checkpoint: Checkpoint, names: tuple[str, ...]) -> torch.Tensor:
    """Weight and bias of each neuron, [m, d + 1]."""
    return torch.cat([checkpoint[name].double().reshape(checkpoint.shape(names[0])[0], -1) for name in names], 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestSubstitution:
    def test_what_the_victim_lacks_is_the_base_s_and_all_else_the_victim_s(self, architecture: str) -> None:
        scenario, locked = calm(architecture), protected(architecture)
        found = mlp_substitution(view(scenario, locked))
        exchanged = {name for names in ups(scenario.base) for name in names}
        assert set(found) == set(scenario.experts["victim"])
        assert all(torch.equal(found[name], scenario.base[name]) for name in exchanged)
        assert all(torch.equal(found[name], locked[name]) for name in set(found) - exchanged)
        own = scenario.experts["victim"]
        assert torch.equal(found["classifier.weight"], own["classifier.weight"])
        assert NETWORK not in found.config
        assert dict(found.config) == dict(own.config)
        assert type(found.module()) is type(own.module())

    def test_it_keeps_the_dtype_that_was_published(self, architecture: str) -> None:
        found = mlp_substitution(view(calm(architecture), protected(architecture).to(torch.bfloat16)))
        assert {found.dtype(name) for name in found} == {torch.bfloat16}

    def test_a_fit_after_it_undoes_the_reflection(self, architecture: str) -> None:
        """What comes out is the same as if nothing had been reflected."""
        scenario = calm(architecture)
        reflected, plain = (
            mlp_substitution(view(scenario, protected(architecture, parts)))
            for parts in (("attention", "mlp"), ("mlp",))
        )
        fitted = [gauge_fit(view(scenario, found)) for found in (reflected, plain)]
        heads = [name for name in plain if "attention" in name and ("query" in name or "key" in name)]
        assert heads
        assert max(float((reflected[n] - plain[n]).norm() / plain[n].norm()) for n in heads) > 0.5
        assert max(float((fitted[0][n] - fitted[1][n]).abs().max()) for n in plain) < 1e-6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestRegression:
    def test_its_neurons_are_nearer_to_the_victim_s_than_the_base_s(self, architecture: str) -> None:
        scenario, victim = calm(architecture), calm(architecture).experts["victim"]
        found = mlp_regression(view(scenario, protected(architecture)))
        for names in ups(scenario.base):
            here, start = ((neurons(c, names) - neurons(victim, names)).norm(dim=1) for c in (found, scenario.base))
            assert float((here / start).median()) < 0.7

    def test_the_answers_are_nearer_to_the_victim_s_than_after_substitution(self, architecture: str) -> None:
        scenario = calm(architecture)
        batch, _ = next(scenario.tasks["victim"].batches("validation", 64, KEY.generator("look")))
        networks = [
            scenario.experts["victim"],
            mlp_substitution(view(scenario, protected(architecture))),
            mlp_regression(view(scenario, protected(architecture))),
        ]
        with torch.no_grad():
            wanted, without, fitted = (c.module(torch.float32)(**batch).logits for c in networks)
        assert float((fitted - wanted).norm()) < float((without - wanted).norm())

    def test_nothing_but_the_neurons_differs_from_substitution(self, architecture: str) -> None:
        scenario, locked = calm(architecture), protected(architecture)
        other, found = mlp_substitution(view(scenario, locked)), mlp_regression(view(scenario, locked))
        exchanged = {name for names in ups(scenario.base) for name in names}
        assert set(found) == set(other)
        assert found.config == other.config
        assert {name for name in found if not torch.equal(found[name], other[name])} == exchanged

    def test_it_is_the_same_twice_and_looks_at_no_label(self, architecture: str) -> None:
        scenario = calm(architecture)
        seen = view(scenario, protected(architecture))
        assert mlp_regression(seen).digest() == mlp_regression(view(scenario, protected(architecture))).digest()
        assert (seen.meter.labels, seen.meter.steps) == (0, 0)

    def test_a_layer_that_fails_hides_none_above_it(self, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """As polynomials do on inputs far from those that they were made for."""
        scenario, locked = calm(architecture), protected(architecture, ("mlp",))
        victim, (_, *above) = scenario.experts["victim"], ups(scenario.base)
        lowest = min(name for name in locked if name not in victim and name.endswith(".coefficients"))
        drowned = locked[lowest].clone()
        drowned[0] = torch.tensor([1e6] + [0.0] * (drowned.shape[1] - 1))
        broken = locked.replace({lowest: drowned})

        def distance(names: tuple[str, ...]) -> float:
            here, start = ((neurons(c, names) - neurons(victim, names)).norm(dim=1) for c in (found, scenario.base))
            return float((here / start).median())

        found = mlp_regression(view(scenario, broken))
        assert max(distance(names) for names in above) < 0.7
        monkeypatch.setattr("redteam_attacks.mlp_regression._directions", lambda x: 0.0)  # as it is comes first
        found = mlp_regression(view(scenario, broken))
        assert max(distance(names) for names in above) > 0.9

    def test_a_large_ridge_is_substitution(self, architecture: str) -> None:
        scenario, locked = calm(architecture), protected(architecture)
        held = mlp_regression(view(scenario, locked), ridge=1.0)
        free = mlp_regression(view(scenario, locked), ridge=1e-6)
        for names in ups(scenario.base):
            start = neurons(scenario.base, names)
            away = [float((neurons(c, names) - start).norm(dim=1).median()) for c in (held, free)]
            assert away[0] < 0.5 * away[1]


@pytest.mark.parametrize("attack", BOTH)
class TestBoth:
    def test_a_model_of_the_base_s_form_is_returned_as_it_is(self, attack: Any) -> None:
        scenario = calm("vit")
        victim = scenario.experts["victim"]
        assert attack(view(scenario, victim)) is victim
        reflected = protected("vit", ("attention",))
        assert attack(view(scenario, reflected)) is reflected

    def test_without_an_expert_of_its_own_the_attacker_is_told_so(self, attack: Any) -> None:
        with pytest.raises(Inapplicable, match="no expert of their own"):
            attack(AttackerView.by_hand(protected("vit"), anchor=calm("vit").base))


@pytest.mark.parametrize("name", ATTACKS.names)
def test_every_attack_works_on_another_form_or_says_why_not(name: str) -> None:
    """As the owner would call it, who has everything; what an attack returns runs."""
    scenario, locked, attack = calm("vit"), protected("vit"), ATTACKS.load(name)
    siblings = {
        task: mergebarrier(DefenderView(scenario.experts[task], scenario.base, KEY, scenario.tasks[task]))
        for task in scenario.companions
    }
    seen = view(
        scenario,
        locked,
        threat=OWNER,
        needs=attack.spec.needs,
        _task=scenario.tasks["victim"],
        _owner=KEY.child("owner"),
        _key=KEY,
        _unlock=lambda checkpoint, _: checkpoint,
        _siblings=siblings,
        _releases=(locked,),
    )
    with contextlib.suppress(RedteamError):  # anything else is a crash
        check_returned(attack, locked, attack(seen)).module(torch.float32)


def test_heads_of_companions_are_no_reason_to_drop_the_victim_s() -> None:
    """Tensors that the base lacks stay where companions have their like, and go where nobody has."""
    config = {"model_type": "toy"}
    one = torch.ones(2, 2)
    base = Checkpoint.of({"a": one, "b": one}, config)
    companion = Checkpoint.of({"a": one, "b": one, "head": one}, config | {"labels": 2})
    victim = Checkpoint.of({"a": 2 * one, "b.part": one, "head": 3 * one}, config | {"labels": 5, "form": "x"})
    found = reformed(victim, base, [companion])
    assert {name: float(found[name][0, 0]) for name in found} == {"a": 2.0, "b": 1.0, "head": 3.0}
    assert dict(found.config) == config | {"labels": 5}
