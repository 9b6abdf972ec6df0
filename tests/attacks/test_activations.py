"""Fits on activations: moments are those of what maps read, gauges come off, and weights decide what counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from redteam_attacks.activations import Moment, dressed, moments, weighed

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import Inapplicable
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.symmetry import GeneralLinear, Orthogonal, Permutation, sample_gauges, tied_cost
from redteam.tasks import Scenario
from redteam.testing import toy_scenario
from redteam.threat import OWNER
from redteam.views import AttackerView

KEY = Key.derive(seed=0, index=0, name="activations")
KINDS = ("qk", "vo", "mlp")


@pytest.fixture(scope="module", params=["vit", "bert"])
def scenario(request: pytest.FixtureRequest) -> Iterator[Scenario]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield toy_scenario(request.param, drift=0.05)
    torch.set_num_threads(threads)


def view(text: str, scenario: Scenario, protected: Checkpoint, **rest: Any) -> tuple[Any, AttackerView]:
    attack = ATTACKS.load(text)
    given: dict[str, Any] = {
        "_anchor": scenario.base,
        "_companions": {task: scenario.experts[task] for task in scenario.companions},
        "_own": {task: scenario.tasks[task] for task in scenario.companions},
    }
    return attack, AttackerView(protected, OWNER, KEY.child("attack"), needs=attack.spec.needs, **{**given, **rest})


def attacked(text: str, scenario: Scenario, protected: Checkpoint, **rest: Any) -> Checkpoint:
    attack, seen = view(text, scenario, protected, **rest)
    returned: Checkpoint = attack(seen)
    return Checkpoint.of(dict(returned.items()), returned.config)


def locked(scenario: Scenario, group: Any) -> Checkpoint:
    victim = sample_gauges(scenario.experts["victim"], ("qk", "vo"), group, KEY.child("heads").generator)
    victim = sample_gauges(victim, ("mlp",), Permutation(), KEY.child("neurons").generator)
    return Checkpoint.of(dict(victim.items()), victim.config)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("activation-procrustes", Orthogonal()),
        ("activation-procrustes:inputs=own", Orthogonal()),
        ("regmean-regression", GeneralLinear()),
    ],
)
def test_the_lock_comes_off(text: str, group: Any, scenario: Scenario) -> None:
    victim, protected = scenario.experts["victim"], locked(scenario, group)
    after = attacked(text, scenario, protected)
    free = attacked(text, scenario, victim)
    left, twin, start = (tied_cost(one, scenario.base, KINDS) for one in (after, free, protected))
    assert left < 1.01 * twin < 0.1 * start
    assert twin < 1.3 * tied_cost(victim, scenario.base, KINDS)


def test_a_rotated_stream_does_not_blind_activations(scenario: Scenario) -> None:
    stream = anatomy_of(scenario.base).sites(("residual",))[0]
    group = Orthogonal() if "orthogonal" in stream.legal else Permutation()
    turned = sample_gauges(locked(scenario, Orthogonal()), ("residual",), group, KEY.child("stream").generator)
    turned = Checkpoint.of(dict(turned.items()), turned.config)
    straight = attacked(
        "gauge-fit:sites=[residual]", scenario, attacked("activation-procrustes:inputs=own", scenario, turned)
    )
    kinds = ("qk", "vo")
    victim, start = (tied_cost(one, scenario.base, kinds) for one in (scenario.experts["victim"], turned))
    assert tied_cost(straight, scenario.base, kinds) < min(2 * victim, 0.1 * start)


def test_what_the_base_reads_is_what_its_covariance_is_of(scenario: Scenario) -> None:
    sites = anatomy_of(scenario.base).sites(("qk",))
    _, seen = view("regmean-regression", scenario, scenario.experts["victim"])
    network = dressed(scenario.base, scenario.experts["victim"])
    found = moments(seen, (network,), weighed(sites), 64)
    moment = found[sites[0].left.linear.weight]
    tasks = [scenario.tasks[task].inputs_of("validation") for task in scenario.companions]
    with torch.no_grad():
        states = [network.module()(**dict(inputs), output_hidden_states=True).hidden_states[0] for inputs in tasks]
        first = torch.cat([state.flatten(0, -2) for state in states]).double()
        norm = sites[0].left.linear.norm
        if norm is not None and norm.weight.find("before") >= 0:
            gain, shift = norm.read(network)
            eps = float(network.config.get("layer_norm_eps", 1e-12))
            first = torch.nn.functional.layer_norm(first, first.shape[-1:], gain, shift, eps)
    torch.testing.assert_close(moment.covariance, torch.cov(first.T, correction=0), rtol=1e-3, atol=1e-4)


def test_moments_add_up() -> None:
    x, y = torch.randn(40, 3, dtype=torch.float64), torch.randn(40, 4, dtype=torch.float64)
    whole, parts = Moment.of(x, y), Moment.of(x[:7], y[:7]) + Moment.of(x[7:], y[7:])
    wanted = torch.cov(torch.cat([x, y], 1).T, correction=0)[:3, 3:]
    torch.testing.assert_close(whole.covariance, wanted)
    torch.testing.assert_close(parts.covariance, wanted)


@pytest.mark.parametrize("name", ["activation-procrustes", "regmean-regression"])
def test_without_tasks_of_its_own_there_is_nothing_to_run_on(name: str, scenario: Scenario) -> None:
    with pytest.raises(Inapplicable, match="give companions"):
        attacked(name, scenario, scenario.experts["victim"], _companions={})
