"""A scenario looked at from all sides, a line each: what its own plugin knows of its files, then what holds of any."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from redteam.checking import cost, data, models, skill
from redteam.checking.trial import Trial, tried
from redteam.errors import RedteamError
from redteam.evaluation.gauntlet import Gauntlet, is_gauntlet
from redteam.evaluation.load_scenarios import try_out
from redteam.evaluation.plan import Plan, find_plan
from redteam.evaluation.resolve import in_turn
from redteam.plugins.reference import Reference
from redteam.plugins.registry import MERGERS, SCENARIOS
from redteam.plugins.remarks import Remark
from redteam.plugins.shipped import DEFAULT_PLAN, shipped, shipped_file
from redteam.tasks import Scenario

_FEW = 4  # mergers of a plan that does not compare mergers


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
        wrong = False
        for remark in plugin.spec.check(**plugin.settings):
            wrong = wrong or remark.state == "WRONG"
            yield remark
        if wrong:
            return
    tell("Reading models and data")
    by_victim = in_turn(plugin) or {"": Reference.parse(reference)}  # one victim alone needs no name
    try:
        scenarios: dict[str, Scenario] = {victim: SCENARIOS.load(one)() for victim, one in by_victim.items()}
        scenario = next(iter(scenarios.values()))
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
    tell("Merging and scoring a few items")
    shipped, folder = find_plan(DEFAULT_PLAN)
    asked = shipped.changed(_one(Reference.parse(reference), scenario.seed))
    found: dict[str, Trial] = {}
    said: list[tuple[str, Remark]] = []
    for victim, one in scenarios.items():
        small = Plan.of({**_one(by_victim[victim], one.seed), "mergers": _mergers(asked)})
        found[victim] = tried(one, small, folder)
        items = len(next(iter(one.tasks[one.victim].inputs_of("test").values())))
        said += [(victim, remark) for remark in skill.gain(found[victim], items)]
    first = next(iter(found.values()))
    yield from skill.accuracies(first)
    yield from of_victims(said)
    yield from cost.costs(scenario, first, asked, folder, workers=workers)


def of_victims(said: list[tuple[str, Remark]]) -> Iterator[Remark]:
    """Remarks on the victims in turn: one that adds too little is left out of the verdict, so that others may do."""
    without = {victim for victim, remark in said if (remark.about, remark.state) == ("gain", "WRONG")}
    some = without != {victim for victim, _ in said}
    for victim, remark in said:
        told = f"{victim} as the victim: {remark.told}" if victim else remark.told
        noted = some and remark.about == "gain" and remark.state == "WRONG"
        yield replace(remark, state="note" if noted else remark.state, told=told)


def _one(reference: Reference, seed: int) -> dict[str, Any]:
    bare = Reference(reference.name, {key: value for key, value in reference.settings.items() if key != "seed"})
    return {"scenarios": [str(bare)], "seeds": [seed]}


def _mergers(plan: Plan) -> list[str]:
    """The plan's, of a gauntlet the first, and others that verdicts count and shipped plans name among a few.

    Trying all that there are, as a plan does that compares mergers, would take minutes.
    """
    own = [Gauntlet.read(text).members[0] if is_gauntlet(text, "mergers") else text for text in plan.mergers]
    named = {text.partition(":")[0] for text in own}
    used: set[str] = set()
    for listed in shipped("plan"):
        given = tomllib.loads(shipped_file("plan", listed.name).read_text(encoding="utf-8"))
        for part in (given, *given.get("also", ())):
            mergers = part.get("mergers", ())
            used |= {Reference.parse(text).name for text in mergers if len(mergers) <= _FEW}
    others = MERGERS.names_where(lambda spec: not spec.whole)
    return [*own, *(name for name in others if name in used - named)]
