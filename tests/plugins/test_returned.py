from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import PluginFault
from redteam.plugins.contracts import DefenseSpec
from redteam.plugins.reference import Reference
from redteam.plugins.registry import LoadedPlugin
from redteam.plugins.returned import check_as_read, check_returned

SPEC = DefenseSpec(name="lock", exact=True, keyed=True)
PLUGIN = LoadedPlugin("lock", lambda view: view, SPEC, {}, "", "here", Reference("lock"))
BEFORE = Checkpoint.of({"a": torch.ones(2, 3), "n": torch.tensor([1, 2])}, {})


def test_a_sound_result_comes_back_itself() -> None:
    after = BEFORE.replace({"a": torch.zeros(2, 3)})
    assert check_returned(PLUGIN, BEFORE, after) is after


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (None, "returned None"),
        ({"a": torch.ones(2, 3)}, "an object of type dict"),
        (Checkpoint.of({"a": torch.ones(2, 3)}, {}), "returned no 'n'"),
        (BEFORE.replace({"b": torch.ones(1)}), "returned 'b'"),
        (BEFORE.replace({"a": torch.ones(3, 2)}), r"'a' with shape \[3, 2\]; expected \[2, 3\]"),
        (BEFORE.replace({"a": torch.ones(2, 3).double()}), "'a' in torch.float64; expected torch.float32"),
        (BEFORE.replace({"a": torch.full((2, 3), torch.nan)}), "'a' with 6 of 6 values not finite"),
        (BEFORE.replace({"a": torch.tensor([[0, 0, 0], [0, torch.inf, 0]])}), "'a' with 1 of 6 values not finite"),
    ],
)
def test_faults_name_the_plugin_and_the_tensor(after: Any, says: str) -> None:
    with pytest.raises(PluginFault, match=f"^The defense 'lock' returned.*{says.removeprefix('returned ')}"):
        check_returned(PLUGIN, BEFORE, after)


def test_another_architecture_only_where_declared() -> None:
    free = replace(PLUGIN, spec=replace(SPEC, changes_architecture=True))
    after = Checkpoint.of({"other": torch.ones(4)}, {})
    assert check_returned(free, BEFORE, after) is after
    with pytest.raises(PluginFault, match="not finite"):
        check_returned(free, BEFORE, after.replace({"other": torch.tensor([torch.nan])}))


def test_values_are_looked_at_when_they_are_read() -> None:
    read: list[str] = []

    def load(name: str) -> torch.Tensor:
        read.append(name)
        return torch.full((2, 3), torch.nan) if name == "a" else torch.tensor([1, 2])

    checked = check_as_read(PLUGIN, BEFORE, Checkpoint.computed(BEFORE.outline(), load))
    assert not read
    assert torch.equal(checked["n"], BEFORE["n"])
    with pytest.raises(PluginFault, match="'a' with 6 of 6 values not finite"):
        checked["a"]
    with pytest.raises(PluginFault, match=r"'a' in torch\.float64"):
        check_as_read(PLUGIN, BEFORE, BEFORE.replace({"a": torch.ones(2, 3).double()}))
