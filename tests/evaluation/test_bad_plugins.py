"""Plugins that claim too much prove nothing; plugins that misbehave cost their own cells and nothing else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from redteam.errors import BadInput

CRIPPLED = ("idle", "give-up", "wrong-sign", "one-head-left", "bias-forgotten", "even-layers")
BAD = {
    "raises": ("error", "ValueError: the sum does not add up (plugins.py, line "),
    "not-a-number": ("error", "values not finite; expected none."),
    "misshapen": ("error", "with shape ["),
    "nothing": ("error", "returned None; expected a Checkpoint."),
    "greedy": ("error", "which threat model 'weights-only' does not grant"),
    "hangs": ("timeout", "ended after 6 s"),
    "dies": ("error", "its process died 3 times (exit code -9)"),
    "leaves": ("error", "SystemExit: done (plugins.py, line "),
}


class TestClaims:
    @pytest.fixture(scope="class")
    @classmethod
    def claims(cls, once: Callable[..., Any], toys: Any) -> Any:
        names = ("scribbles", "sound", *CRIPPLED)
        return once("claims", toys.plan(("none",), tuple(toys.named(name) for name in names), controls="all"))

    def test_the_sound_one_passes(self, claims: Any) -> None:
        planted = claims.controls("planted", "sound")
        assert {c.site for c in planted} == {"qk", "all claims at once"}
        assert all(c.passed for c in planted), [c.explanation for c in planted]

    @pytest.mark.parametrize("attack", CRIPPLED)
    def test_crippled_ones_do_not(self, claims: Any, attack: str) -> None:
        planted = claims.controls("planted", attack)
        assert {c.site for c in planted} == {"qk", "all claims at once"}
        assert {c.status for c in planted} == {"ok"}
        assert not any(c.passed for c in planted), [c.explanation for c in planted]

    def test_writing_into_what_was_given_spoils_nobody_elses(self, claims: Any, honest: Any) -> None:
        assert claims.results.grounds == honest.results.grounds
        for attack in ("none", "graft", "base"):
            assert claims.cell("none", attack).scores == honest.cell("none", attack).scores

    @pytest.fixture(scope="class")
    @classmethod
    def hollow(cls, once: Callable[..., Any], toys: Any) -> Any:
        """Nothing but an attack that does nothing, one that throws the victim away, and the graft that always runs."""
        return once("hollow", toys.plan(("mergelock",), (toys.named("idle"), toys.named("give-up"))))

    def test_whoever_fails_the_plant_is_no_evidence(self, hollow: Any) -> None:
        verdict = hollow.verdict("mergelock")
        assert verdict.verdict == "INVALID"
        assert "no attack undid the locks that it claims to undo" in verdict.reason
        assert hollow.results.exit_code == 2

    def test_although_they_claim_to_target_it(self, hollow: Any) -> None:
        assert {c.attack for c in hollow.results.controls if c.control == "weakened"} == {"idle", "give-up"}
        assert all(hollow.theft("mergelock", attack) < 0.1 for attack in ("idle", "give-up"))

    def test_closeness_without_the_function_is_not_enough(self, hollow: Any) -> None:
        # Nothing is closer to the base than the base; what is weighed instead is how much skill came over.
        planted = hollow.controls("planted", "give-up")
        assert planted
        assert all("steals 0.00 from the planted lock" in c.explanation for c in planted)
        assert not any(c.passed or c.partial for c in planted)

    def test_the_verdict_follows_from_what_is_written(self, hollow: Any) -> None:
        hollow.decide_anew()


class TestMisbehaviour:
    @pytest.fixture(scope="class")
    @classmethod
    def wreck(cls, together: Path, toys: Any, environment: dict[str, str]) -> tuple[Any, int, str, str]:
        """All of them in one real run: what it found, its exit code and what it printed."""
        folder, told = together / "wreck", together / "wreck-told"
        attacks = tuple(toys.named(name) for name in BAD)
        defenses = ("none", toys.named("refuses"))
        mergers = ("task-arithmetic", toys.named("diverges"))
        plan = toys.plan(defenses, attacks, mergers=mergers, time_limit=6)
        with FileLock(together / "wreck.lock"):
            if not told.exists():
                file = toys.write(plan, together / "wreck.toml")
                command = [toys.redteam, "run", file, "--out", folder, "--workers", "2"]
                done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
                told.write_text(f"{done.returncode}\0{done.stdout}\0{done.stderr}")
        code, out, err = told.read_text().split("\0")
        return toys.read(folder), int(code), out, err

    @pytest.mark.parametrize("attack", BAD)
    def test_each_is_a_cell_with_its_reason(self, wreck: Any, attack: str) -> None:
        finished, _, out, err = wreck
        cells = [c for c in finished.results.cells if (c.defense, c.attack) == ("none", attack)]
        cell = next(c for c in cells if c.merger == "task-arithmetic")
        status, reason = BAD[attack]
        assert cell.status == status
        assert reason in cell.reason
        assert "\n" not in cell.reason
        assert cell.scores == {}
        assert cell.reason in " ".join(out.split())
        assert cell.reason in err

    def test_all_others_finish(self, wreck: Any) -> None:
        finished, *_ = wreck
        for attack in ("none", "graft", "base"):
            cell = next(
                c
                for c in finished.results.cells
                if (c.defense, c.attack, c.merger) == ("none", attack, "task-arithmetic")
            )
            assert cell.status == "ok"
            assert "theft" in cell.scores

    def test_a_defense_that_raises_is_skipped_over_with_the_reason(self, wreck: Any) -> None:
        finished, *_ = wreck
        cells = [c for c in finished.results.cells if c.defense == "refuses"]
        assert {c.attack for c in cells} >= {*BAD, "none", "graft", "base"}
        assert {c.merger for c in cells} == {"task-arithmetic", "diverges"}
        # What its answers would give away is known from the unlocked victim: it claims to keep the function.
        assert {c.status for c in cells if c.role != "interface"} == {"skipped"}
        cells = [c for c in cells if c.role != "interface"]
        assert all("RuntimeError: no lock fits" in c.reason for c in cells if c.merger == "task-arithmetic")
        assert finished.verdict("refuses").verdict == "INVALID"

    def test_so_is_a_merger_that_diverges(self, wreck: Any) -> None:
        finished, *_ = wreck
        cells = [c for c in finished.results.cells if (c.defense, c.attack, c.merger) == ("none", "graft", "diverges")]
        assert [c.status for c in cells] == ["skipped"]
        assert "The merger" in cells[0].reason
        assert "not finite" in cells[0].reason

    def test_nothing_that_failed_is_evidence(self, wreck: Any) -> None:
        finished, *_ = wreck
        assert all(v.verdict != "HOLDS-SO-FAR" for v in finished.results.verdicts)
        assert finished.verdict("none").verdict == "INEFFECTIVE"

    def test_two_and_no_traceback(self, wreck: Any) -> None:
        _, code, out, err = wreck
        assert code == 2
        assert "Traceback" not in err + out

    def test_failures_are_tried_again_and_successes_are_not(self, wreck: Any) -> None:
        finished, *_ = wreck
        kept = [file.read_text() for file in (finished.folder / "cells").iterdir()]
        assert kept
        assert all(json.loads(text)["result"] for text in kept)
        assert not any('"label": "attack raises' in text for text in kept)


def test_a_scenario_that_fails_ends_the_run_with_one_sentence(toys: Any, tmp_path: Path) -> None:
    file = tmp_path / "worlds.py"
    head = "from redteam.plugins.contracts import scenario\n\n\n@scenario('broken')\ndef broken(*, seed: int = 0):\n"
    for body, reason in (("return {}['data']", r"KeyError: 'data'"), ("return 3", "returned a int")):
        file.write_text(f"{head}    {body}\n")
        plan = {**toys.plan(("none",), ()), "scenarios": (toys.named("broken", file),)}
        with pytest.raises(Exception, match=reason) as failed:
            toys.run(plan, tmp_path / "out")
        assert type(failed.value).__name__ == "PluginFault"
    assert not list((tmp_path / "out" / "cells").iterdir())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"attacks": ("gauge-fitt",)}, "did you mean 'gauge-fit'"),
        ({"defenses": ("mergelok",)}, "did you mean 'mergelock'"),
        ({"mergers": ("task-arithmetics",)}, "did you mean 'task-arithmetic'"),
        ({"threats": ("weight-only",)}, "did you mean 'weights-only'"),
        ({"attacks": ("graft:drift=3",)}, r"drift of graft must lie in \[0, 2\], got 3"),
        ({"attacks": ("graft:drfit=1",)}, "did you mean 'drift'"),
        ({"defenses": ("mergelock:scale=[1]",)}, "scale of mergelock must be"),
        ({"attacks": ("graft:",)}, "settings are missing after the colon"),
        ({"attacks": ("nowhere.py@x",)}, "Cannot read the plugin file 'nowhere.py'"),
        ({"scenarios": ("digits:seed=3",)}, "list seeds in the plan's 'seeds'"),
        ({"mergers": ("task-arithmetic+task-arithmetic",)}, "a merger stands alone"),
        ({"keys": 0}, "keys"),
        ({"seeds": -1}, "seeds"),
        ({"seeds": 0}, "seeds"),
        ({"defenses": ()}, "defenses"),
        ({"time_limit": 0}, "time_limit"),
        ({"atacks": ()}, "means nothing"),
    ],
)
def test_a_bad_plan_is_one_sentence_before_anything_runs(
    toys: Any, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence) as refused:
        toys.run({**toys.small(), **change}, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
