"""Vocabulary matching where there are no tokens: the rest of a chain goes on, whatever a lock made of the network."""

from __future__ import annotations

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.testing import toy_scenario
from redteam.threat import threat_model
from redteam.views import AttackerView


def test_a_network_that_nobody_knows_is_left_where_its_base_takes_no_tokens() -> None:
    scenario = toy_scenario("vit")
    victim = scenario.experts["victim"]
    made = Checkpoint.of(dict(victim.items()), {**victim.config, "model_type": "another-network"})
    attack = ATTACKS.load("vocabulary-match")
    key = Key.derive(seed=0, index=0, name="vocabulary-match")
    view = AttackerView(made, threat_model("weights-only"), key, needs=attack.spec.needs, _anchor=scenario.base)
    assert attack(view).outline() == made.outline()
