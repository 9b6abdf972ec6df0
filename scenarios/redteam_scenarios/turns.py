"""Which task is the victim: the one that a setting names, or each of them in turn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from redteam.errors import BadSetting, hint

if TYPE_CHECKING:
    from redteam.tasks import Scenario

EACH = "each"
"""What stands for every task in turn."""


def turns(victim: str, tasks: Collection[str], scenario: str) -> tuple[str, ...]:
    """The tasks that are the victim in turn; none where one is named.

    Args:
        victim: A task, or `EACH`.
        tasks: Those that there are.
        scenario: What errors call it.

    Raises:
        BadSetting: If there is no such task.
    """
    if victim == EACH:
        return tuple(tasks)
    required(victim, tasks, scenario)
    return ()


def required(victim: str, tasks: Collection[str], scenario: str) -> str:
    """The victim.

    Raises:
        BadSetting: If it is none of the tasks, or stands for each of them.
    """
    if victim in tasks:
        return victim
    if victim == EACH:
        raise BadSetting(
            f"{scenario} with each task as the victim in turn is several scenarios; ask for one of them: "
            f"victim={next(iter(tasks))}."
        )
    near = hint(victim, [*tasks, EACH], "it has")
    raise BadSetting(f"{scenario} has no task {victim!r} that could be the victim; {near}")


def with_victim(scenario: Scenario, victim: str) -> Scenario:
    """The scenario with another victim, and with a sentence that says so.

    Raises:
        BadSetting: As `required`.
    """
    if required(victim, scenario.tasks, scenario.name) == scenario.victim:
        return scenario
    told = f" Here the victim is {victim}, and {scenario.victim} one of the companions."
    return replace(scenario, victim=victim, summary=scenario.summary + told)
