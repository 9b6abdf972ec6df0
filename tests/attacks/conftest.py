"""The toy that attacks with data are tried on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from redteam.tasks import Scenario
from redteam.testing import toy_scenario


@pytest.fixture(scope="module", params=["vit", "bert"])
def scenario(request: pytest.FixtureRequest) -> Iterator[Scenario]:
    """A victim and its companions, on one thread, so that figures do not hang on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield toy_scenario(request.param)
    torch.set_num_threads(threads)
