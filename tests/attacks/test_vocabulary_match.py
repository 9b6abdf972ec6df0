"""Vocabulary matching where there is nothing to match: the rest of a chain goes on, whatever a lock made of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.testing import toy_scenario
from redteam.threat import threat_model
from redteam.views import AttackerView

ROWS = "model.embed_tokens.weight"


def matched(protected: Checkpoint, base: Checkpoint) -> Checkpoint:
    attack = ATTACKS.load("vocabulary-match")
    key = Key.derive(seed=0, index=0, name="vocabulary-match")
    return attack(AttackerView(protected, threat_model("weights-only"), key, needs=attack.spec.needs, _anchor=base))


def test_a_network_that_nobody_knows_is_left_where_its_base_takes_no_tokens() -> None:
    scenario = toy_scenario("vit")
    victim = scenario.experts["victim"]
    made = Checkpoint.of(dict(victim.items()), {**victim.config, "model_type": "another-network"})
    assert matched(made, scenario.base).outline() == made.outline()


def test_rows_of_another_width_are_left_as_they_are() -> None:
    scenario = toy_scenario("llama")
    wide = scenario.experts["victim"].replace({ROWS: F.pad(scenario.base[ROWS], (0, 8))})
    assert torch.equal(matched(wide, scenario.base)[ROWS], wide[ROWS])
