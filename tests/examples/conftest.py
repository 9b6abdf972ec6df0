from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest

from redteam.checkpoint.extract import Extraction
from redteam.evaluation.run import run
from redteam.plugins.registry import SCENARIOS
from tests.examples.listed import PAGES
from tests.pages import ROOT

TOY = f"{ROOT / 'tests' / 'evaluation' / 'toy.py'}@toy"


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of all pages has: checkpoints, finished runs, and the files that pages show."""
    folder = tmp_path_factory.mktemp("reader")
    toy = SCENARIOS.load(TOY).function()
    toy.base.save(folder / "base")
    toy.experts["victim"].save(folder / "victim")
    toy.experts["left"].save(folder / "mine")
    for name, task in (("adapter", "victim"), ("my-adapter", "left")):
        adapter = Extraction(toy.experts[task], toy.base, 2)
        adapter.layers = {layer.removesuffix(".weight"): layer for layer in adapter.layers.values()}  # as its base has
        adapter.write(folder / name, base="base", force=False, card=lambda: "## Of the reader\n")
    for page in PAGES.values():
        for file, text in page.files.items():
            (folder / file).write_text(text, encoding="utf-8")
    plan = {"scenarios": [TOY], "defenses": ["mergelock"], "attacks": ["gauge-fit"]}
    run(plan, out=folder / "runs" / "today", workers=0)
    for name in ("demo", "drift", "last-week", "quick"):
        shutil.copytree(folder / "runs" / "today", folder / "runs" / name)
    results = (folder / "runs" / "today" / "results.json").read_bytes()
    (folder / "reference.json.gz").write_bytes(gzip.compress(results))
    return folder


@pytest.fixture
def stand(reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader of one page stands, with all that and the reports that are kept."""
    shutil.copytree(reader, tmp_path, dirs_exist_ok=True)
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def on_toys(plan: Any, **rest: Any) -> Any:
    """`redteam.run` on the toy scenario, in this process."""
    return run({**plan, "scenarios": [TOY]}, workers=0, **rest)
