"""Experts trained side by side: the same as one after the other, one at a time outside of their steps."""

from __future__ import annotations

from threading import Barrier, Lock, current_thread

import pytest
import torch
from redteam_scenarios.together import Steps, trained_together

from redteam.checkpoint import Checkpoint


def test_jobs_are_in_their_steps_together_and_one_at_a_time_outside() -> None:
    both, alone, told = Barrier(2, timeout=30), Lock(), []

    def job(steps: Steps) -> Checkpoint:
        assert alone.acquire(blocking=False)
        value = torch.zeros(3)
        alone.release()
        for index in steps(4):
            both.wait()
            assert torch.get_num_threads() == 1
            value = value + index
        assert alone.acquire(blocking=False)
        alone.release()
        return Checkpoint.of({"weight": value}, {})

    def step(name: str) -> None:
        assert current_thread() is here
        told.append(name)

    here, before = current_thread(), torch.random.get_rng_state()
    made = trained_together({"a": job, "b": job}, step, 1)
    assert sorted(told) == ["a"] * 4 + ["b"] * 4
    assert [made[name]["weight"].tolist() for name in ("a", "b")] == [[6.0] * 3] * 2
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("when", [0, 2])
def test_what_a_job_raises_is_raised_once_the_others_have_ended(when: int) -> None:
    ended = []

    def fails(steps: Steps) -> Checkpoint:
        if when == 0:
            raise ValueError("broken")
        for index in steps(4):
            if index == when:
                raise ValueError("broken")
        raise AssertionError

    def works(steps: Steps) -> Checkpoint:
        ended.extend(steps(3))
        return Checkpoint.of({}, {})

    with pytest.raises(ValueError, match="broken"):
        trained_together({"fails": fails, "works": works}, lambda _: None, 1)
    assert ended == [0, 1, 2]
