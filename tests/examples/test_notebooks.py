"""The notebooks run from top to bottom, and what is kept of them is what they show."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from redteam.plugins.files import module_from
from tests.pages import ROOT

BOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LOCK = ROOT / "docs" / "notebooks" / "where-the-lock-lies.ipynb"


def cells(path: Path, kind: str = "code") -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def run(path: Path) -> dict[str, Any]:
    """What its cells leave behind, without a kernel."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells(path):
        exec(compile("".join(cell["source"]), path.name, "exec"), namespace)
    return namespace


def test_the_picture_shows_where_the_lock_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib import pyplot

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pyplot.switch_backend("Agg")
    try:
        left = run(LOCK)
        drawn = {panel.get_title(): [line.get_ydata() for line in panel.get_lines()] for panel in left["panels"]}
    finally:
        pyplot.close("all")
    assert {"qk", "vo", "mlp"} <= set(drawn)
    for kind, (before, after) in drawn.items():
        assert len(before) == len(after) > 0
        if kind in ("qk", "vo"):
            assert min(before) > 100 * max(after)
        else:
            assert max(before) < 0.2
            assert max(before) < 1.01 * max(after)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_one_form_of_each_output_and_no_failure(path: Path) -> None:
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"execute_result", "display_data", "stream"}
    assert all(len(output.get("data", "x")) == 1 for output in outputs)
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert path.stat().st_size < 100_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's own
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_kernel_shows_what_is_kept(path: Path) -> None:
    """Figures aside, whose last digit hangs on the processor."""
    again = module_from(ROOT / "tools" / "notebooks.py").executed(path)
    shown = [told(cell.outputs) for cell in again.cells if cell.cell_type == "code"]
    assert shown == [told(cell["outputs"]) for cell in cells(path)]


def told(outputs: list[Any]) -> list[str]:
    texts = []
    for output in outputs:
        data = output.get("data", {})
        text = "image" if "image/png" in data else "".join(data.get("text/html") or output.get("text") or "")
        texts.append(re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "#", text))
    return texts
