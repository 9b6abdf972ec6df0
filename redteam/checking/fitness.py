"""A scenario looked at from all sides, a line each: what its own plugin knows of its files, then what holds of any."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from redteam.checking import cost, data, models, skill
from redteam.checking.trial import tried
from redteam.errors import RedteamError
from redteam.evaluation.load_scenarios import try_out
from redteam.evaluation.plan import Plan, find_plan
from redteam.plugins.reference import Reference
from redteam.plugins.registry import MERGERS, SCENARIOS
from redteam.plugins.remarks import Remark
from redteam.plugins.shipped import DEFAULT_PLAN
from redteam.tasks import Scenario


def looked_at(reference: str, *, workers: int, tell: Callable[[str], None] = lambda _: None) -> Iterator[Remark]:
    """Everything that can be said of a scenario before a run, what is quickest first.

    Ends behind the first part in which something is wrong that the next one rests on.

    Args:
        reference: The scenario, as it is written on the shell.
        workers: Processes that would compute.
        tell: Told what comes next, where that takes a while.

    Raises:
        RedteamError: If the scenario's file cannot be read, or something that it names is not there.
    """
    plugin = SCENARIOS.load(reference)
    if plugin.spec.check is not None:
        said = []
        for remark in plugin.spec.check(**plugin.settings):
            said.append(remark)
            yield remark
        if any(remark.state == "WRONG" for remark in said):
            return
    tell("Reading models and data")
    try:
        scenario: Scenario = plugin()
        try_out(scenario)
    except RedteamError as error:
        yield Remark("WRONG", "data", str(error).rstrip("."))
        return
    broken = False
    for look in (models.weights, models.descent, data.splits):
        for remark in look(scenario):
            broken = broken or remark.state == "WRONG"
            yield remark
    if broken:
        return
    yield from _measured(scenario, reference, workers, tell)


def _measured(scenario: Scenario, reference: str, workers: int, tell: Callable[[str], None]) -> Iterator[Remark]:
    shipped, folder = find_plan(DEFAULT_PLAN)
    named = Reference.parse(reference)
    bare = Reference(named.name, {key: value for key, value in named.settings.items() if key != "seed"})
    asked = {"scenarios": [str(bare)], "seeds": [scenario.seed]}
    plan = shipped.changed(asked)
    tell("Merging and scoring a few items")
    small = Plan.of({**asked, "mergers": _mergers(plan)})
    found = tried(scenario, small, folder)
    yield from skill.accuracies(found)
    task = scenario.tasks[scenario.victim]
    yield from skill.gain(found, len(next(iter(task.inputs_of("test").values()))))
    yield from cost.costs(scenario, found, plan, folder, workers=workers)


def _mergers(plan: Plan) -> list[str]:
    """The plan's, and the others that are installed."""
    named = {text.partition(":")[0] for text in plan.mergers}
    return [*plan.mergers, *(name for name in MERGERS.names if name not in named)]
