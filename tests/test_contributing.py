from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import AttackSpec
from redteam.plugins.registry import Registry
from redteam.plugins.returned import check_returned
from redteam.views import AttackerView


def test_the_plugin_in_the_guide_works_as_it_is(page: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "negate.py").write_text(page("CONTRIBUTING.md").indented("# negate.py"))
    plugin = Registry("redteam.attacks", AttackSpec).load("negate.py@negate:strength=0.5", folder=tmp_path)
    base = Checkpoint.of({"body": torch.ones(2), "head": torch.ones(3)}, {})
    expert = Checkpoint.of({"body": torch.tensor([2.0, 0.0]), "head": torch.ones(5)}, {})
    view = AttackerView.by_hand(expert, anchor=base)
    after = check_returned(plugin, expert, plugin(view))
    assert after["body"].tolist() == [0.5, 1.5]
    assert after["head"].tolist() == [1.0] * 5
