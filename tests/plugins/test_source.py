from __future__ import annotations

import sys
from pathlib import Path

import pytest

from redteam.plugins.source import WORDS, digest_of, engine_modules, first_line, imports_in, locate, sources

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


def test_code_outside_library_folders_is_followed_since_no_version_stands_for_it(install: Install) -> None:
    files = {"near_a/__init__.py": "", "near_a/plugin.py": "import near_b.x\nimport pytest\n"}
    folder = install("near", {**files, "near_b/__init__.py": "", "near_b/x.py": "", "near_b/y.py": ""}, {})
    assert set(sources([("near_a.plugin", "")])) == {"near_a", "near_a.plugin", "near_b", "near_b.x"}
    before = digest_of("near_a.plugin")
    (folder / "near_b/x.py").write_text("X = 1\n")
    assert digest_of("near_a.plugin") != before


def test_the_modules_of_the_engine_that_a_plugin_reaches_count_for_it(install: Install) -> None:
    text = "from redteam import AttackerView\nfrom redteam.symmetry import Orthogonal\n"
    text += "\ndef f():\n    import redteam.training\n"
    install("reach", {"reach_a.py": text}, {})
    found = sources([("reach_a", "")])
    assert {"redteam.views", "redteam.symmetry.matrix_groups", "redteam.training"} <= set(found)
    assert "redteam.evaluation.run" not in found
    assert not set(found) & set(WORDS)


def test_a_name_leads_to_the_module_that_defines_it() -> None:
    """So that what one attack uses is no part of what every other one rests on."""
    linear = set(engine_modules(["redteam.symmetry.matrix_groups"]))
    assert "redteam.symmetry.gauges" in linear
    assert not {"redteam.symmetry.certificate", "redteam.symmetry.reshaping"} & linear


def test_what_only_type_checkers_import_does_not_count() -> None:
    found = imports_in(
        b"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    import b\n"
        b"try:\n    import c\nexcept ImportError:\n    import d\nfinally:\n    import e\n"
        b"match x:\n    case 1:\n        import f as g\n"
        b"class H:\n    async def h(self):\n        from .i import j as k\n"
    )
    assert {(one.module, one.bound, one.typing) for one in found[1:]} == {
        ("a", "a", True),
        *((name, name, False) for name in "bcde"),
        ("f", "g", False),
        ("i", "k", False),
    }
