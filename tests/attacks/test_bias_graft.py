"""Null shifts in half precision: the victim loses its function, and whoever takes the base's biases has it."""

import pytest
import torch
from redteam_attacks.bias_graft import bias_graft
from redteam_attacks.gauge_fit import gauge_fit
from redteam_defenses.null_shift import null_shift

from redteam.key import Key
from redteam.testing.toys import toy_scenario
from redteam.views import AttackerView, DefenderView


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 100.0), (torch.bfloat16, 30.0)])
def test_rounding_costs_the_victim_more_than_the_thief(dtype, size):
    scenario = toy_scenario("vit", drift=0.05)
    victim, base = scenario.experts["victim"], scenario.base
    view = DefenderView(victim.to(torch.float64), base, Key(bytes(range(32))))
    released = null_shift(view, size=size).to(dtype).to(torch.float32)
    fitted = gauge_fit(AttackerView.by_hand(released, anchor=base))
    taken = bias_graft(AttackerView.by_hand(fitted, anchor=base))

    def score(checkpoint):
        return float(scenario.tasks["victim"].scores(checkpoint.module(), "test").mean())

    assert score(victim) == 1.0
    assert score(taken) > score(released) + 0.05
    assert score(taken) > score(fitted) + 0.05


def test_biases_of_maps_alone_are_the_bases():
    scenario = toy_scenario("vit")
    victim, base = scenario.experts["victim"], scenario.base
    taken = bias_graft(AttackerView.by_hand(victim, anchor=base))
    changed = {name for name in victim if not torch.equal(taken[name], victim[name])}
    assert changed
    assert all(name.endswith(".bias") and torch.equal(taken[name], base[name]) for name in changed)
    assert not any("norm" in name for name in changed)
    assert not any(name.startswith("classifier") for name in changed), "the head is nobody else's"
