"""Errors that a user can cause, each one sentence: what happened, what was expected, what to do.

RedteamError                     exit code 2
├── BadInput
│   ├── UnknownName              a plugin, plan or setting that does not exist ("did you mean …?")
│   ├── BadSetting               a value of the wrong type or out of range
│   ├── BadPlan                  a plan that cannot be read
│   ├── NotACheckpoint           a folder or file that holds no readable weights
│   │   └── Quantised            one whose weights are codes
│   ├── Inapplicable             a checkpoint to which an attack, rightly used, has nothing to say
│   └── UnwritableOutput         a place where nothing can be written
├── ThreatModelViolation         a plugin asked for more than the threat model grants
├── IllegalGauge                 a lock that the architecture does not allow
├── NotEnoughMemory              a computation that takes more than the run was given
└── PluginFault                  a plugin returned something it must not return
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


def hint(name: str, known: Collection[str], otherwise: str) -> str:
    """The end of a sentence on a name that there is not: the closest names, or where none is close all there are.

    Args:
        name: What the user wrote.
        known: Every name on offer, in the order in which they are listed.
        otherwise: What stands before such a list, for example `"known:"`.
    """
    far, near = 0.5, 0.8  # beside a slip of the keys, what is merely like it would only confuse
    close = difflib.get_close_matches(name, known, 2, near) or difflib.get_close_matches(name, known, 2, far)
    if close:
        return f"did you mean {' or '.join(repr(one) for one in close)}?"
    return f"{otherwise} {', '.join(known) or 'none'}."


class RedteamError(Exception):
    """Base of every error that is shown as one sentence, without a traceback."""


class BadInput(RedteamError):
    """Something the user wrote or pointed at cannot be used."""


class UnknownName(BadInput):
    """A name that is not among those on offer."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownName:
        """Builds the sentence, with the closest known names.

        Args:
            kind: What was looked for, for example `"attack"`.
            name: What the user wrote.
            known: Every name on offer.
        """
        return cls(f"There is no {kind} called {name!r}; {hint(name, sorted(known), 'known:')}")


class BadSetting(BadInput):
    """A setting with a value of the wrong type, or out of its range."""


class BadPlan(BadInput):
    """A plan that is not readable TOML or lacks something."""


class NotACheckpoint(BadInput):
    """A folder or file from which no weights can be read."""


class Quantised(NotACheckpoint):
    """A folder or file whose weights are codes, not numbers."""


class UnwritableOutput(BadInput):
    """A place that was named for output and cannot be written."""


class Inapplicable(BadInput):
    """A checkpoint that an attack is not for, such as one of other shapes than the base: its cell is skipped."""


class ThreatModelViolation(RedteamError):
    """A plugin asked its view for something that the threat model does not grant."""


class IllegalGauge(RedteamError):
    """A change of basis that would change the network's function."""


class NotEnoughMemory(RedteamError):
    """A computation that takes more memory than the run was given: it is skipped, and computed once there is more.

    Attributes:
        total: Bytes with which the run could compute it.
    """

    def __init__(self, sentence: str, *, total: int) -> None:
        super().__init__(sentence)
        self.total = total


class PluginFault(RedteamError):
    """A plugin returned something that is no usable checkpoint (not finite, wrong shapes, wrong type)."""
