"""What mergers declare of themselves is tried on all of them, and so is that of what they do not declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.contracts import LAWS
from redteam.plugins.registry import MERGERS
from redteam.views import MergerView
from tests.mergers.oracles import DATALESS, TAKES, run

Experts = Mapping[str, Checkpoint]


def drawn(seed: int) -> tuple[Checkpoint, Experts]:
    """A base and three experts in float64; a part of the entries moved by one expert alone, another hardly at all.

    "steep" moved by what spans five orders of magnitude.
    """
    draws = np.random.default_rng(seed)
    base = {
        "square": draws.standard_normal((6, 6)),
        "flat": draws.standard_normal((7,)),
        "steep": draws.standard_normal((5, 6)),
    }
    experts = {}
    for task in ("left", "right", "victim"):
        moved = {n: t + 0.3 * draws.standard_normal(t.shape) * (draws.random(t.shape) < 0.8) for n, t in base.items()}
        moved["flat"][-2:] = base["flat"][-2:] + 5e-6
        moved["steep"] = base["steep"] + (moved["steep"] - base["steep"]) * 10.0 ** -np.arange(6)
        experts[task] = Checkpoint.of({n: torch.from_numpy(t) for n, t in moved.items()}, {})
    return Checkpoint.of({n: torch.from_numpy(t) for n, t in base.items()}, {}), experts


def merged(name: str, base: Checkpoint, experts: Experts) -> Mapping[str, torch.Tensor]:
    key = Key.derive(seed=0, index=0, name="merge")
    plugin = MERGERS.load(name)
    given = dict(list(experts.items())[: TAKES.get(name, len(experts))])
    made = plugin(MergerView(given, base, key, plugin.spec.needs_base))
    if not plugin.spec.whole:
        return dict(made)
    return dict(made.of("left") if made.rewire is None else run(made))


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n], rtol=0, atol=1e-9) for n in one)


def moved(checkpoint: Mapping[str, torch.Tensor], left: torch.Tensor, right: torch.Tensor) -> Checkpoint:
    return Checkpoint.of({**checkpoint, "square": left @ checkpoint["square"] @ right.T}, {})


def commutes(name: str, base: Checkpoint, experts: Experts, left: torch.Tensor, right: torch.Tensor) -> bool:
    there = merged(name, moved(base, left, right), {t: moved(e, left, right) for t, e in experts.items()})
    return same(there, dict(moved(merged(name, base, experts), left, right)))


def identical(name: str, base: Checkpoint, experts: Experts, draws: np.random.Generator) -> bool:
    return same(merged(name, base, dict.fromkeys(experts, experts["left"])), dict(experts["left"]))


def order(name: str, base: Checkpoint, experts: Experts, draws: np.random.Generator) -> bool:
    used = dict(list(experts.items())[: TAKES.get(name, len(experts))])
    return same(merged(name, base, used), merged(name, base, dict(reversed(used.items()))))


def permutation(name: str, base: Checkpoint, experts: Experts, draws: np.random.Generator) -> bool:
    left, right = (torch.eye(6, dtype=torch.float64)[torch.from_numpy(draws.permutation(6))] for _ in range(2))
    return commutes(name, base, experts, left, right)


def rotation(name: str, base: Checkpoint, experts: Experts, draws: np.random.Generator) -> bool:
    left, right = (torch.linalg.qr(torch.from_numpy(draws.standard_normal((6, 6))))[0] for _ in range(2))
    return commutes(name, base, experts, left, right)


def still(name: str, base: Checkpoint, experts: Experts, draws: np.random.Generator) -> bool:
    return same(merged(name, base, dict.fromkeys(experts, base)), dict(base))


TRIED: Mapping[str, Callable[[str, Checkpoint, Experts, np.random.Generator], bool]] = {
    "identical": identical,
    "order": order,
    "permutation": permutation,
    "rotation": rotation,
    "still": still,
}


def test_every_law_is_tried() -> None:
    assert TRIED.keys() == LAWS.keys()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", DATALESS)
def test_a_law_holds_where_it_is_declared_and_fails_where_it_is_not(name: str, law: str) -> None:
    found = [TRIED[law](name, *drawn(seed), np.random.default_rng(seed)) for seed in range(4)]
    if law in MERGERS.load(name).spec.holds:
        assert all(found)
    else:
        assert not all(found), f"{name} may declare {law}"
