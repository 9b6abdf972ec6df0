"""Any task of the scenarios that ship may be the victim, and each of them in turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from redteam_scenarios.causal.recipe import VICTIM as CAUSAL
from redteam_scenarios.causal.recipe import Recipe
from redteam_scenarios.digits.recipe import CLASSES
from redteam_scenarios.digits.recipe import VICTIM as DIGITS
from redteam_scenarios.docstrings.recipe import TASKS
from redteam_scenarios.docstrings.recipe import VICTIM as DOCSTRINGS

from redteam.cli.show import found
from redteam.errors import BadSetting
from redteam.evaluation.plan import Plan
from redteam.evaluation.resolve import Resolved
from redteam.plugins.registry import SCENARIOS

SHIPPED = {
    "digits": (DIGITS, tuple(CLASSES)),
    "docstrings": (DOCSTRINGS, tuple(TASKS)),
    "causal": (CAUSAL, tuple(Recipe().domains)),
}


def resolved(*scenarios: str) -> Resolved:
    return Resolved.of(Plan.of({"scenarios": list(scenarios)}), Path())


@pytest.mark.parametrize("name", SHIPPED)
def test_each_task_in_turn(name: str) -> None:
    usual, tasks = SHIPPED[name]
    assert SCENARIOS.load(name).settings["victim"] == usual
    assert resolved(name).families == {}
    assert resolved(f"{name}:victim=each").families == {
        f"{name}:victim=each": {task: f"{name}:victim={task}" for task in tasks}
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_a_task_that_is_none_is_told_before_anything_runs(name: str) -> None:
    with pytest.raises(BadSetting, match=f"{name} has no task 'nonsense' that could be the victim; it has "):
        resolved(f"{name}:victim=nonsense")
    with pytest.raises(BadSetting, match="is several scenarios; ask for one of them: victim="):
        SCENARIOS.load(f"{name}:victim=each")()


def test_another_victim_of_the_same_models_and_data() -> None:
    usual, other = (SCENARIOS.load(text)() for text in ("digits", "digits:victim=letters"))
    assert (usual.victim, other.victim) == ("digits", "letters")
    assert other.companions == ("digits", "shapes", "textures")
    assert all(other.experts[name].digest() == usual.experts[name].digest() for name in usual.experts)
    assert all(other.tasks[name].digest() == usual.tasks[name].digest() for name in usual.tasks)
    assert other.digest() != usual.digest()
    assert other.summary.endswith("Here the victim is letters, and digits one of the companions.")


def test_growth_is_of_the_usual_victim() -> None:
    with pytest.raises(BadSetting, match="growth is of the expert for digits; leave out victim=letters, or growth"):
        resolved("digits:growth=2,victim=letters")
    with pytest.raises(BadSetting, match="growth is of the expert for digits"):
        resolved("digits:growth=2,victim=each")
    assert list(resolved("digits:growth=2").places) == [("digits:growth=2", 0)]


def test_show_says_who_it_is() -> None:
    told = str(found("digits")[0])
    assert "the victim; image classification" in next(line for line in told.splitlines() if "  digits " in line)
