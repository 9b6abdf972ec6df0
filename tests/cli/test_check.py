from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from redteam.cli import main as cli
from redteam.plugins.reference import Reference

FILE = Path(__file__).parent.parent / "testing" / "faulty" / "defenses.py"
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def redteam(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return invoke


def test_one_line_a_check_and_a_summary(redteam: Invoke) -> None:
    code, out, err = redteam("check", "rotation:sites=[vo]")
    assert (code, err) == (0, "")
    word, first, *lines, last = out.splitlines()
    assert word == "Loading rotation:sites=[vo] and what it is tried on."
    assert first == "defense rotation:sites=[vo]"
    assert all(re.match(r"  (passed|n/a)  +[a-z0-9]", line) for line in lines)
    counts = f"{len(lines)} passed, 0 failed, 0 not applicable, 0 not done"
    assert re.fullmatch(rf"{counts}; \d+\.\d s of CPU time, \d+\.\d s in all", last)


def test_one_that_fails_is_one(redteam: Invoke) -> None:
    code, out, err = redteam("check", str(Reference(f"{FILE}@ignores-key")))
    assert (code, err) == (1, "")
    (failed,) = [line for line in out.splitlines() if line.startswith("  FAILED")]
    assert "re-keyable" in failed
    assert "two keys gave the same weights" in failed
    assert "1 failed" in out


def test_as_json_every_check_has_its_outcome(redteam: Invoke) -> None:
    code, out, err = redteam("check", str(Reference(f"{FILE}@ignores-key")), "--json")
    assert (code, err) == (1, "")
    found = json.loads(out)
    (tried,) = found["plugins"]
    assert tried["kind"] == "defense"
    assert [one["check"] for one in tried["checks"] if one["status"] == "failed"] == ["re-keyable"]
    assert found["remarks"] == []


def test_every_plugin_of_the_name(redteam: Invoke) -> None:
    _, out, _ = redteam("check", "none")
    assert [line for line in out.splitlines() if line[0].isalpha()][1:] == ["attack none", "defense none"]


def test_what_cannot_be_loaded_is_two(redteam: Invoke) -> None:
    for name, sentence in (
        ("hungarain", "did you mean 'hungarian'?"),
        (f"{FILE}@nobody", "There is no attack, defense, merger or scenario in"),
        ("nowhere.py@x", "Cannot read the plugin file 'nowhere.py'"),
    ):
        code, out, err = redteam("check", name)
        assert (code, out) == (2, f"Loading {name} and what it is tried on.\n" if "nobody" in name else "")
        assert sentence in err
        assert err.count("\n") == 1


SLOW = """
import time
from redteam import attack


@attack("slow")
def slow(view):
    {body}
"""


def test_what_is_not_done_in_time_has_not_failed(redteam: Invoke, tmp_path: Path) -> None:
    body = "while True:\n        try:\n            sum(range(9999))\n        except Exception:\n            pass"
    (tmp_path / "slow.py").write_text(SLOW.format(body=body))
    code, out, _ = redteam("check", f"{tmp_path}/slow.py@slow", "--time-limit", "1")
    assert code == 2
    assert "FAILED" not in out
    assert re.search(r"  NOT DONE runs +its 1 s of CPU time were up", out)
    (after,) = [line for line in out.splitlines() if line.startswith("  NOT DONE what comes after it: needs, layout")]
    assert after.endswith("elsewhere")
    assert re.search(r"\n0 passed, 0 failed, 0 not applicable, \d\d not done; [12]\.\d s of CPU time", out)
    assert "give it more time with --time-limit" in out


def test_one_that_waits_for_ever_is_ended(redteam: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redteam.testing.clock.WALL", 1)
    (tmp_path / "slow.py").write_text(SLOW.format(body="time.sleep(3600)"))
    code, out, _ = redteam("check", f"{tmp_path}/slow.py@slow", "--time-limit", "1")
    assert (code, "NOT DONE runs" in out) == (2, True)


def test_a_busy_machine_costs_no_check_its_time(redteam: Invoke, tmp_path: Path) -> None:
    """Neither waiting nor importing is the plugin's own work: together they take more than it is allowed."""
    (tmp_path / "heavy.py").write_text(
        "import time\nend = time.process_time() + 2\nwhile time.process_time() < end:\n    pass\n"
    )
    body = "import heavy\n    time.sleep(0.1)\n    return view.protected"
    (tmp_path / "slow.py").write_text(SLOW.format(body=body))
    code, out, _ = redteam("check", f"{tmp_path}/slow.py@slow", "--time-limit", "5")
    assert (code, "0 failed" in out, " 0 not done" in out) == (0, True, True)


def test_a_failure_counts_for_more_than_what_is_not_done(redteam: Invoke, tmp_path: Path) -> None:
    body = "while CALLED:\n        pass\n    CALLED.append(1)\n    return {}\n\n\nCALLED = []"
    (tmp_path / "slow.py").write_text(SLOW.format(body=body))
    code, out, _ = redteam("check", f"{tmp_path}/slow.py@slow", "--time-limit", "1")
    assert code == 1
    assert "  FAILED   layout" in out
    assert "  NOT DONE" in out
