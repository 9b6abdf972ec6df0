"""Every Python block: a page's run in order, in one namespace, on the toy scenario and in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.examples.conftest import on_toys
from tests.examples.listed import ELSEWHERE, PAGES

SCRIPTS = {
    name: [block for block in page.fenced("python") if block not in page.files.values()]
    for name, page in PAGES.items()
    if name not in ELSEWHERE
}
"""Page → its blocks, but for files: those are plugins, and tests/test_contributing.py holds them to their contracts."""


@pytest.mark.parametrize("name", [name for name, script in SCRIPTS.items() if script])
def test_python_examples_run(name: str, stand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import redteam.evaluation.run as home

    monkeypatch.setattr(home, "run", on_toys)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in SCRIPTS[name]:
        exec(compile(block, name, "exec"), namespace)
    if "export_mlflow" in namespace:
        assert namespace["logged"], "mlflow was not reached"
