"""Wheel and sdist, installed beside a torch that is there, without extras, on every Python that this machine has."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from redteam.checkpoint import Checkpoint
from tests.scenarios import own_pictures
from tests.test_packaging import PROJECT, ROOT

UV = Path(sys.executable).with_name("uv")
RUN = "redteam run --defense permutation --attack hungarian --merger task-arithmetic --seeds 1 --keys 1 --out run"
MOST = 1_000_000_000  # bytes that come beside torch; 0.8 GB when this was written
ONLY_BY_EXTRAS = {"alembic", "mlflow-skinny", "sqlalchemy", "timm", "torchvision"}
LACKS = "which is not installed; pip install 'merge-redteam"
WITHOUT = {
    "search --defense mergelock": f"redteam search needs optuna, {LACKS}[optuna]'.",
    "run --mlflow": f"Logging to mlflow needs mlflow, {LACKS}[mlflow]'.",
    "merge mergekit:method=linear --base a --expert a --expert b --out out": f"mergekit 0.1.5 or later, {LACKS}[me",
    "run --scenario pictures/mine.toml --out out": f"A network of open_clip needs open_clip, {LACKS}[open-clip]'",
    "run --scenario docstrings --out out": "or pip install 'merge-redteam[docstrings]', which brings it",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The wheel of this tree, its sdist, and the wheel that comes of what is in the sdist."""
    folder, unpacked, again = (tmp_path_factory.mktemp(name) for name in ("dist", "unpacked", "again"))
    build = (UV, "build", "--no-build-isolation", "--offline", "-q")
    _run(*build, "--wheel", "-o", folder, ROOT)
    _run(*build, "--sdist", "-o", folder, ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    _run(*build, "--wheel", "-o", again, *unpacked.iterdir())
    return next(folder.glob("*.whl")), sdist, next(again.glob("*.whl"))


def test_the_sdist_gives_the_same_wheel(wheels: tuple[Path, Path, Path]) -> None:
    with zipfile.ZipFile(wheels[0]) as one, zipfile.ZipFile(wheels[2]) as other:
        names = one.namelist()
        assert len(names) > 500
        assert sorted(names) == sorted(other.namelist())
        assert [name for name in names if one.read(name) != other.read(name)] == []
    with tarfile.open(wheels[1]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "requirements.lock", "tests/conftest.py"} <= held


class Environment:
    """A fresh environment that has torch, and then the wheel; models and pictures lie where commands stand."""

    def __init__(self, folder: Path, python: str, wheel: Path) -> None:
        self.folder = folder
        _run(UV, "venv", "-q", "--python", python, folder / "env")
        self.bin = next(path.parent for path in (folder / "env").rglob("activate"))
        self._install("torch")
        self.before = self.held()
        self.size = self._size()
        self._install(wheel)
        self.size = self._size() - self.size
        own_pictures.make(folder / "pictures", count=100)
        for name in ("a", "b"):
            Checkpoint.of({"w": torch.eye(4)}, {}).save(folder / name)

    def held(self) -> dict[str, str]:
        """Package → version."""
        told = _run(UV, "pip", "list", "-q", "--python", self.bin / "python", "--format", "json").stdout
        return {one["name"]: one["version"] for one in json.loads(told)}

    def __call__(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        return _run(self.bin / program, *words, cwd=self.folder, check=False)

    def _install(self, what: str | Path) -> None:
        _run(UV, "pip", "install", "-q", "--python", self.bin / "python", "-c", ROOT / "requirements.lock", what)

    def _size(self) -> int:
        return sum(file.lstat().st_size for file in (self.folder / "env").rglob("*") if file.suffix != ".pyc")


@pytest.fixture(scope="module", params=["3.11", "3.12", "3.13"])
def fresh(
    request: pytest.FixtureRequest, wheels: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    python = _interpreter(request.param)
    if python is None:
        pytest.skip(f"there is no Python {request.param} on this machine")
    folder = tmp_path_factory.mktemp("fresh")
    yield Environment(folder, python, wheels[0])
    shutil.rmtree(folder)


def test_nothing_comes_along_that_only_an_extra_needs(fresh: Environment) -> None:
    extras = [text for texts in PROJECT["project"]["optional-dependencies"].values() for text in texts]
    brought = {re.split(r"[^\w.-]", text)[0] for text in extras}
    held = fresh.held()
    assert {"merge-redteam", "transformers"} <= set(held) - set(fresh.before)
    assert not (brought | ONLY_BY_EXTRAS) & set(held)
    assert fresh.before.items() <= held.items(), "torch and what it needs stay as they were"
    assert fresh.size < MOST


def test_it_lists_and_runs_digits(fresh: Environment) -> None:
    listed = fresh("redteam", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert len(listed.stdout.splitlines()) > 100
    ran = fresh(*RUN.split())
    assert ran.returncode == 0, ran.stderr
    (verdict,) = json.loads((fresh.folder / "run" / "results.json").read_text(encoding="utf-8"))["verdicts"]
    assert (verdict["defense"], verdict["verdict"], verdict["attack"]) == ("permutation", "BROKEN", "hungarian")
    assert (fresh.folder / "run" / "report.html").stat().st_size > 10_000
    assert fresh("redteam", "doctor").stdout.endswith("Nothing here would make a run fail.\n")


def test_what_needs_an_extra_says_so(fresh: Environment) -> None:
    wrote = fresh("redteam", "new", "scenario", "pictures", "--victim", "flowers")
    assert wrote.returncode == 0, wrote.stderr
    for words, sentence in WITHOUT.items():
        told = fresh("redteam", *words.split())
        assert told.returncode == 2, words
        assert sentence in told.stderr.splitlines()[-1], words
        assert "Traceback" not in told.stderr


def test_it_is_imported_in_less_than_a_second(fresh: Environment) -> None:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert fresh("python", "-c", "import redteam").returncode == 0
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 1


def _interpreter(version: str) -> str | None:
    """A Python of a version that runs here; a shim of pyenv's may lead nowhere."""
    found = [shutil.which(f"python{version}"), *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for python in filter(None, found):
        if _run(python, "-c", code, check=False).stdout.strip() == version:
            return python
    return None


def _run(*command: str | Path, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    unset = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "PYTEST_CURRENT_TEST")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": ""}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=1800)
    assert not check or done.returncode == 0, done.stderr
    return done
