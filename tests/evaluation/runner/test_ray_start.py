"""Ray that does not start, or is not there: a sentence, whatever it raises. Ray itself is not needed here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from redteam.errors import BadInput
from redteam.evaluation.runner.ray_pool import RayPool
from redteam.evaluation.runner.workers import ONE_THREAD


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray was started with; every start of it fails, as where a node is late."""
    calls: list[dict[str, Any]] = []

    def init(**given: Any) -> None:
        calls.append({**given, "environment": {name: os.environ.get(name) for name in ONE_THREAD}})
        raise Exception("The current node timed out during startup.\nand a trace")

    ray = ModuleType("ray")
    ray.is_initialized = lambda: False  # type: ignore[attr-defined]
    ray.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", *ONE_THREAD):
        monkeypatch.setenv(name, "7")  # so that it is put back
    return calls


def test_a_node_that_is_late_is_a_sentence(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"does not start on this machine \(The current node timed out during startup\)"):
        RayPool(2, root=tmp_path)
    assert asked[0]["environment"] == ONE_THREAD, "which its workers inherit"
    assert {os.environ[name] for name in ONE_THREAD} == {"7"}


def test_so_is_a_cluster_that_does_not_answer(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"No Ray cluster answers at 127\.0\.0\.1:1 "):
        RayPool(2, address="127.0.0.1:1", root=tmp_path)
    assert asked[0]["address"] == "127.0.0.1:1"
