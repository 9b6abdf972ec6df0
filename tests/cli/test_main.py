from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from redteam.cli import main as cli
from redteam.errors import BadInput

REDTEAM = Path(sys.executable).with_name("redteam")
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def redteam(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Runs the command line in this process: exit code, standard output, standard error."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return invoke


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Adds a subcommand `boom` that raises."""

    def add(error: BaseException) -> None:
        module = ModuleType("boom_command")

        def command() -> None:
            raise error

        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "boom_command", module)
        monkeypatch.setattr(cli, "COMMANDS", {"boom": ("boom_command:command", "Raises.")})

    return add


def test_help_names_every_command_and_imports_none(redteam: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMANDS", {**cli.COMMANDS, "later": ("no_such_module_anywhere:x", "Not there yet.")})
    code, out, _ = redteam("--help")
    assert code == 0
    assert all(name in out for name in cli.COMMANDS)
    assert "Not there yet." in out


def test_version(redteam: Invoke) -> None:
    code, out, _ = redteam("--version")
    assert code == 0
    assert out.startswith("redteam ")


@pytest.mark.parametrize("arguments", [["list", "--jsn"], ["show"], ["list", "a", "b"]])
def test_misuse_is_two(redteam: Invoke, arguments: list[str]) -> None:
    code, out, err = redteam(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: redteam" in err


@pytest.mark.parametrize("error", [BadInput("One thing.\nIn two lines."), ValueError("deep inside"), RuntimeError()])
def test_errors_are_one_sentence(redteam: Invoke, boom: Callable[[BaseException], None], error: Exception) -> None:
    boom(error)
    code, out, err = redteam("boom")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert ("--debug" in err) == (not isinstance(error, BadInput))


@pytest.mark.parametrize("arguments", [["--debug", "boom"], ["boom", "--debug"]])
def test_debug_shows_the_traceback(
    redteam: Invoke, boom: Callable[[BaseException], None], arguments: list[str]
) -> None:
    boom(BadInput("One thing."))
    code, _, err = redteam(*arguments)
    assert code == 2
    assert "Traceback" in err
    assert err.rstrip().endswith("BadInput: One thing.")


def test_an_interrupt_is_130(redteam: Invoke, boom: Callable[[BaseException], None]) -> None:
    boom(KeyboardInterrupt())
    code, _, err = redteam("boom")
    assert code == 130
    assert "Traceback" not in err


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_a_command_chooses_its_exit_code(redteam: Invoke, boom: Callable[[BaseException], None], wanted: int) -> None:
    import typer

    boom(typer.Exit(wanted))
    assert redteam("boom") == (wanted, "", "")


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([REDTEAM, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--json"], ["--version"]])
def test_quick_commands_are_quick(arguments: list[str]) -> None:
    # Processor time, which is wall time on an idle machine and doesn't depend on the other tests.
    resource = pytest.importorskip("resource")

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return float(usage.ru_utime + usage.ru_stime)

    times = []
    for _ in range(3):
        before = spent()
        done = process(*arguments)
        times.append(spent() - before)
        assert done.returncode == 0, done.stderr
    assert min(times) < 0.4


def test_listing_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom redteam.cli.main import main\ntry: main(['list'])\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    modules = set(done.stdout.splitlines()[-1].split())
    assert not modules & {"torch", "numpy", "transformers", "pydantic", "sklearn", "redteam_attacks.graft"}


def test_a_real_process_ends_with_the_code_and_the_sentence() -> None:
    done = process("show", "hungarain")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "Error: There is no plugin, plan, gauntlet or threat model called 'hungarain'; did you mean 'hungarian'?\n"
    )
    assert json.loads(process("list", "merger", "--json").stdout)[0]["kind"] == "merger"


def test_output_that_cannot_be_written_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([REDTEAM, "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: the output of this command cannot be read or written (No space left")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_no_memory_is_a_sentence(redteam: Invoke, boom: Callable[[BaseException], None], error: Exception) -> None:
    boom(error)
    code, _, err = redteam("boom")
    assert (code, err) == (2, "Error: there is not enough memory for this; free some, or run it on a larger machine.\n")


def test_a_name_that_is_too_long_is_a_sentence(redteam: Invoke, tmp_path: Path) -> None:
    out = str(tmp_path / ("x" * 300))
    code, _, err = redteam("merge", "linear", "--base", str(tmp_path), "--expert", str(tmp_path), "--out", out)
    assert code == 2
    assert "(File name too long)" in err
    assert "Internal" not in err
