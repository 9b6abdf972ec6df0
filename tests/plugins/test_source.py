from __future__ import annotations

import sys
from pathlib import Path

import pytest

from redteam.plugins.source import digest_of, first_line, locate

from .conftest import Install

FILES = {
    "deep_a/__init__.py": "raise RuntimeError('imported')\n",
    "deep_a/plugin.py": "import json\nfrom . import near\nfrom .sub.far import x\n",
    "deep_a/near.py": "def f():\n    import deep_a.inner\n",
    "deep_a/inner.py": "",
    "deep_a/sub/__init__.py": "",
    "deep_a/sub/far.py": "from ..cycle import y\nx = 1\n",
    "deep_a/cycle.py": "from deep_a.plugin import z\ny = 1\n",
    "deep_a/unused.py": "",
    "deep_a/data/plan.toml": "",
    "deep_b/__init__.py": "",
}


def test_locating_runs_nothing(install: Install) -> None:
    folder = install("deep", FILES, {})
    assert locate("deep_a.sub.far") == folder / "deep_a/sub/far.py"
    assert locate("deep_a.sub") == folder / "deep_a/sub/__init__.py"
    assert locate("deep_a.data") == folder / "deep_a/data"
    assert locate("deep_a.nothing") is None
    assert locate("no_such_package_anywhere.x") is None
    assert locate("math") is None
    assert "deep_a" not in sys.modules


@pytest.mark.parametrize(
    ("file", "counts"),
    [(file, file.startswith("deep_a") and "unused" not in file and "data" not in file) for file in FILES],
)
def test_the_digest_follows_imports_within_the_package(install: Install, file: str, counts: bool) -> None:
    folder = install("deep", FILES, {})
    before = digest_of("deep_a.plugin")
    assert digest_of("deep_a.plugin") == before
    path = folder / file
    path.write_text(path.read_text() + "# changed\n")
    assert (digest_of("deep_a.plugin") != before) == counts


@pytest.mark.parametrize(
    ("text", "line"),
    [('"""One.\n\nTwo."""\n', "One."), ("x = 1\n", ""), ("def f(:\n", ""), ('"""\n    Indented.\n"""', "Indented.")],
)
def test_first_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "x.py").write_text(text)
    assert first_line(tmp_path / "x.py") == line
    assert first_line(tmp_path / "none.py") == ""
    assert first_line(None) == ""
