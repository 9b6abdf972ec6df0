"""`redteam search --defend`: goes on where it stopped, keeps what is there, and never calls unproven what holds."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redteam.errors import BadInput
from redteam.evaluation.design import build
from redteam.evaluation.load_scenarios import load_scenarios
from redteam.evaluation.plan import Plan
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.runner.scheduler import Scheduler, behind
from redteam.evaluation.runner.store import Store
from redteam.evaluation.statistics import Interval
from redteam.events import Observer
from redteam.search.defenders.price import OwnersPrice
from redteam.search.defenders.results import Defenses
from redteam.search.defenders.run import AskedDefenses, search
from redteam.search.defenders.trial import Trials, Tried
from redteam.search.objective import TuningLayout

TESTS = Path(__file__).parent.parent
ROOMY = f"{TESTS / 'search' / 'plugins.py'}@roomy"
TOY = f"{TESTS / 'evaluation' / 'toy.py'}@toy"

pytestmark = pytest.mark.usefixtures("lasting_no_power_cut")


class Watching(Observer):
    """Remembers what it was told, and may interrupt."""

    def __init__(self, after: int = 10**6) -> None:
        self.after, self.tries, self.done_before = after, list[str](), -1

    def defending(self, space: Any, line: float | None, done: int, total: int) -> None:
        self.done_before = done

    def tried(self, pipeline: str, outcome: str, best: str, done: int, total: int) -> None:
        self.tries.append(f"{pipeline}: {outcome}")
        if len(self.tries) >= self.after:
            raise KeyboardInterrupt


def asked(*defenses: str, trials: int = 8, **rest: Any) -> AskedDefenses:
    return AskedDefenses(**{"defenses": defenses, "scenario": TOY, "trials": trials, **rest})


def figures(theft: float, fidelity: float, price: float) -> Tried:
    return Tried(
        "ok",
        verdict="INCONCLUSIVE",
        theft=Interval(theft, theft - 0.1, theft, 1, "test items"),
        fidelity=Interval(fidelity, fidelity, fidelity, 1, "test items"),
        price=OwnersPrice(seconds=price),
    )


@pytest.fixture
def constant(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials whose figures depend on the defense alone; what is computed is listed."""
    computed = list[str]()

    def measure(self: Any, defense: str) -> Tried:
        computed.append(defense)
        if "trap2" in defense:
            return Tried("error", "lock trap2: it diverged")
        if "scaling" in defense:
            return Tried("unproven", "INVALID: no attack undid its plants", fidelity=figures(0, 1, 0).fidelity)
        strong = len(defense) % 7 / 6
        return figures(1.0 - strong, 1.0 - strong / 2, strong)

    def bare(self: Any, *_: Any, **__: Any) -> None:
        self.naive, self.identity = figures(1.0, 1.0, 0.0), "0" * 64
        self.imitation = Interval(0.54, 0.5, 0.6, 1, "test items")
        self.store = type("Store", (), {"clear_work": lambda self: None})()

    monkeypatch.setattr(Trials, "measure", measure)
    monkeypatch.setattr(Trials, "__init__", bare)
    return computed


def look(what: AskedDefenses, out: Path, after: int = 10**6) -> tuple[Defenses | None, Watching, list[Defenses]]:
    watching, kept = Watching(after), list[Defenses]()
    try:
        return search(what, out, observer=watching, keep=kept.append, workers=0), watching, kept
    except KeyboardInterrupt:
        return None, watching, kept


def test_stopped_it_keeps_what_is_there_and_goes_on(constant: list[str], tmp_path: Path) -> None:
    whole, _, _ = look(asked("mergelock", "rotation"), tmp_path / "whole")
    straight = list(constant)
    constant.clear()
    nothing, _, kept = look(asked("mergelock", "rotation"), tmp_path / "parts", after=5)
    assert nothing is None
    assert len(kept[0].trials) == 5
    assert Defenses.model_validate_json((tmp_path / "parts" / "search.json").read_text()) == kept[0]
    found, second, _ = look(asked("mergelock", "rotation"), tmp_path / "parts")
    assert second.done_before == 5
    assert constant == straight, "the same chains, none of them twice"
    assert whole is not None
    assert found is not None
    assert [t.pipeline for t in found.trials] == [t.pipeline for t in whole.trials]
    assert found.trials[0].seconds >= 0


def test_the_plan_repeats_the_front_on_seeds_that_were_not_searched_on(constant: list[str], tmp_path: Path) -> None:
    found, _, _ = look(asked("mergelock", "gaussian-noise", seed=1, seeds=3), tmp_path)
    assert found is not None
    assert found.front
    plan = Plan.of(tomllib.loads((tmp_path / "frontier.toml").read_text()))
    assert plan.defenses == ("none", *(trial.pipeline for trial in found.on_front))
    assert plan.attacks == ("gauntlet-1",)
    assert plan.seeds == (0, 2, 3)
    assert plan.scenarios == ("digits",), "the toy lies in a file, which the command names"
    assert f"--scenario {TOY}" in found.repeat
    assert str(tmp_path / "frontier.toml") in found.repeat


def test_what_taught_nothing_is_neither_on_the_front_nor_a_figure(constant: list[str], tmp_path: Path) -> None:
    found, watching, _ = look(asked("scaling", "trap2", trials=8), tmp_path)
    assert found is not None
    assert {trial.status for trial in found.trials} == {"unproven", "error"}
    assert all(trial.values is None for trial in found.trials)
    assert found.front == ()
    assert found.repeat == ""
    assert "nothing is known" in found.sentences[0]
    assert not (tmp_path / "frontier.toml").exists()
    assert any("nothing learnt, INVALID" in line for line in watching.tries)


def test_no_trial_is_begun_when_time_is_up(constant: list[str], tmp_path: Path) -> None:
    found, _, _ = look(asked("mergelock", seconds=0.0), tmp_path)
    assert constant == []
    assert found is not None
    assert found.best is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 1}, "space"),
        ({"attacks": ("graft",)}, "set of attacks"),
        ({"seed": 1}, "scenario"),
        ({"threat": "leaked-key"}, "threat"),
        ({"merger": "linear"}, "merger"),
    ],
)
def test_a_study_of_something_else_is_refused(
    constant: list[str], tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    look(asked("mergelock", trials=2), tmp_path)
    with pytest.raises(BadInput, match=f"about another {told} "):
        look(asked("mergelock", trials=2, **change), tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "none was named; name it with --defense, or look for one that holds with --defend"),
        (("--defense", "mergelock", "--defense", "rotation"), "2 was named"),
        (("--defense", "mergelock", "--fidelity", "0.9"), "add --defend"),
        (("--defend", "--defense", "mergelok"), "did you mean 'mergelock'"),
        (("--defend", "--without", "mergelok"), "did you mean 'mergelock'"),
        (("--defend", "--defense", "none"), "for comparison alone"),
        (("--defend", "--threat", "outputs-only"), "nobody sees weights"),
        (("--defend", "--threat", "no-base"), "another with --merger"),
        (("--defend", "-o", "x.pdf"), ".html, .json, .md"),
    ],
)
def test_bad_input_gets_one_sentence(
    shell: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    said = shell("search", "--scenario", TOY, "--workers", "0", "--out", str(tmp_path), *words)
    assert said.code == 2
    errors = [line for line in said.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert told in errors[0]


def test_interrupted_it_writes_the_page_and_says_how_to_go_on(
    shell: Callable[..., Any], constant: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Trials.measure

    def third(self: Any, defense: str) -> Tried:
        if len(constant) == 2:
            raise KeyboardInterrupt
        return measure(self, defense)

    monkeypatch.setattr(Trials, "measure", third)
    told = shell("search", "--defend", "--scenario", TOY, "--trials", "4", "--workers", "0", "--out", str(tmp_path))
    assert told.code == 130
    assert told.err.splitlines()[-1] == "Interrupted; the same command again goes on where it stopped."
    assert "2 trials" in (tmp_path / "search.html").read_text()
    assert "under imitation's 0.54" in (tmp_path / "search.md").read_text()
    assert "under imitation's 0.54" in told.out
    assert "[2/4]" in told.err


def test_where_nothing_can_be_judged_it_leaves_with_2(
    shell: Callable[..., Any], constant: list[str], tmp_path: Path
) -> None:
    words = ("--defense", "trap2", "--trials", "2", "--scenario", TOY, "--workers", "0", "--out", str(tmp_path))
    told = shell("search", "--defend", *words)
    assert told.code == 2
    assert "nothing is known" in told.out


@pytest.mark.slow
def test_a_whole_search_on_the_toy(shell: Callable[..., Any], tmp_path: Path) -> None:
    """A lock that falls is told from noise that leaves nothing to protect, and the key's holder has the right key."""
    attacks = ("--attack", "graft", "--attack", "gauge-fit", "--attack", "norm-restore")
    chosen = ("--defense", "mergelock", "--defense", "gaussian-noise:unit=weights,share=1.0,sites=[qk,vo,mlp]")
    words = ("--scenario", ROOMY, *attacks, *chosen, "--trials", "4", "--steps", "1", "--workers", "0")
    told = shell("search", "--defend", *words, "--out", str(tmp_path))
    assert told.code == 0, told.out + told.err
    found = Defenses.model_validate_json((tmp_path / "search.json").read_text())
    assert found.imitation is not None
    assert found.naive.verdict == "INEFFECTIVE"
    lock = next(trial for trial in found.trials if trial.pipeline == "mergelock")
    assert (lock.verdict, lock.attack) == ("BROKEN", "gauge-fit")
    assert lock.theft is not None
    assert lock.theft.high > 0.9
    assert not lock.spared, "who was named runs, whatever was stolen"
    assert lock.fidelity is not None
    assert lock.fidelity.mean == pytest.approx(1.0, abs=0.01)
    assert lock.price is not None
    assert 0 < lock.price.total < 0.5
    assert (lock.price.parameters, lock.price.latency, lock.price.steps) == (1.0, 1.0, 0)
    noise = next(trial for trial in found.trials if trial.pipeline.startswith("gaussian-noise"))
    assert noise.status == "unproven"
    assert "nothing left to protect" in noise.reason


@pytest.mark.slow
def test_what_no_attack_is_for_does_not_hold(tmp_path: Path) -> None:
    """Wider heads stop every fit here by their shapes alone, and a fit that restores them ends that."""
    thefts = {}
    for attack in ("gauge-fit", "shape-restore+gauge-fit"):
        what = asked(scenario=ROOMY, attacks=("graft", attack))
        tried = Trials(what.trial, tmp_path, pool=None, workers=0).measure("padded-heads")
        thefts[attack] = (tried.status, tried.reason, tried.theft)
    assert thefts["gauge-fit"] == ("unproven", "no attack that was shown to work applies to it", None)
    status, reason, theft = thefts["shape-restore+gauge-fit"]
    assert (status, reason) == ("ok", "")
    assert theft is not None
    assert theft.high > 0.9


def test_the_keys_holder_has_the_key_that_is_tuned_under(tmp_path: Path) -> None:
    """With another key nothing that holds would count: the ceiling would not be reached."""
    resolved, store = Resolved.of(asked().trial("mergelock"), Path()), Store(tmp_path)
    design = build(resolved, load_scenarios(resolved, store, pool=None), TuningLayout)
    (place,) = design.asked.values()
    (holder,) = (pairing for pairing in place.later if pairing.role == "ceiling")
    scheduler = Scheduler(store, pool=None, time_limit=None, settled=lambda *_: None)
    scheduler.add(behind(design.steps, [holder.steps.recovered]))
    scheduler.run()
    assert scheduler.outcomes[holder.steps.recovered].record.residual < 1e-3
