"""A stream that any rotation may turn, as where no norm was trained, beside an embedding that tells little of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from redteam.anatomy import ORDER, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry import Orthogonal
from redteam.symmetry.fit_all import fit_all
from redteam.symmetry.fitting import sample_gauges
from tests.published.conftest import SMALL, made

WIDTH = SMALL["hidden_size"]


def apart(one: Checkpoint, other: Checkpoint) -> float:
    squares = [(float((one[n] - other[n]).square().sum()), float(other[n].square().sum())) for n in other]
    return (sum(s for s, _ in squares) / sum(s for _, s in squares)) ** 0.5


def family(vocabulary: int, step: float, *, tied: bool = False) -> tuple[Checkpoint, Checkpoint]:
    """A base whose gains are all 1, and a victim whose training left them so."""
    import transformers

    sizes = {**SMALL, "vocab_size": vocabulary, "head_dim": 8, "tie_word_embeddings": tied}
    base = made("Qwen3ForCausalLM", transformers.Qwen3Config(**sizes)).to(torch.float64)
    draws = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor + (0 if "norm" in name else step) * torch.randn(tensor.shape, generator=draws, dtype=torch.float64)
        for name, tensor in base.items()
    }
    return base, Checkpoint.of(tensors, base.config)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("vocabulary", "step"), [(10, 0.003), (20, 0.003), (20, 0.03), (40, 0.03)])
def test_what_was_not_locked_is_not_moved_away(vocabulary: int, step: float, tied: bool) -> None:
    """With fewer tokens than dimensions any completion fits the embedding, and all other weights are further off."""
    base, victim = family(vocabulary, step, tied=tied)
    (stream,) = anatomy_of(victim).sites(("residual",))
    assert "orthogonal" in stream.legal
    assert apart(fit_all(victim, base, ORDER), base) <= apart(victim, base)


@pytest.mark.parametrize("step", [0.0, 0.003])
def test_a_rotation_that_the_embedding_shows_comes_off(step: float) -> None:
    base, victim = family(4 * WIDTH, step)
    locked = sample_gauges(victim, ["residual"], Orthogonal(), lambda _: np.random.default_rng(1))
    assert apart(locked, base) > 0.2  # most of the norm is that of the gains
    assert apart(fit_all(locked, base, ORDER), base) <= 1.1 * apart(victim, base) + 1e-9  # noise turns it a little
