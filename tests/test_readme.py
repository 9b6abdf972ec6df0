"""What the README shows works as it stands there."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redteam.evaluation.plan import Plan
from redteam.evaluation.run import run
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.evaluation.verdict import Word
from redteam.threat import THREAT_MODELS

TOY = Path(__file__).parent / "evaluation" / "toy.py"


@pytest.fixture(scope="module")
def readme(page: Callable[[str], Any]) -> Any:
    return page("README.md")


def test_the_plan_that_shows_the_defaults_shows_the_defaults(readme: Any) -> None:
    assert Plan.of(tomllib.loads(readme.indented("scenarios = "))) == Plan()


def test_every_verdict_and_threat_model_is_explained(readme: Any) -> None:
    assert all(f"| {word} |" in readme.text for word in Word.__args__)
    assert all(f"| `{name}` |" in readme.text for name in THREAT_MODELS)


def test_the_limits_are_those_in_force(readme: Any) -> None:
    assert f"less than {THRESHOLDS.gain} |" in readme.text
    assert f"more than {THRESHOLDS.companions} under" in readme.text
    assert f"less than {THRESHOLDS.costly} of its accuracy" in readme.text
    assert readme.text.count(f"theft ≥ {THRESHOLDS.stolen}") == 1
    assert f"lower bound of theft without attack ≥ {THRESHOLDS.stolen}" in readme.text


def test_the_attack_breaks_what_it_claims_and_a_rotation(readme: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(readme.indented("# mine.py"))
    plan = {"scenarios": [f"{TOY}@toy"], "defenses": ["rotation:sites=[vo]"], "attacks": ["mine.py@mine"]}
    found = run(plan, out=tmp_path / "out", workers=0, folder=tmp_path)
    (plant,) = (control for control in found.controls if control.control == "planted" and control.attack == "mine")
    assert plant.passed
    assert [verdict.attack for verdict in found.verdicts] == ["mine"]
    assert [verdict.verdict for verdict in found.verdicts] == ["BROKEN"]


def test_the_python_example_runs(readme: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import redteam.evaluation.run as home

    def on_toys(plan: Any, **rest: Any) -> Any:
        return run({**plan, "scenarios": [f"{TOY}@toy"]}, workers=0, **rest)

    monkeypatch.setattr(home, "run", on_toys)
    monkeypatch.chdir(tmp_path)
    exec(compile(readme.indented("import redteam"), "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("mergelock BROKEN")
