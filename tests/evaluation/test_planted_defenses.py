"""Every defense there is: what feigns an attack on it never makes it safe, and what was made for it can show that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redteam.plugins.registry import ATTACKS, DEFENSES

SPECS = {name: DEFENSES.load(name).spec for name in DEFENSES.names}
PROTECTING = [name for name, spec in SPECS.items() if spec.protects and not spec.factors]
MADE_FOR = [(name, target) for name in ATTACKS.names for target in ATTACKS.load(name).spec.targets]


@pytest.mark.slow
@pytest.mark.parametrize("threat", ["weights-only", "sealed"])
def test_no_defense_holds_because_an_attack_did_nothing(toys: Any, tmp_path: Path, threat: str) -> None:
    attacks = (toys.named("feigned"), toys.named("give-up"))
    judged = tuple(name for name in PROTECTING if SPECS[name].sealed == (threat == "sealed"))
    found = toys.run(toys.plan(judged, attacks, threats=(threat,)), tmp_path / "run", workers=2)
    assert {verdict.defense for verdict in found.results.verdicts} == set(judged)
    for verdict in found.results.verdicts:
        assert verdict.verdict != "HOLDS-SO-FAR", (verdict.defense, verdict.reason)
    failed = [c for c in found.results.controls if c.control == "planted"]
    assert failed
    assert not any(c.passed for c in failed)


@pytest.mark.parametrize(("attack", "target"), MADE_FOR)
def test_what_was_made_for_a_defense_names_one_that_ships_a_weakened_variant(attack: str, target: str) -> None:
    spec = DEFENSES.load(target).spec
    assert spec.weakened or ATTACKS.load(attack).spec.breaks
