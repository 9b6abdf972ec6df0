"""A scenario that cannot work stops the run before anything is planned."""

from __future__ import annotations

from typing import Any

import pytest

from redteam.errors import RedteamError


def test_networks_without_logits_are_one_sentence_before_anything_is_planned(bench: Any, tmp_path: Any) -> None:
    from redteam.evaluation.run import run

    plan = {"scenarios": (bench.of("worlds.py", "mute"),), "defenses": ("none",)}
    with pytest.raises(RedteamError, match="logits") as refused:
        run(plan, out=tmp_path / "out", workers=0)
    assert "\n" not in str(refused.value)
    assert "line " not in str(refused.value)
    assert not [path for path in (tmp_path / "out").rglob("*.json") if path.parent.name == "cells"]


def test_weights_that_are_no_numbers_are_named_before_anything_is_planned(bench: Any, tmp_path: Any) -> None:
    from redteam.evaluation.run import run

    plan = {"scenarios": (bench.of("worlds.py", "holed"),), "defenses": ("none",)}
    with pytest.raises(RedteamError, match=r"key\.bias.* of expert 'left' holds NaN or infinity"):
        run(plan, out=tmp_path / "out", workers=0)
