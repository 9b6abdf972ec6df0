"""Every network of the zoo through the shell: locked, and the lock taken off again, as users do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.symmetry import random_inputs
from redteam.symmetry.running import run_network
from tests.zoo import NETWORKS, network

CLOSE = 2e-5  # in float32, of locks with scales from 0.01 to 100


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"resnet"}))  # has no heads to lock
def test_a_lock_keeps_the_function_and_comes_off(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    base = network(name).checkpoint.to(torch.float32)
    draws = torch.Generator().manual_seed(1)
    floats = {key: tensor for key, tensor in base.items() if tensor.is_floating_point()}
    base.save("base")
    base.replace({k: t + 0.01 * torch.randn(t.shape, generator=draws) for k, t in floats.items()}).save("victim")
    told = shell("protect", "mergelock", "victim", "--key", "key", "--out", "locked")
    assert told.code == 0, told.err
    assert "Proven" in told.out
    told = shell("attack", "gauge-fit", "locked", "--base", "base", "--out", "fitted")
    assert told.code == 0, told.err
    assert "hardly nearer" not in told.out
    victim, locked, fitted = (Checkpoint.open(x).cast(torch.float64) for x in ("victim", "locked", "fitted"))
    tried = [random_inputs(victim, 5)]
    if "input_ids" in tried[0] and "pixel_values" not in tried[0]:
        mask = torch.ones_like(tried[0]["input_ids"])
        mask[1, 9:] = 0
        tried.append({**tried[0], "attention_mask": mask})
    before, between, after = (run_network(one, tried, torch.float64) for one in (victim, locked, fitted))
    assert between.change(before) < CLOSE
    assert after.change(between) < CLOSE
