"""Your own models: a TOML file names base, victim and companions, and for each task its labelled data.

`redteam run --scenario mine.toml`; `redteam new scenario FOLDER` writes such a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from redteam.plugins.contracts import scenario
from redteam.plugins.remarks import Remark
from redteam.plugins.settings import Range

if TYPE_CHECKING:
    from redteam.tasks import Scenario


def state(*, file: str, victim: str = "", seed: int = 0) -> str:
    """What changes whenever the file, or a model or table that it names, does."""
    from redteam_scenarios.folder.files import state_of
    from redteam_scenarios.folder.schema import Plan

    return state_of(Plan.read(Path(file)))


def victims(*, file: str, victim: str = "", seed: int = 0) -> tuple[str, ...]:
    """The tasks that are the victim in turn.

    Raises:
        BadInput: If the file cannot be used, or has no such task.
    """
    from redteam_scenarios.folder.schema import Plan

    return Plan.read(Path(file)).under(victim).turns


def check(*, file: str, victim: str = "", seed: int = 0) -> Iterator[Remark]:
    """What can be said of models and data before they are read as a whole."""
    from redteam_scenarios.folder.looking import remarks
    from redteam_scenarios.folder.schema import Plan

    return remarks(Plan.read(Path(file)).under(victim), seed)


def about(*, file: str, victim: str = "", seed: int = 0) -> Iterator[tuple[str, str]]:
    """What `redteam show` says of a file."""
    from redteam_scenarios.folder.schema import Plan
    from redteam_scenarios.folder.telling import told

    return told(Plan.read(Path(file)).under(victim))


def propose(folder: Path, file: Path, victim: str | None) -> str:
    """The text of a file for the models and data in a folder."""
    from redteam_scenarios.folder.proposing import propose as written

    return written(folder, file, victim)


@scenario("folder", state=state, check=check, about=about, propose=propose, victims=victims)
def folder(*, file: str, victim: str = "", seed: Annotated[int, Range(0, 2**31 - 1)] = 0) -> Scenario:
    """Opens the models that a file names, and reads its data.

    Args:
        file: A TOML file; paths in it start at its own folder.
        victim: The task whose expert is protected, in place of the one that the file names; `each` makes every task the
            victim in turn.
        seed: Which of the victims, where several of one recipe are listed; 0 where there is one.
    """
    from redteam_scenarios.folder.assembling import assemble
    from redteam_scenarios.folder.schema import Plan
    from redteam_scenarios.turns import EACH, required

    plan = Plan.read(Path(file)).under(victim)
    if plan.turns:
        required(EACH, plan.tasks, plan.name)
    return assemble(plan, seed, shared=bool(victim))
