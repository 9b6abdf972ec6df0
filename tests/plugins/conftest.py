from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from redteam.plugins.source import locate

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution in the sense of importlib.metadata: files, and entry points by group."""
    before = set(sys.modules)

    def installed(name: str, files: Mapping[str, str], entries: Mapping[str, Mapping[str, str]]) -> Path:
        folder = tmp_path / f"site-{name}"
        for path, text in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text))
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in items.items()) for group, items in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        locate.cache_clear()
        return folder

    yield installed
    for module in set(sys.modules) - before:
        del sys.modules[module]
    locate.cache_clear()
