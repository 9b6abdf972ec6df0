"""What a run found: the contract for scripts, written to `results.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from redteam.errors import BadInput
from redteam.evaluation.statistics import Interval
from redteam.evaluation.store import write_atomically

Status = Literal["ok", "error", "timeout", "skipped"]


class Model(BaseModel):
    """Values that do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(Model):
    """One pairing under one seed and key."""

    scenario: str
    seed: int
    victim: str
    defense: str
    key: int
    threat: str
    attack: str
    role: str
    merger: str
    status: Status
    reason: str = ""
    scores: dict[str, Any] = Field(default_factory=dict)
    tasks: dict[str, float] = Field(default_factory=dict)
    cost: dict[str, float | None] = Field(default_factory=dict)


class Control(Model):
    """One check that the evaluation itself can be trusted."""

    control: Literal["gain", "trivial", "planted", "harmless", "floor", "ceiling", "weakened"]
    scenario: str
    defense: str = ""
    threat: str = ""
    attack: str = ""
    site: str = ""
    group: str = ""
    passed: bool
    status: Status = "ok"
    value: float | None = None
    limit: float
    explanation: str


class Oracle(Model):
    """The best attack on the scoring data, which no attacker can know: what HOLDS-SO-FAR must survive."""

    attack: str
    merger: str
    theft: Interval


class Verdict(Model):
    """What can be said of one defense under one threat model."""

    scenario: str
    defense: str
    threat: str
    verdict: str
    reason: str
    flags: tuple[str, ...]
    attack: str = ""
    merger: str = ""
    theft: Interval | None = None
    protection: Interval | None = None
    fidelity: dict[str, Interval] = Field(default_factory=dict)
    oracle: Oracle | None = None
    cost: dict[str, float | None] = Field(default_factory=dict)


class Ground(Model):
    """How the scenario behaves before any defense: what every score is measured against."""

    scenario: str
    seed: int
    merger: str
    digest: str
    settings: dict[str, Any]
    experts: dict[str, float]
    base: dict[str, float]
    without: dict[str, float]
    reference: dict[str, float]
    gain: float


class Results(Model):
    """Everything that the last plan found, and nothing else."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    plan: dict[str, Any]
    command: str
    environment: dict[str, Any]
    thresholds: dict[str, Any]
    grounds: tuple[Ground, ...]
    cells: tuple[Cell, ...]
    controls: tuple[Control, ...]
    verdicts: tuple[Verdict, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Reads `results.json` of a finished run.

        Raises:
            BadInput: If there is none, or it was written by a version that we cannot read.
        """
        path = folder / "results.json"
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"{path} cannot be read ({error.strerror}); name the folder of a finished run.") from None
        except ValueError:
            raise BadInput(f"{path} holds no results that this version reads; run the plan again.") from None

    def write(self, path: Path) -> None:
        """Writes the file that `read` reads, whole or not at all.

        Raises:
            UnwritableOutput: If it cannot be written.
        """
        write_atomically(path, self.model_dump_json(indent=1, by_alias=True) + "\n")

    @property
    def exit_code(self) -> int:
        """0 if everything could be evaluated, else 2."""
        doubtful = any(v.verdict in ("UNSCORABLE", "INVALID") for v in self.verdicts) or not self.verdicts
        statuses = {cell.status for cell in self.cells} | {control.status for control in self.controls}
        return 2 if doubtful or statuses & {"error", "timeout"} else 0
