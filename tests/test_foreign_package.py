"""A stranger's plugins and ours, each built as a wheel and installed in a clean environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")
PLUGINS = [("attack", "polar"), ("defense", "mirrors"), ("merger", "median"), ("scenario", "lattice")]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both distributions, built without a network: name → wheel."""
    folder = tmp_path_factory.getbasetemp().parent / f"wheels-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            for project in (ROOT, ROOT / "tests" / "plugin_package"):
                _run(UV, "build", "--wheel", "--no-build-isolation", "--offline", "-q", "-o", folder, project, cwd=ROOT)
    return {wheel.name.partition("-")[0]: wheel for wheel in folder.glob("*.whl")}


@pytest.fixture(scope="session")
def clean(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs a program of an environment that holds the two wheels; what they depend on comes from this one."""
    folder = tmp_path_factory.mktemp("clean")
    python = folder / "bin" / "python"
    _run(UV, "venv", "-q", "--offline", "--python", sys.executable, folder)
    _run(UV, "pip", "install", "-q", "--offline", "--no-deps", "--python", python, *wheels.values())
    ours = Path(sysconfig.get_path("purelib"))
    (site,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth is searched, but .pth files there are not read: the editable install stays out.
    (site / "dependencies.pth").write_text(f"{ours}\n")

    def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return _run(folder / "bin" / program, *arguments, cwd=folder, check=False)

    return run


def _run(*command: str | Path, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    unset = ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def test_our_wheel_holds_our_names_and_nothing_else(wheels: dict[str, Path]) -> None:
    names = zipfile.ZipFile(wheels["merge_redteam"]).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"redteam", "redteam_attacks", "redteam_defenses", "redteam_reports", "redteam_scenarios"}
    assert not [name for name in names if "test_" in name or name.endswith(".pyc")]
    for needed in ("redteam/py.typed", "redteam_scenarios/plans/quick.toml"):
        assert needed in names


def test_every_file_of_ours_is_in_it(wheels: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(wheels["merge_redteam"]).namelist())
    for folder in (ROOT, *(ROOT / room for room in ("attacks", "defenses", "reports", "scenarios"))):
        for package in folder.glob("redteam*"):
            missing = [f for f in package.rglob("*.py") if f.relative_to(folder).as_posix() not in names]
            assert missing == []


def test_it_is_the_wheel_that_is_imported_and_lists_the_strangers(clean: Command) -> None:
    where = clean("python", "-c", "import redteam, redteam_attacks as a; print(redteam.__file__, a.__file__)")
    assert where.returncode == 0, where.stderr
    assert str(ROOT) not in where.stdout
    assert where.stdout.count("site-packages") == 2
    done = clean("redteam", "list", "--json")
    assert done.returncode == 0, done.stderr
    found = {(one["kind"], one["name"]): one for one in json.loads(done.stdout)}
    for kind, name in (*PLUGINS, ("plan", "lattice-tiny")):
        assert found[kind, name]["package"] == "lattice-redteam"
        assert found[kind, name]["summary"]
    assert found["attack", "gauge-fit"]["package"] == "merge-redteam"


@pytest.mark.slow
class TestStrangers:
    def test_they_can_be_shown(self, clean: Command) -> None:
        done = clean("redteam", "show", "polar")
        assert done.returncode == 0, done.stderr
        assert "package   lattice-redteam" in done.stdout
        assert "orthogonal at qk, orthogonal at vo" in done.stdout

    @pytest.mark.parametrize(("kind", "name"), PLUGINS[:3])
    def test_they_keep_their_contracts(self, clean: Command, kind: str, name: str) -> None:
        done = clean("redteam", "check", name, "--time-limit", "240")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"\n{kind} {name}" in done.stdout
        assert " 0 failed" in done.stdout

    def test_they_run(self, clean: Command, tmp_path: Path) -> None:
        out = tmp_path / "out"
        done = clean("redteam", "run", "lattice-tiny", "--out", out, "--workers", "2", "--controls", "all")
        assert done.returncode in (0, 2), done.stderr
        results = json.loads((out / "results.json").read_text())
        cells = {(c["attack"], c["defense"], c["merger"]): c for c in results["cells"]}
        assert cells["polar", "mirrors", "median"]["status"] == "ok"
        polar, none = (cells[attack, "mirrors", "task-arithmetic"]["scores"]["theft"] for attack in ("polar", "none"))
        assert polar > 0.9
        assert none < 0.5
        planted = [c for c in results["controls"] if (c["control"], c["attack"]) == ("planted", "polar")]
        assert {control["site"] for control in planted} == {"qk", "vo", "all claims at once"}
        assert all(control["passed"] for control in planted), planted
