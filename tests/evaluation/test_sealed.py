"""What does not run alone is scored as its key's holder runs it, attacked as it is released, and never compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.errors import BadPlan
from redteam.evaluation.pipelines import apply, opened
from redteam.evaluation.plan import Plan
from redteam.evaluation.resolve import Pipeline, Resolved
from redteam.key import Key
from redteam.plugins.registry import DEFENSES
from redteam.testing import checks_for
from redteam.testing.toys import in_dtype, toy_scenario


@pytest.fixture(scope="module")
def sealed(once: Callable[..., Any], toys: Any) -> Any:
    """One that a fit undoes, one that keeps everything inside, and the victim as it is."""
    defenses = ("none", "shadownet", toys.named("hollow", "seals.py"))
    attacks = (toys.named("columns", "seals.py"), toys.named("asks", "seals.py"))
    return once("sealed", toys.plan(defenses, attacks, threats=("sealed",)))


def subject(done: Any, defense: str) -> Any:
    (found,) = (one for one in done.results.subjects if one.defense == defense)
    return found


@pytest.mark.parametrize("defense", ["shadownet", "hollow"])
def test_the_score_is_that_of_whoever_holds_the_key(sealed: Any, defense: str) -> None:
    here = subject(sealed, defense)
    assert here.change <= 1e-6
    assert here.fidelity["float32"].mean == pytest.approx(1.0, abs=1e-3)
    assert here.worth.mean == pytest.approx(1.0, abs=1e-3)
    assert "NOT-EXACT" not in sealed.verdict(defense).flags


def test_what_is_released_is_of_no_use_in_a_merge(sealed: Any) -> None:
    assert sealed.theft("none", "none") >= 0.9
    assert sealed.theft("shadownet", "none") <= 0.1
    assert sealed.theft("hollow", "none") <= 0.1


def test_a_fit_to_the_base_undoes_what_is_scaled_and_exchanged(sealed: Any) -> None:
    verdict = sealed.verdict("shadownet")
    assert (verdict.verdict, verdict.attack, verdict.threat) == ("BROKEN", "columns", "sealed")
    assert sealed.cell("shadownet", "columns").scores["residual"] < 1
    assert sealed.theft("shadownet", "random-key") <= 0.1


def test_it_answers_as_whoever_holds_the_key_has_it_answer(sealed: Any) -> None:
    plain, *others = (sealed.cell(name, "asks").scores["change"] for name in ("none", "shadownet", "hollow"))
    assert others == pytest.approx([plain, plain], rel=1e-5)


def test_what_is_kept_inside_comes_back_to_whoever_holds_the_key_and_to_nobody_else(sealed: Any) -> None:
    verdict = sealed.verdict("hollow")
    assert verdict.verdict in ("INCONCLUSIVE", "INVALID")
    assert sealed.theft("hollow", "key-holder") >= 0.99
    assert sealed.cell("hollow", "key-holder").scores["residual"] <= 1e-6
    assert max(sealed.theft("hollow", attack) for attack in ("columns", "graft")) <= 0.1
    assert not [c for c in sealed.results.cells if (c.defense, c.attack) == ("hollow", "random-key")]
    (ceiling,) = (c for c in sealed.controls("ceiling", "key-holder") if c.defense == "hollow")
    assert ceiling.passed
    assert ceiling.threat == "sealed"


def test_verdicts_follow_from_their_rows_and_say_under_which_threat_model(sealed: Any) -> None:
    sealed.decide_anew()
    assert {v.threat for v in sealed.results.verdicts} == {"sealed"}
    assert "does not run alone" in sealed.results.threats["sealed"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"defenses": ["shadownet"]}, "weights-only is of models that do; judge it under sealed"),
        ({"defenses": ["shadownet"], "threats": ["sealed", "no-base"]}, "the threat model no-base is of models"),
        ({"defenses": ["rotation+shadownet"]}, "seals the weights"),
        ({"defenses": ["none", "rotation"], "threats": ["sealed"]}, "rotation releases a model that runs alone"),
        ({"defenses": ["shadownet+rotation"], "threats": ["sealed"]}, "name what seals last"),
    ],
)
def test_what_runs_alone_and_what_does_not_are_never_compared(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(BadPlan, match=told):
        Resolved.of(Plan.of(asked), Path())


def test_a_plan_can_have_both_beside_each_other() -> None:
    also = [{"defenses": ["shadownet", "rotation+shadownet", "none"], "threats": ["sealed"]}]
    found = Resolved.of(Plan.of({"defenses": ["rotation"], "also": also}), Path())
    assert set(found.threats) == {"weights-only", "sealed"}


@pytest.mark.parametrize("last", ["shadownet", "soter", "amo", "loro+arrowcloak"])
def test_opening_takes_off_what_seals_and_nothing_else(last: str) -> None:
    scenario = in_dtype(toy_scenario("vit"), torch.float64)
    victim, base, key = scenario.experts["victim"], scenario.base, Key.of_seed(0)

    def put(text: str) -> tuple[Any, Any, Any]:
        links = Pipeline.load(DEFENSES, text, Path()).links
        return (links, *apply(links, victim, base, key, check=lambda _, __, after: after))

    _, noisy, _ = put("gaussian-noise+mergelock")
    links, released, views = put(f"gaussian-noise+mergelock+{last}")
    back = opened(links, released, views)
    assert max(float((back[n] - noisy[n]).norm() / noisy[n].norm()) for n in victim) <= 1e-12
    assert max(float((back[n] - victim[n]).norm() / victim[n].norm()) for n in victim) > 0.1


def test_the_contract_holds_a_seal_to_what_it_says(toys: Any) -> None:
    checks = {check.name: check for check in checks_for(toys.named("open-door", "seals.py"))}
    outcome = checks["function: vit"].run()
    assert outcome.status == "failed"
    assert "what it releases runs alone" in outcome.reason
