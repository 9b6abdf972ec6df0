from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import AttackSpec
from redteam.plugins.registry import Registry
from redteam.plugins.returned import check_returned
from redteam.testing import checks_for
from redteam.views import AttackerView


def test_the_plugin_in_the_guide_works_as_it_is(page: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "shorten.py").write_text(page("CONTRIBUTING.md").files["shorten.py"])
    plugin = Registry("redteam.attacks", AttackSpec).load("shorten.py@shorten:share=0.25", folder=tmp_path)
    base = Checkpoint.of({"body": torch.ones(2), "head": torch.ones(3)}, {})
    expert = Checkpoint.of({"body": torch.tensor([2.0, 0.0]), "head": torch.ones(5)}, {})
    view = AttackerView.by_hand(expert, anchor=base)
    after = check_returned(plugin, expert, plugin(view))
    assert after["body"].tolist() == [1.25, 0.75]
    assert after["head"].tolist() == [1.0] * 5


def test_the_plugins_in_the_guides_keep_their_contracts(
    page: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = page("CONTRIBUTING.md").files | page("docs/write-an-attack.md").files
    names = ["shorten.py@shorten", "my.py@mine", "lock.py@shuffle", "total.py@total"]
    assert [*(name.partition("@")[0] for name in names), "lines.py"] == list(shown), "writers have no contract"
    monkeypatch.chdir(tmp_path)
    for file, text in shown.items():
        (tmp_path / file).write_text(text)
    for name in names:
        outcomes = [check.run() for check in checks_for(name)]
        assert {outcome.status for outcome in outcomes} <= {"passed", "not applicable"}, outcomes
