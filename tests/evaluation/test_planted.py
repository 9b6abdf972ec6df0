"""Every kind of lock, planted: what claims to undo it does, what is crippled is noticed, and nothing is called safe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redteam.evaluation.thresholds import THRESHOLDS
from redteam.plugins.files import module_from
from redteam.plugins.reference import Reference
from redteam.plugins.registry import ATTACKS

HERE = Path(__file__).parent
CRIPPLED = module_from(HERE / "crippled.py")
# Toys have two heads, and one of two orders is the one they had: leaving it on is no fault that could be seen.
UNSEEN = (("heads", "permutation"), "one-layer-left")
CASES = [
    case
    for pair in CRIPPLED.PAIRS
    for cripple in CRIPPLED.CRIPPLES
    if (case := (pair, cripple.__name__.replace("_", "-"))) != UNSEEN
]
CLAIMING = [name for name in ATTACKS.names if ATTACKS.load(name).spec.breaks]

pytestmark = pytest.mark.slow


def _plant(pair: tuple[str, str], case: str) -> str:
    return str(Reference(f"{HERE / 'crippled.py'}@plant", {"site": pair[0], "group": pair[1], "case": case}))


def _attack(what: str, pair: tuple[str, str]) -> str:
    return str(Reference(f"{HERE / 'crippled.py'}@{what}-{pair[0]}-{pair[1]}"))


def _plan(toys: Any, cases: list[tuple[tuple[str, str], str]]) -> dict[str, Any]:
    """One product a case: a lock of its own, and one attack on it."""
    products = [{"defenses": (_plant(pair, what),), "attacks": (_attack(what, pair),)} for pair, what in cases]
    return {**toys.plan(**products[0], controls="all"), "also": products[1:]}


@pytest.fixture(scope="module")
def crippled(once: Callable[..., Any], toys: Any) -> Any:
    return once("crippled", _plan(toys, CASES), workers=2)


@pytest.fixture(scope="module")
def sound(once: Callable[..., Any], toys: Any) -> Any:
    return once("sound", _plan(toys, [(pair, "sound") for pair in CRIPPLED.PAIRS]), workers=2)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize(("pair", "what"), CASES)
def test_whatever_is_crippled_fails_its_plant(crippled: Any, pair: tuple[str, str], what: str) -> None:
    planted = crippled.controls("planted", f"{what}-{pair[0]}-{pair[1]}")
    assert {c.site for c in planted} == {pair[0], "all claims at once"}
    assert {c.status for c in planted} == {"ok"}
    assert not any(c.passed for c in planted), [c.explanation for c in planted]


def test_none_of_these_locks_is_said_to_hold(crippled: Any) -> None:
    words = {v.defense: v.verdict for v in crippled.results.verdicts}
    assert len(words) == len(CASES)
    assert "HOLDS-SO-FAR" not in words.values()
    assert "UNSCORABLE" not in words.values(), "then nothing would have been judged"
    crippled.decide_anew()


@pytest.mark.parametrize("pair", CRIPPLED.PAIRS)
def test_what_they_were_crippled_from_passes_and_breaks_the_lock(sound: Any, pair: tuple[str, str]) -> None:
    planted = sound.controls("planted", f"sound-{pair[0]}-{pair[1]}")
    assert {c.site for c in planted} == {pair[0], "all claims at once"}
    assert all(c.passed for c in planted), [c.explanation for c in planted]
    (verdict,) = (
        v for v in sound.results.verdicts if f"site={pair[0]}" in v.defense and f"group={pair[1]}," in v.defense
    )
    assert verdict.verdict in ("BROKEN", "INEFFECTIVE"), verdict.reason


@pytest.mark.parametrize("architecture", ["vit", "bert"])
def test_every_registered_claim_comes_off(once: Callable[..., Any], toys: Any, architecture: str) -> None:
    scenario = str(Reference(f"{HERE / 'toy.py'}@toy", {"architecture": architecture}))
    plan = {
        **toys.plan(("none",), tuple(CLAIMING), threats=("weights-only", "same-key"), controls="all"),
        "scenarios": (scenario,),
    }
    done = once(f"claims-{architecture}", plan, workers=2)
    planted = [c for c in done.results.controls if c.control == "planted"]
    assert {c.attack for c in planted} == set(CLAIMING)
    harmless = [c for c in done.results.controls if c.control == "harmless"]
    # Untied alignment loses a part of the task vector, lock or no lock, and with it more than a tenth of the skill.
    failed = [c.explanation for c in (*planted, *harmless) if not c.passed and c.attack != "anchor-alignment"]
    assert failed == []
    # What it does not undo it undoes in part, unless it loses all that the victim adds without a lock as well: on BERT
    # that is 0.07 of the accuracy, and untied alignment leaves nothing of it.
    spares = {c.attack for c in done.results.cells if (c.scores.get("theft") or 0.0) >= THRESHOLDS.stolen}
    assert all(c.partial for c in planted if not c.passed and c.attack in spares)
    assert ("anchor-alignment" in spares) == (architecture == "vit")
