"""The benchmark of a GPU against the CPU, on a pretended GPU and where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from redteam.symmetry import GROUPS
from tests.pretended import pretended_gpu

TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import gpu as module

    yield module
    for name in ("gpu", "bench"):
        sys.modules.pop(name, None)


def test_fits_of_every_group_agree(gpu: Any) -> None:
    with pretended_gpu() as mode:
        lines = list(gpu.fits("cuda", gpu.Size(heads=2, width=4, columns=9, repeats=1)))
        assert mode.ran > 1000
    judged = [line for line in lines if line.limit is not None]
    assert len(judged) == len(GROUPS)
    assert all(line.figure == 0 for line in judged), "a pretended GPU gives the CPU's figures"


def test_networks_agree(gpu: Any) -> None:
    small = {**TINY, "image_size": 8, "patch_size": 4, "num_channels": 1}
    with pretended_gpu() as mode:
        lines = list(gpu.networks("cuda", gpu.Size(network=small, images=4, repeats=1)))
        assert mode.ran > 100
    judged = [line for line in lines if line.limit is not None]
    assert [line.figure <= line.limit for line in judged] == [True, True]


def test_without_a_gpu_it_says_so_and_still_compares(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(gpu, "fits", lambda device, size: seen.append((device, size)) or iter(()))
    monkeypatch.setattr(gpu, "networks", lambda *_: iter([gpu.Line("networks", 0.0, limit=1e-4)]))
    monkeypatch.setattr(gpu, "runs", lambda *_: iter(()))
    assert gpu.main() == 0
    assert seen == [("cpu", gpu.SMALL)]
    told = capsys.readouterr().out
    assert told.startswith("There is no CUDA device that torch can use, so that the CPU is measured against itself")
    monkeypatch.setattr(gpu, "networks", lambda *_: iter([gpu.Line("networks", 1.0, limit=1e-4)]))
    assert gpu.main() == 1, "figures that do not agree are no success"


@pytest.mark.slow
def test_a_run_agrees_with_itself(gpu: Any) -> None:
    toy = Path(__file__).parent / "evaluation" / "toy.py"
    plan = {
        "scenarios": [f"{toy}@toy"],
        "defenses": ["permutation"],
        "attacks": ["hungarian", "imitation:steps=2"],
        "mergers": ["task-arithmetic:coefficient=0.4"],
    }
    lines = list(gpu.runs("cpu", plan, workers=0))
    assert [line.figure for line in lines if line.limit is not None] == [0.0, 0.0]
