"""What is said of something that was looked at, a line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Remark:
    """A line.

    Attributes:
        state: `"ok"`; `"note"`: worth knowing; `"WRONG"`: a verdict on it would say nothing, or the run would end.
        about: What was looked at, in a word or two.
        told: What was found, without a full stop.
    """

    state: Literal["ok", "note", "WRONG"]
    about: str
    told: str

    @property
    def line(self) -> str:
        """As it is printed."""
        return f"{self.state:<5}  {self.about:<12}  {self.told}"
