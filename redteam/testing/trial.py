"""One call of a plugin, with everything that was noticed of it."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from redteam.checkpoint import Checkpoint, in_memory, not_finite
from redteam.checkpoint.sources import Memory
from redteam.errors import RedteamError, ThreatModelViolation
from redteam.evaluation import metrics
from redteam.tasks import Scenario, Task
from redteam.testing.outcome import DoesNotApply, Fails
from redteam.testing.surroundings import watched


class _Exposed(Memory):
    """Tensors that are handed out themselves, not as copies, so that whoever writes into them is noticed."""

    def load(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def exposed(checkpoint: Checkpoint) -> Checkpoint:
    """A copy of a checkpoint that a plugin can write into."""
    return Checkpoint(_Exposed({name: tensor.clone() for name, tensor in checkpoint.items()}), checkpoint.config)


def _bits(given: Checkpoint | Task) -> str:
    """The digest as it is now; a checkpoint keeps its own, since nobody is to write into it."""
    return Checkpoint.of(given, given.config).digest() if isinstance(given, Checkpoint) else given.digest()


@dataclass(frozen=True)
class Trial:
    """What came of one call.

    Attributes:
        returned: What the plugin returned, a lazy overlay computed; `None` if it raised.
        error: What it raised.
        changed: Which global state it left changed, in words.
        written: Which of its inputs it wrote into, in words.
        labels: How many labelled samples of the victim's task it was handed.
    """

    returned: Any
    error: Exception | None
    changed: tuple[str, ...]
    written: tuple[str, ...]
    labels: int = 0

    @classmethod
    def of(cls, call: Callable[[], Any], inputs: Mapping[str, Checkpoint | Task]) -> Trial:
        """Calls a plugin.

        Args:
            call: Calls it on its view.
            inputs: What it was given, by what reasons call it; checkpoints are `exposed`.
        """
        before = {what: _bits(given) for what, given in inputs.items()}
        returned, error = None, None
        with watched() as watch:
            try:
                returned = in_memory(call())
            except (Exception, SystemExit) as raised:
                error = raised if isinstance(raised, Exception) else RuntimeError(f"SystemExit: {raised}")
        written = tuple(what for what, given in inputs.items() if _bits(given) != before[what])
        labels = max((getattr(given, "drawn", 0) for given in inputs.values()), default=0)
        return cls(returned, error, watch.changed, written, labels)

    @property
    def checkpoint(self) -> Checkpoint:
        """What was returned, for checks that look at it.

        Raises:
            DoesNotApply: If the plugin raised or returned something else; other checks say so.
        """
        if self.error is not None:
            raise DoesNotApply(f"it raised {told(self.error)}")
        if not isinstance(self.returned, Checkpoint):
            raise DoesNotApply("it returned no checkpoint")
        return self.returned

    @cached_property
    def digest(self) -> str:
        """The bits of what was returned."""
        return self.returned.digest() if isinstance(self.returned, Scenario) else self.checkpoint.digest()

    def usable(self, like: Checkpoint) -> Checkpoint:
        """What was returned, if it has the names and shapes of `like` and every value is finite.

        Raises:
            DoesNotApply: If not; other checks say so.
        """
        checkpoint = self.checkpoint
        if set(checkpoint) != set(like) or any(checkpoint.shape(name) != like.shape(name) for name in like):
            raise DoesNotApply("it returned other names or shapes than it was given")
        return self.sound(checkpoint)

    def sound(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint, if every value is finite."""
        if bad := not_finite(checkpoint):
            raise DoesNotApply(f"{bad!r} is not finite")
        return checkpoint


def output_change(before: Checkpoint, after: Checkpoint, scenario: Scenario) -> float:
    """max |Δ outputs| ÷ max |outputs| in float64, infinite where an output is not finite.

    Raises:
        Fails: If what was returned builds no network.
    """
    try:
        found = metrics.change(before, after, scenario)
    except (RedteamError, RuntimeError) as error:  # transformers raises the latter where shapes don't fit the config
        raise Fails(f"what it returned builds no network: {told(error)}") from None
    return math.inf if found is None else found


def told(error: BaseException) -> str:
    """An error in one line: our own as they are, others with their type and where they were raised."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ThreatModelViolation):
        return f"ThreatModelViolation: {text}"
    if isinstance(error, RedteamError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"
