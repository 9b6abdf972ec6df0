"""Progress: bars that fit a terminal, plain lines elsewhere, and sentences that are printed once."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from redteam.cli.progress import Progress
from redteam.evaluation.plan import Plan
from redteam.evaluation.results import Verdict
from redteam.evaluation.statistics import Interval
from redteam.events import current

PLAN = Plan.of({"name": "small", "scenarios": ["toy"], "defenses": ["lock"], "mergers": ["linear"]})
BROKEN = Verdict(
    scenario="toy",
    defense="lock",
    threat="weights-only",
    verdict="BROKEN",
    reason="fit steals 0.99",
    flags=(),
    attack="fit",
    merger="linear",
    theft=Interval(0.99, 0.98, 1.0, 1, "test items"),
)


def run(progress: Progress) -> None:
    """A run of four steps, two of which fail alike, that turns out to need two more."""
    progress.started(PLAN, Path("runs/small"))
    progress.preparing("toy", 0)
    progress.planned(4, 4, 1, "")
    progress.settled("fit on lock", "ok", "", 2, 4)
    progress.settled("slow on lock", "timeout", "it took longer than 300 s", 3, 4)
    progress.settled("slow on none", "timeout", "it took longer than 300 s", 4, 4)
    progress.planned(2, 6, 1, "controls of lock: no attack broke it")
    progress.settled("an attack with a very long name " * 5 + "on lock", "ok", "", 5, 6)
    progress.decided(BROKEN)
    progress.settled("plant of fit", "skipped", "not for this architecture", 6, 6)
    progress.finished(None)


@pytest.fixture
def plain(capsys: pytest.CaptureFixture[str]) -> list[str]:
    with Progress() as progress:
        run(progress)
    captured = capsys.readouterr()
    assert captured.out == "", "what is printed there is the answer"
    return captured.err.splitlines()


def test_elsewhere_every_step_is_a_line(plain: list[str]) -> None:
    assert plain[:4] == [
        "Plan small: results go to runs/small",
        "Scenario toy, seed 0",
        "4 computations, 1 of them cached",
        "[2/4] fit on lock",
    ]
    assert [line.split()[0] for line in plain if line.startswith("[")] == ["[2/4]", "[3/4]", "[4/4]", "[5/6]", "[6/6]"]


def test_the_total_grows_with_a_reason(plain: list[str]) -> None:
    assert "2 further computations (controls of lock: no attack broke it), 6 in all" in plain


def test_a_reason_is_printed_once(plain: list[str]) -> None:
    assert [line for line in plain if "slow on" in line] == [
        "[3/4] slow on lock: timeout, it took longer than 300 s",
        "[4/4] slow on none: timeout, as above",
    ]


def test_a_verdict_is_printed_as_soon_as_it_is_known(plain: list[str]) -> None:
    place = next(k for k, line in enumerate(plain) if line.startswith("lock does not protect: "))
    assert place < next(k for k, line in enumerate(plain) if line.startswith("[6/6]"))
    assert "0.99 of what the victim adds comes back" in plain[place]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_terminal_gets_bars_that_fit(width: int) -> None:
    shown = io.StringIO()
    with Progress(Console(file=shown, force_terminal=True, width=width, color_system=None)) as progress:
        run(progress)
        assert current() is progress
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    lines = [part.rstrip() for line in text.splitlines() for part in line.split("\r")]
    assert any("━" in line and "/6" in line for line in lines), "there was a bar"
    assert max(map(len, lines)) <= width
    whole = " ".join(" ".join(lines).split())
    assert whole.count("it took longer than 300 s") == 1
    assert "2 further computations (controls of lock: no attack broke it), 6 in all" in whole
    assert "lock does not protect" in whole
    assert "not for this architecture" not in whole, "an attack that is not meant for it is no news"


def test_steady_work_is_a_handful_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        for _ in range(2):  # one checkpoint after another
            for done in range(1, 201):
                progress.advanced(done, 200, f"tensor {done}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"[{done}/200] tensor {done}" for done in range(20, 201, 20)] * 2


def test_steady_work_has_a_bar_of_its_own_that_goes_when_it_is_done() -> None:
    shown = io.StringIO()
    with Progress(Console(file=shown, force_terminal=True, width=60, color_system=None)) as progress:
        assert progress._bars is not None
        progress.planned(3, 3, 0, "")
        progress.advanced(0, 2, "training")
        assert set(progress._bars._tasks) == {"steps", "work"}
        progress.advanced(2, 2, "training")
        assert set(progress._bars._tasks) == {"steps"}
    assert "training" in shown.getvalue()
    assert not progress._bars._tasks, "and everything goes with the block"


def test_trials_of_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.tried("fit", "error, it does not add up", "", 1, 2)
        progress.tried("fit+graft", "theft 0.93 in 0.2 s", "theft 0.93 in 0.2 s, fit+graft", 2, 2)
        progress.scoring("fit+graft")
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] fit: error, it does not add up (nothing so far)",
        "[2/2] fit+graft: theft 0.93 in 0.2 s (best theft 0.93 in 0.2 s, fit+graft)",
        "Scoring fit+graft on the scoring data, with the controls that belong to it",
    ]
