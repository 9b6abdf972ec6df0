"""The real experts of the scenario that ships, and networks small enough for float64 with an expert made of noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.tasks import Scenario


@pytest.fixture(scope="session")
def digits() -> Scenario:
    from redteam_scenarios.digits import digits

    return digits(seed=0)


@pytest.fixture(scope="session")
def experts(digits: Scenario) -> Mapping[str, Checkpoint]:
    return digits.experts


@pytest.fixture(scope="session")
def tuned() -> Callable[[Checkpoint], Checkpoint]:
    """Adds noise of a twentieth of its deviation to every tensor: fine-tuning without its direction."""

    def noisy(base: Checkpoint) -> Checkpoint:
        draws = np.random.default_rng(0)
        return base.replace(
            {
                name: tensor
                + 0.05 * tensor.std() * torch.from_numpy(np.asarray(draws.standard_normal(tuple(tensor.shape))))
                for name, tensor in base.items()
                if tensor.is_floating_point() and tensor.numel() > 1
            }
        )

    return noisy
