"""Graft: what lies too far from the base is the base's, a map's bias on its own account too."""

import pytest
import torch
from redteam_attacks.gauge_fit import gauge_fit
from redteam_attacks.graft import graft
from redteam_defenses.null_shift import null_shift

from redteam.key import Key
from redteam.testing.toys import toy_scenario
from redteam.views import AttackerView, DefenderView

OUTPUT = "vit.encoder.layer.1.attention.output.dense"


def taken(protected, base):
    """Names of what is not the protected model's any more; all of it is the base's."""
    found = graft(AttackerView.by_hand(protected, anchor=base))
    names = {name for name in protected if not torch.equal(found[name], protected[name])}
    assert all(torch.equal(found[name], base[name]) for name in names)
    return names


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 100.0), (torch.bfloat16, 30.0)])
def test_what_rounding_cost_the_victim_the_base_gives_back(dtype, size):
    """Null shifts in half precision: the victim loses its function, and the base's output biases have it."""
    scenario = toy_scenario("vit", drift=0.05)
    victim, base = scenario.experts["victim"], scenario.base
    view = DefenderView(victim.to(torch.float64), base, Key(bytes(range(32))))
    released = null_shift(view, size=size).to(dtype).to(torch.float32)
    fitted = gauge_fit(AttackerView.by_hand(released, anchor=base))
    grafted = graft(AttackerView.by_hand(fitted, anchor=base))

    def score(checkpoint):
        return float(scenario.tasks["victim"].scores(checkpoint.module(), "test").mean())

    assert score(victim) == 1.0
    assert score(grafted) > score(released) + 0.05
    assert score(grafted) > score(fitted) + 0.05
    assert all(name.endswith("bias") for name in taken(fitted, base)), "the weights hold the skill"


def test_a_ruined_bias_goes_alone():
    scenario = toy_scenario("vit", drift=0.05)
    victim, base = scenario.experts["victim"], scenario.base
    assert taken(victim, base) == set()
    bias = victim[f"{OUTPUT}.bias"]
    assert taken(victim.replace({f"{OUTPUT}.bias": bias + bias.norm()}), base) == {f"{OUTPUT}.bias"}


def test_a_ruined_weight_takes_its_bias_along():
    scenario = toy_scenario("vit", drift=0.05)
    victim, base = scenario.experts["victim"], scenario.base
    names = {f"{OUTPUT}.weight", f"{OUTPUT}.bias"}
    assert taken(victim.replace({f"{OUTPUT}.weight": -victim[f"{OUTPUT}.weight"]}), base) == names


def test_norms_and_the_tasks_own_head_stay():
    scenario = toy_scenario("vit", drift=0.05)
    victim, base = scenario.experts["victim"], scenario.base
    norms = {name: -victim[name] for name in victim if "layernorm" in name}
    assert norms
    assert "classifier.bias" in victim
    assert taken(victim.replace(norms | {"classifier.bias": -victim["classifier.bias"]}), base) == set()
