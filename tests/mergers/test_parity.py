"""What variants of mergers differ in, what is drawn, and what cannot be merged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.plugins.registry import MERGERS
from redteam.views import MergerView
from tests.mergers.oracles import DATALESS, merged, of_mergekit

View = Callable[..., MergerView]


def test_sce_of_the_paper_weighs_short_task_vectors_too() -> None:
    """Where Σ mean τ² < 1e-6 mergekit weighs all alike."""
    base, experts = of_mergekit(torch.float64)
    short = {t: Checkpoint.of({n: base[n] + 1e-4 * (e[n] - base[n]) for n in base}, {}) for t, e in experts.items()}
    long, paper, other = (
        merged(text, base, some) for text, some in (("sce", experts), ("sce", short), ("sce:variant=mergekit", short))
    )
    assert torch.allclose((paper["flat"] - base["flat"]) * 1e4, long["flat"] - base["flat"], atol=1e-9)
    assert ((paper["flat"] - other["flat"]) * 1e4).abs().max() > 1e-3


class TestDella:
    def test_keeps_entries_as_often_as_their_rank_says(self, view: View) -> None:
        base = Checkpoint.of({"a": torch.zeros(2, 5, dtype=torch.float64)}, {})
        tau = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0]], dtype=torch.float64)
        one, draws = {"one": Checkpoint.of({"a": tau}, {})}, 2000
        della = MERGERS.load("della:elect=false,density=0.5,epsilon=0.3,coefficient=1.0")
        made = torch.stack([della(view(one, base=base, stream=stream))["a"] for stream in range(draws)])
        p = torch.tensor([0.2, 0.35, 0.5, 0.65, 0.8], dtype=torch.float64)
        p = torch.stack([p, p.flip(0)])
        assert ((made != 0).double().mean(0) - p).abs().max() < 4 * 0.5 / np.sqrt(draws)
        kept = made != 0
        assert torch.allclose(made[kept], (tau / p).expand_as(made)[kept])

    def test_mergekits_restores_the_norm(self, view: View) -> None:
        base, experts = of_mergekit(torch.float64)
        one = {"left": experts["left"]}
        made = MERGERS.load("della:elect=false,variant=mergekit,coefficient=1.0")(view(one, base=base))
        for name in base:
            got, wanted = ((e[name] - base[name]).abs().sum() for e in (made, experts["left"]))
            assert float(got) == pytest.approx(float(wanted), rel=1e-9)

    def test_at_density_1_is_task_arithmetic(self) -> None:
        base, experts = of_mergekit(torch.float64)
        made = merged("della:elect=false,density=1.0,coefficient=0.4", base, experts)
        wanted = merged("task-arithmetic:coefficient=0.4", base, experts)
        assert all(torch.allclose(made[name], wanted[name]) for name in base)


@pytest.mark.parametrize(
    ("text", "count", "told"),
    [
        ("slerp", 3, "slerp merges exactly 2 experts and was given 3"),
        ("slerp", 1, "slerp merges exactly 2 experts and was given 1"),
        ("nuslerp", 3, "nuslerp merges exactly 2 experts and was given 3"),
        ("model-stock", 1, "model-stock merges at least 2 experts and was given 1"),
        ("arcee-fusion", 2, "arcee-fusion merges exactly 1 expert into the base and was given 2"),
        ("nearswap", 2, "nearswap merges exactly 1 expert into the base and was given 2"),
        ("consensus", 1, "consensus:tasks=2 merges at least 2 experts and was given 1"),
        ("della:density=0.1,epsilon=0.15", 2, "density ± epsilon of della must lie inside"),
    ],
)
def test_what_it_cannot_merge_is_one_sentence(text: str, count: int, told: str, view: View) -> None:
    base, experts = of_mergekit()
    plugin = MERGERS.load(text)
    with pytest.raises(BadInput, match=told):
        plugin(view(dict(list(experts.items())[:count]), base=base, needs_base=plugin.spec.needs_base))


def test_three_experts_that_cancel_are_one_sentence(view: View) -> None:
    turns = torch.arange(3, dtype=torch.float64) * 2 * torch.pi / 3
    experts = {f"e{i}": Checkpoint.of({"a": torch.stack([t.cos(), t.sin()])}, {}) for i, t in enumerate(turns)}
    base = Checkpoint.of({"a": torch.zeros(2, dtype=torch.float64)}, {})
    made = MERGERS.load("multislerp")(view(experts, base=base, needs_base=False))
    with pytest.raises(BadInput, match="The experts' a cancel"):
        made["a"]


@pytest.mark.parametrize("name", DATALESS)
def test_large_half_precision_numbers_and_odd_shapes_stay_finite(name: str) -> None:
    """Sums of squares of these overflow float16, and differences do not."""
    shapes: tuple[tuple[int, ...], ...] = ((4, 8), (), (0, 3), (1,), (3, 1), (2, 3, 2, 2))
    draws = np.random.default_rng(0)

    def big() -> Checkpoint:
        return Checkpoint.of(
            {f"t{i}": torch.from_numpy(np.asarray(draws.uniform(-9e3, 9e3, s))).half() for i, s in enumerate(shapes)},
            {},
        )

    base, experts = big(), {task: big() for task in ("left", "right", "victim")}
    made = merged(name, base, experts)
    for tensor, shape in zip((f"t{i}" for i in range(len(shapes))), shapes, strict=True):
        assert made[tensor].shape == shape
        assert made[tensor].dtype == torch.float16
        assert made[tensor].isfinite().all()
