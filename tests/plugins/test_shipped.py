from __future__ import annotations

import pytest

from redteam.errors import BadInput, UnknownName
from redteam.plugins.shipped import shipped, shipped_file

from .conftest import Install


def test_a_strangers_plan(install: Install) -> None:
    files = {"plan_a/__init__.py": "raise RuntimeError", "plan_a/plans/odd-name.toml": "# For odd days.\nkeys = 3\n"}
    entries = {"redteam.plans": {"odd": "plan_a.plans:odd-name.toml", "gone": "plan_a.plans:gone.toml"}}
    folder = install("plan-a", files, entries)
    assert shipped_file("plan", "odd") == folder / "plan_a/plans/odd-name.toml"
    listed = {one.name: one for one in shipped("plan")}
    assert (listed["odd"].package, listed["odd"].summary) == ("plan-a", "For odd days.")
    assert listed["gone"].summary == ""
    with pytest.raises(BadInput, match="which isn't there"):
        shipped_file("plan", "gone")


def test_names(install: Install) -> None:
    with pytest.raises(UnknownName, match="did you mean 'quick'"):
        shipped_file("plan", "quik")
    install("plan-b", {"plan_b.py": ""}, {"redteam.plans": {"quick": "plan_b:x.toml"}})
    with pytest.raises(BadInput, match="both merge-redteam and plan-b"):
        shipped_file("plan", "quick")
