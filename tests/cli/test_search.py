"""`redteam search`: goes on where it stopped, never reads the scoring data, and says what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import redteam.search.run as running
from redteam.errors import PluginFault
from redteam.evaluation.plan import Plan
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.runner.pool import Pool
from redteam.events import Observer
from redteam.search.objective import Measured, Objective
from redteam.search.results import SearchResults
from redteam.search.run import Asked, search

TESTS = Path(__file__).parent.parent
PLUGINS = TESTS / "search" / "plugins.py"
TOY = f"{TESTS / 'evaluation' / 'toy.py'}@toy"
PARTS = ("qk-part", "vo-part")

pytestmark = pytest.mark.usefixtures("lasting_no_power_cut")


class Watching(Observer):
    """Remembers what it was told, and may interrupt."""

    def __init__(self, after: int = 10**6) -> None:
        self.after, self.tries, self.done_before = after, list[str](), -1

    def searching(self, space: Any, naive: float, done: int, total: int) -> None:
        self.done_before = done

    def tried(self, pipeline: str, outcome: str, best: str, done: int, total: int) -> None:
        self.tries.append(pipeline)
        if len(self.tries) >= self.after:
            raise KeyboardInterrupt


def asked(*attacks: str, trials: int = 6, **rest: Any) -> Asked:
    named = tuple(f"{PLUGINS}@{name}" for name in attacks)
    return Asked(**{"defense": "mergelock", "scenario": TOY, "attacks": named, "trials": trials, "steps": 2, **rest})


@pytest.fixture
def constant(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials whose figures depend on the pipeline alone, and no scoring: what is computed is listed."""
    computed = list[str]()

    def measure(self: Any, pipeline: str) -> Measured:
        computed.append(pipeline)
        if "fails" in pipeline:
            return Measured("error", "ValueError: the sum does not add up")
        return Measured("ok", "", min(1.0, len(pipeline) % 7 / 6), float(len(pipeline)), 0, 0)

    def bare(self: Any, *_: Any, **__: Any) -> None:
        self.naive, self.identity, self.store = 0.0, "0" * 64, type("Store", (), {"clear_work": lambda self: None})()

    class Nothing:
        figures: tuple[Any, ...] = ()
        verdicts: tuple[Any, ...] = ()

    monkeypatch.setattr(Objective, "measure", measure)
    monkeypatch.setattr(Objective, "__init__", bare)
    monkeypatch.setattr(running, "evaluate", lambda *_, **__: Nothing())
    monkeypatch.setattr(running, "_scored", lambda *_: running.Scored(reason="not run"))
    return computed


def look(what: Asked, out: Path, after: int = 10**6) -> tuple[SearchResults | None, Watching]:
    watching = Watching(after)
    try:
        return search(what, out, observer=watching, workers=0), watching
    except KeyboardInterrupt:
        return None, watching


@pytest.mark.slow
def test_stopped_and_gone_on_with_it_is_the_same_search(constant: list[str], tmp_path: Path) -> None:
    whole, _ = look(asked(*PARTS, "idle", trials=15), tmp_path / "whole")
    straight = list(constant)
    constant.clear()
    nothing, _ = look(asked(*PARTS, "idle", trials=15), tmp_path / "parts", after=6)
    assert nothing is None
    found, second = look(asked(*PARTS, "idle", trials=15), tmp_path / "parts")
    assert second.done_before == 6
    assert constant == straight, "the same pipelines, none of them twice"
    assert found is not None
    assert whole is not None
    assert [t.pipeline for t in found.trials] == [t.pipeline for t in whole.trials]
    assert len(set(straight)) == 15


def test_killed_in_a_trial_it_is_tried_again(
    constant: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(asked(*PARTS, trials=12), tmp_path / "whole")
    straight = list(constant)
    constant.clear()
    measure = Objective.measure

    def killed(self: Any, pipeline: str) -> Measured:
        if len(constant) == 7:
            raise KeyboardInterrupt
        return measure(self, pipeline)

    monkeypatch.setattr(Objective, "measure", killed)
    look(asked(*PARTS, trials=12), tmp_path / "parts")
    monkeypatch.setattr(Objective, "measure", measure)
    look(asked(*PARTS, trials=12), tmp_path / "parts")
    assert constant == straight


def test_a_finished_search_computes_nothing_and_more_trials_only_those(constant: list[str], tmp_path: Path) -> None:
    look(asked(*PARTS), tmp_path)
    first = len(constant)
    look(asked(*PARTS), tmp_path)
    assert len(constant) == first == 6
    found, _ = look(asked(*PARTS, trials=9), tmp_path)
    assert found is not None
    assert len(constant) == len(found.trials) == 9


def test_another_seed_looks_elsewhere(constant: list[str], tmp_path: Path) -> None:
    one, _ = look(asked(*PARTS, trials=12), tmp_path / "one")
    other, _ = look(asked(*PARTS, trials=12, seed=1), tmp_path / "other")
    assert one is not None
    assert other is not None
    assert [t.pipeline for t in one.trials] != [t.pipeline for t in other.trials]


def test_a_small_space_is_exhausted_and_nothing_is_computed_twice(constant: list[str], tmp_path: Path) -> None:
    found, _ = look(asked("idle", "fails", trials=20), tmp_path)
    assert found is not None
    assert found.exhausted
    assert found.repeated > 0
    assert sorted(constant) == sorted(set(constant))
    assert len(constant) == 2 + 4
    failed = [trial for trial in found.trials if "fails" in trial.pipeline]
    assert len(failed) == 4
    assert all(t.theft is None and t.status == "error" and "add up" in t.reason for t in failed)


def test_where_everything_fails_it_says_that_nothing_is_known(constant: list[str], tmp_path: Path) -> None:
    found, _ = look(asked("fails", trials=14, steps=14), tmp_path)
    assert found is not None
    assert len(constant) == 14
    assert found.winner is None
    assert "nothing is known" in found.sentences[0]


def test_no_trial_is_begun_when_time_is_up(constant: list[str], tmp_path: Path) -> None:
    found, _ = look(asked(*PARTS, seconds=0.0), tmp_path)
    assert constant == []
    assert found is not None
    assert found.best is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 3}, "space"),
        ({"without": ("qk-part",)}, "space"),
        ({"defense": "rotation"}, "defense"),
        ({"seed": 1}, "scenario"),
        ({"threat": "leaked-key"}, "threat"),
        ({"merger": "linear"}, "merger"),
    ],
)
def test_a_study_of_something_else_is_refused(
    constant: list[str], tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    from redteam.errors import BadInput

    look(asked(*PARTS), tmp_path)
    with pytest.raises(BadInput, match=f"about another {told} "):
        look(asked(*PARTS, **change), tmp_path)


def test_two_searches_share_a_storage(constant: list[str], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'both.db'}"
    look(asked(*PARTS, storage=url), tmp_path / "one")
    found, watching = look(asked(*PARTS, trials=10, storage=url), tmp_path / "other")
    assert watching.done_before == 6
    assert found is not None
    assert len(found.trials) == len(constant) == 10


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:////nowhere/at/all.db", "redis://user:secret@host", "what://user:secret@x"]
)
def test_a_storage_that_cannot_be_used(
    shell: Callable[..., Any], constant: list[str], tmp_path: Path, url: str
) -> None:
    told = shell(
        "search", "--defense", "mergelock", "--scenario", TOY, "--storage", url, "--out", str(tmp_path / "out")
    )
    assert told.code == 2
    (sentence,) = told.err.splitlines()
    assert sentence.startswith("Error: The storage ")
    assert "such as sqlite:///study.db" in sentence
    assert "secret" not in sentence
    assert not [path for path in (tmp_path / "out").rglob("cells/*") if path.is_file()], "before anything is computed"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--without", "guage-fit"), "did you mean 'gauge-fit'"),
        (("--attack", "key-holder"), "only recovery attacks"),
        (("--attack", "graft", "--without", "graft"), "No attack is left"),
        (("--defense", "mergelok"), "did you mean 'mergelock'"),
        (("--threat", "weights"), "weights-only"),
        (("-o", "x.pdf"), ".html, .json"),
    ],
)
def test_bad_input_gets_one_sentence(
    shell: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    said = shell("search", "--defense", "mergelock", "--scenario", TOY, "--out", str(tmp_path), *words)
    assert said.code == 2
    assert said.err.startswith("Error: ")
    assert told in said.err
    assert len(said.err.splitlines()) == 1


def test_interrupted_it_says_how_to_go_on(
    shell: Callable[..., Any], constant: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Any, pipeline: str) -> Measured:
        raise KeyboardInterrupt

    monkeypatch.setattr(Objective, "measure", interrupted)
    told = shell("search", "--defense", "mergelock", "--scenario", TOY, "--out", str(tmp_path))
    assert told.code == 130
    assert told.err.splitlines()[-1] == "Interrupted; the same command again goes on where it stopped."


def test_as_json_it_prints_what_it_wrote(shell: Callable[..., Any], constant: list[str], tmp_path: Path) -> None:
    words = ("--defense", "mergelock", "--scenario", TOY, "--trials", "3", "--out", str(tmp_path))
    told = shell("search", *words, "--json", "-q")
    assert told.code == 2, "nothing was scored here"
    assert told.err == ""
    assert len(json.loads(told.out)["trials"]) == 3
    assert told.out == (tmp_path / "search.json").read_text()


def test_a_merger_that_needs_what_is_withheld(shell: Callable[..., Any], tmp_path: Path) -> None:
    words = ("--defense", "mergelock", "--scenario", TOY, "--threat", "no-base", "--workers", "0")
    told = shell("search", *words, "--out", str(tmp_path))
    assert told.code == 2
    assert "--merger linear" in told.err


def test_without_a_defense_the_usage_is_shown(shell: Callable[..., Any]) -> None:
    assert shell("search").code == 2


def test_the_scoring_data_are_never_read_while_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sealed scenario raises if they are, and every trial would have failed."""
    monkeypatch.setattr(running, "evaluate", lambda *_, **__: None)
    monkeypatch.setattr(running, "_scored", lambda *_: running.Scored(reason="not run"))
    found, _ = look(asked("qk-part", "not-for-this", "fails", scenario=f"{PLUGINS}@sealed", trials=6), tmp_path)
    assert found is not None
    by_pipeline = {trial.pipeline.rpartition("@")[2]: trial for trial in found.trials}
    assert by_pipeline["qk-part"].status == "ok"
    assert by_pipeline["not-for-this"].status == "skipped"
    assert by_pipeline["fails"].status == "error"
    assert "add up" in by_pipeline["fails"].reason


def test_the_sealed_scenario_cannot_be_scored(tmp_path: Path) -> None:
    """So that the test above can fail."""
    with pytest.raises(PluginFault, match="scoring data were read"):
        running.evaluate(asked(scenario=f"{PLUGINS}@sealed").plan(), out=tmp_path, workers=0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, shell: Callable[..., Any]) -> tuple[Path, Any]:
    """A whole search on the toys: two attacks that are strong only together."""
    out = tmp_path_factory.mktemp("search")
    attacks = [word for name in PARTS for word in ("--attack", f"{PLUGINS}@{name}")]
    words = ("--defense", "mergelock", "--scenario", TOY, *attacks, "--trials", "12", "--steps", "2", "--workers", "0")
    return out, shell("search", *words, "--out", str(out), "-o", str(out / "more" / "x.json"))


def test_it_finds_the_pipeline_and_scores_it(done: tuple[Path, Any]) -> None:
    out, told = done
    assert told.code == 0, told.out + told.err
    found = SearchResults.model_validate_json((out / "search.json").read_text())
    assert found.best is not None
    assert {"qk-part", "vo-part"} <= {
        link.rpartition("@")[2].partition(":")[0] for link in found.best.pipeline.split("+")
    }
    assert found.best.theft is not None
    alone = [trial.theft or 0.0 for trial in found.trials if "+" not in trial.pipeline]
    assert found.best.theft > max(alone), "one of the two is not enough, and they were found to be together"
    assert found.naive < 0.5
    assert found.scored is not None
    assert found.scored.theft is not None
    assert json.loads((out / "more" / "x.json").read_text()) == json.loads((out / "search.json").read_text())
    assert "optimism of tuning" in told.out
    assert "[12/12]" in told.err
    assert "(best theft" in told.err
    assert found.repeat in told.out


def test_the_plan_repeats_the_winner_on_the_scoring_data(done: tuple[Path, Any]) -> None:
    out, _ = done
    found = SearchResults.model_validate_json((out / "search.json").read_text())
    plan = Plan.read(out / "winner.toml")
    assert plan.defenses == ("mergelock",)
    assert plan.attacks == ()
    assert f"--attack {found.best.pipeline}" in found.repeat.replace("'", "")  # type: ignore[union-attr]
    again = running.evaluate(
        plan.changed({"scenarios": [TOY], "attacks": [found.best.pipeline]}),  # type: ignore[union-attr]
        out=out / "winner",
        workers=0,
    )
    (cell,) = (c for c in again.cells if "qk-part" in c.attack)
    assert cell.scores["theft"] == pytest.approx(found.scored.theft.mean)  # type: ignore[union-attr]


def test_plugins_by_name_are_in_the_plan() -> None:
    text, flags = running.plan_text(Asked("mergelock").plan(("hungarian:sites=[mlp]+graft:drift=0.4",)))
    assert flags == []
    assert 'attacks = ["hungarian:sites=[mlp]+graft:drift=0.4"]' in text


def test_it_is_computed_on_a_key_of_its_own(done: tuple[Path, Any]) -> None:
    out, _ = done
    keys = {where: {path.stem for path in (out / where / "cells").glob("*.json")} for where in ("tuning", "winner")}
    assert keys["tuning"]
    assert keys["winner"]
    assert not keys["tuning"] & keys["winner"]


@pytest.mark.slow
def test_killed_as_a_process_it_goes_on(tmp_path: Path) -> None:
    code = (
        "import os, sys\nimport redteam.search.objective as home\nmeasure, count = home.Objective.measure, [0]\n"
        "def once(self, text):\n    count[0] += 1\n    if count[0] == 3: os.kill(os.getpid(), 9)\n"
        "    return measure(self, text)\nhome.Objective.measure = once\n"
        "from redteam.cli.main import main\nmain(sys.argv[1:])\n"
    )
    words = ["search", "--defense", "mergelock", "--scenario", TOY, "--attack", f"{PLUGINS}@qk-part", "--attack"]
    words += [f"{PLUGINS}@vo-part", "--trials", "4", "--steps", "1", "--workers", "0", "--out", str(tmp_path)]
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == -9, ended.stderr
    found, watching = look(asked(*PARTS, trials=4, steps=1), tmp_path)
    assert watching.done_before == 2
    assert found is not None
    assert len(found.trials) == 4


@pytest.mark.slow
def test_a_time_limit_ends_trials_and_not_the_lock_before_them(tmp_path: Path) -> None:
    resolved = Resolved.of(asked(time_limit=0.001).plan(), Path())
    with Pool(1) as pool:
        objective = Objective(resolved, tmp_path, pool=pool)
        assert objective.measure(f"{PLUGINS}@qk-part").status == "timeout"
