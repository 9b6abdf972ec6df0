"""What a check is, and what it can come to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from redteam.testing.clock import Clock, OutOfTime

Status = Literal["passed", "failed", "not applicable", "not done"]


class Fails(Exception):
    """A check's finding that the contract is broken; the text is the reason."""


class DoesNotApply(Exception):
    """A check's finding that there is nothing to check; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What one check came to.

    Attributes:
        check: The check's name.
        status: `"passed"`, `"failed"`, `"not applicable"`, or `"not done"` where the time was up.
        reason: One sentence; what was found, also where it passed.
    """

    check: str
    status: Status
    reason: str


@dataclass(frozen=True)
class Check:
    """One clause of a contract, bound to one plugin.

    Attributes:
        name: What it is called, for example `"plants: orthogonal at qk, vit"`.
        examine: Returns what was found; raises `Fails` or `DoesNotApply`.
    """

    name: str
    examine: Callable[[], str]

    @property
    def clause(self) -> str:
        """The name without its particulars: checks of one clause are one test of a contract class."""
        return self.name.partition(":")[0]

    def run(self, clock: Clock | None = None) -> Outcome:
        """Examines the plugin, on one thread as every cell of a run.

        What a plugin raises is a finding; an error of the suite itself is not caught.

        Args:
            clock: What the plugin may use; without one, as much as it likes.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with clock.running() if clock is not None else nullcontext():
                found = self.examine()
            return Outcome(self.name, "passed", found)
        except OutOfTime:
            assert clock is not None
            return Outcome(self.name, "not done", f"its {clock.limit:g} s of CPU time were up")
        except Fails as found:
            return Outcome(self.name, "failed", str(found))
        except DoesNotApply as found:
            return Outcome(self.name, "not applicable", str(found))
        finally:
            torch.set_num_threads(threads)
