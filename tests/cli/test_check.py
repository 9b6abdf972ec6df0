from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from redteam.cli import main as cli
from redteam.plugins.reference import Reference

FILE = Path(__file__).parent.parent / "testing" / "crippled.py"
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
    first, *lines, last = out.splitlines()
    assert first == "defense rotation:sites=[vo]"
    assert all(re.match(r"  (passed|n/a)  +[a-z0-9]", line) for line in lines)
    assert re.fullmatch(rf"{len(lines)} passed, 0 failed, 0 not applicable; \d+\.\d s", last)


def test_one_that_fails_is_one(redteam: Invoke) -> None:
    code, out, err = redteam("check", str(Reference(f"{FILE}@ignores-key")))
    assert (code, err) == (1, "")
    (failed,) = [line for line in out.splitlines() if line.startswith("  FAILED")]
    assert "re-keyable" in failed
    assert "two keys gave the same weights" in failed
    assert "1 failed" in out


def test_every_plugin_of_the_name(redteam: Invoke) -> None:
    _, out, _ = redteam("check", "none")
    assert [line for line in out.splitlines() if line[0].isalpha()] == ["attack none", "defense none"]


def test_what_cannot_be_loaded_is_two(redteam: Invoke) -> None:
    for name, sentence in (
        ("hungarain", "did you mean 'hungarian'?"),
        (f"{FILE}@nobody", "There is no attack, defense or merger in"),
        ("nowhere.py@x", "Cannot read the plugin file 'nowhere.py'"),
    ):
        code, out, err = redteam("check", name)
        assert (code, out) == (2, "")
        assert sentence in err
        assert err.count("\n") == 1


def test_one_that_hangs_has_failed_in_time(redteam: Invoke, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nfrom redteam import attack\n\n\n@attack('slow')\ndef slow(view):\n"
        "    while True:\n        try:\n            time.sleep(9)\n        except Exception:\n            pass\n"
    )
    code, out, _ = redteam("check", f"{tmp_path}/slow.py@slow", "--time-limit", "1")
    assert code == 1
    assert "  FAILED  runs" in out
    assert "not done within the time limit" in out
    assert "0 passed" in out
