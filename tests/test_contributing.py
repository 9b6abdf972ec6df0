from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import torch

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.contracts import AttackSpec
from redteam.plugins.registry import Registry
from redteam.plugins.returned import check_returned
from redteam.threat import threat_model
from redteam.views import AttackerView

GUIDE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


def test_the_plugin_in_the_guide_works_as_it_is(tmp_path: Path) -> None:
    begin = GUIDE.index("    # negate.py")
    block = GUIDE[begin : GUIDE.index("\n\nIt can be used at once")]
    (tmp_path / "negate.py").write_text(dedent(block))
    plugin = Registry("redteam.attacks", AttackSpec).load("negate.py@negate:strength=0.5", folder=tmp_path)
    base = Checkpoint.of({"body": torch.ones(2), "head": torch.ones(3)}, {})
    expert = Checkpoint.of({"body": torch.tensor([2.0, 0.0]), "head": torch.ones(5)}, {})
    view = AttackerView(
        protected=expert, threat=threat_model("weights-only"), stream=Key(bytes(32)), _anchor=base, _companions={}
    )
    after = check_returned(plugin, expert, plugin(view))
    assert after["body"].tolist() == [0.5, 1.5]
    assert after["head"].tolist() == [1.0] * 5
