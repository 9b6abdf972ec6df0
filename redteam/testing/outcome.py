"""What a check is, and what it can come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Status = Literal["passed", "failed", "not applicable"]


class Fails(Exception):
    """A check's finding that the contract is broken; the text is the reason."""


class DoesNotApply(Exception):
    """A check's finding that there is nothing to check; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What one check came to.

    Attributes:
        check: The check's name.
        status: `"passed"`, `"failed"` or `"not applicable"`.
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

    def run(self) -> Outcome:
        """Examines the plugin, on one thread as every cell of a run.

        What a plugin raises is a finding; an error of the suite itself is not caught.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return Outcome(self.name, "passed", self.examine())
        except Fails as found:
            return Outcome(self.name, "failed", str(found))
        except DoesNotApply as found:
            return Outcome(self.name, "not applicable", str(found))
        finally:
            torch.set_num_threads(threads)
