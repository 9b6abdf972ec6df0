from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from redteam.testing.surroundings import other_random_states, watched

CHANGES: dict[str, Callable[[], object]] = {
    "torch's random state": lambda: torch.rand(()),
    "numpy's random state": lambda: np.random.random(),  # noqa: NPY002
    "the random state of the module random": random.random,
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's grad mode": lambda: torch.set_grad_enabled(False),
    "torch's number of threads": lambda: torch.set_num_threads(3),
    "torch's deterministic flag": lambda: torch.use_deterministic_algorithms(True),
    "the flags of cudnn": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "torch's precision of float32 products": lambda: torch.set_float32_matmul_precision("medium"),
    "numpy's handling of floating-point errors": lambda: np.seterr(all="raise"),
    "the working directory": lambda: os.chdir("/"),
    "the environment variables": lambda: os.environ.update(REDTEAM_TEST="1"),
    "the filters of warnings": lambda: warnings.simplefilter("ignore"),
    "sys.path": lambda: sys.path.append("/nowhere"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_change_is_named_and_put_back(what: str) -> None:
    with watched() as watch:
        CHANGES[what]()
    assert watch.changed == (what,)
    with watched() as watch:
        pass
    assert watch.changed == ()


def test_put_back_is_what_was_there() -> None:
    folder, state = Path.cwd(), torch.get_rng_state()

    def change_everything() -> None:
        with watched():
            for change in CHANGES.values():
                change()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_everything()
    assert Path.cwd() == folder
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.rand(()).dtype == torch.float32
    assert "REDTEAM_TEST" not in os.environ


def test_a_block_runs_on_one_thread() -> None:
    before = torch.get_num_threads()
    with watched():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_random_states_are_others_for_a_while() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with other_random_states(9):
        assert not torch.equal(torch.rand(2), expected)
    assert torch.equal(torch.rand(2), expected)
