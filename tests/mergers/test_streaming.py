"""Merges are computed as they are read, in blocks, and that changes no bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from redteam_attacks.merging import entrywise as home
from redteam_attacks.merging.entrywise import entrywise
from redteam_attacks.merging.ties import cutoff

from redteam.checkpoint import Checkpoint
from redteam.plugins.registry import MERGERS
from redteam.views import MergerView
from tests.mergers.conftest import watched

View = Callable[..., MergerView]
TEXTS = ("task-arithmetic", "linear", "ties", "ties:variant=mergekit", "dare", "dare:variant=mergekit,elect=true")


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_change_no_bit(text: str, dtype: torch.dtype, view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Checkpoint.of({"a": drawn(0, 70, 11), "b": drawn(1, 101), "none": drawn(2, 0), "one": drawn(3)}, {})
    experts = {
        f"expert{seed}": Checkpoint.of(
            {name: (t + 0.1 * drawn(seed, *t.shape)).to(dtype) for name, t in base.items()}, {}
        )
        for seed in range(11)
    }
    digests = set()
    for block in (2**20, 64, 50):
        monkeypatch.setattr(home, "BLOCK", block)
        given = view(experts, base=base.to(dtype), needs_base=text != "linear")
        digests.add(MERGERS.load(text)(given).digest())
    assert len(digests) == 1


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_computed_before_it_is_read(
    text: str, view: View, base: Checkpoint, experts: Mapping[str, Checkpoint]
) -> None:
    read: list[str] = []

    given = {task: watched(expert, read) for task, expert in experts.items()}
    merged = MERGERS.load(text)(view(given, base=watched(base, read), needs_base=text != "linear"))
    if text != "ties":  # which looks at the whole vector first
        assert not read
    read.clear()
    assert merged.shape("a") == base.shape("a")
    assert merged.dtype("a") == base.dtype("a")
    assert not read
    assert merged["a"].isfinite().all()
    assert set(read) == {"a"}


def test_the_inputs_of_a_formula_may_be_overwritten() -> None:
    kept = drawn(0, 5, 3)
    before = kept.clone()
    out = entrywise(lambda one, other: one.mul_(2).add_(other), kept, kept, dtype=torch.float64)
    assert torch.equal(kept, before)
    assert torch.equal(out, 3 * before)
    assert out.shape == before.shape


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["normal", "ties", "tiny", "zeros"])
def test_thecutoff_by_bits_is_that_by_sorting(density: float, kind: str) -> None:
    sizes = drawn(0, 1003).abs().float()
    if kind == "ties":
        sizes = (sizes * 3).round() / 3
    if kind == "tiny":
        sizes = sizes * 1e-42  # denormal numbers
    if kind == "zeros":
        sizes[100:] = 0.0
    parts = sizes.split([3, 500, 0, 500])
    count = max(1, int(density * len(sizes)))
    assert cutoff(lambda: iter(parts), density) == float(sizes.sort(descending=True).values[count - 1])


def test_no_sizes_have_nocutoff() -> None:
    assert cutoff(lambda: iter(()), 0.5) == 0.0
