"""A base and experts of a few numbers each, with a head of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.views import MergerView

SHAPES: Mapping[str, tuple[int, ...]] = {"a": (3, 4), "b": (5,), "c": (2, 2, 3)}
TASKS = ("victim", "left", "right")


@pytest.fixture(scope="session")
def base() -> Checkpoint:
    return Checkpoint.of(noise(SHAPES, 0), {"model_type": "tiny"})


@pytest.fixture(scope="session")
def experts(base: Checkpoint) -> dict[str, Checkpoint]:
    return {task: expert(base, seed) for seed, task in enumerate(TASKS, 1)}


@pytest.fixture(scope="session")
def view(base: Checkpoint) -> Callable[..., MergerView]:
    """A merger's view of some experts, under the stream that a number names."""

    def made(
        experts: Mapping[str, Checkpoint], *, base: Checkpoint = base, needs_base: bool = True, stream: int = 0
    ) -> MergerView:
        return MergerView(experts, base, Key.derive(seed=stream, index=0, name="merge"), needs_base)

    return made


def noise(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    draws = np.random.default_rng(seed)
    return {name: torch.from_numpy(draws.standard_normal(shape)).float() for name, shape in shapes.items()}


def expert(base: Checkpoint, seed: int) -> Checkpoint:
    moved = {name: base[name] + 0.3 * delta for name, delta in noise(SHAPES, seed).items()}
    return Checkpoint.of(moved | noise({"head": (4, seed)}, seed), base.config)


def watched(checkpoint: Checkpoint, read: list[str]) -> Checkpoint:
    """The same, and whenever a tensor is read its name is added to a list."""

    def get(name: str) -> torch.Tensor:
        read.append(name)
        return checkpoint[name]

    return Checkpoint.computed(checkpoint.outline(), get, checkpoint.config)
