"""Scenarios made ready before anything is paired in them: several at a time, since each may have to be trained."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice

import torch

from redteam.checkpoint import not_finite
from redteam.errors import PluginFault, RedteamError
from redteam.evaluation.bench import load_scenario, scenario_digest, scenario_reference
from redteam.evaluation.footprint import Footprint
from redteam.evaluation.resolve import Pipeline, Resolved
from redteam.evaluation.runner.shards import Shard
from redteam.evaluation.runner.store import Store
from redteam.evaluation.runner.workers import Workers
from redteam.evaluation.steps import content_name
from redteam.tasks import Scenario

Where = tuple[str, int]

_LIVES = 3  # how often a scenario is loaded whose worker dies over it
_LOOK = 1.0  # seconds after which it is looked up what other shards have loaded


def known_scenarios(resolved: Resolved, store: Store) -> dict[Where, str]:
    """(scenario, seed) → digest, of those that this folder has seen; empty for the others.

    A scenario is a function of its settings alone. Whoever computes a step loads it, and refuses one that is not.
    """
    found = {where: store.text(_record(pipeline, where[1])) for where, pipeline in resolved.places.items()}
    return {where: digest or "" for where, digest in found.items()}


def footprints(resolved: Resolved, store: Store) -> dict[Where, Footprint]:
    """(scenario, seed) → its size, of those that this folder has seen."""
    texts = {where: store.text(_record(pipeline, where[1], "size")) for where, pipeline in resolved.places.items()}
    told = {where: json.loads(text) for where, text in texts.items() if text}
    known = {field.name for field in fields(Footprint)}
    return {where: Footprint(**size) for where, size in told.items() if set(size) == known}  # of this version


def load_scenarios(
    resolved: Resolved,
    store: Store,
    *,
    pool: Workers | None,
    tell: Callable[[str, int], None] = lambda *_: None,
    sizes: bool = True,
    shard: Shard | None = None,
) -> dict[Where, str]:
    """Loads every scenario under every seed, which trains what isn't there yet; not at all where all are known.

    Args:
        resolved: The plan.
        store: Remembers their digests.
        pool: Processes that load them; without one this process does.
        tell: Told of each before it starts.
        sizes: Whether to remember their sizes, too, for which the test items are counted.
        shard: Where other processes load some of them.

    Returns:
        (scenario, seed) → digest of its weights and data.

    Raises:
        RedteamError: With a scenario's own sentence, or one about how it failed.
    """
    while True:
        known = known_scenarios(resolved, store)
        measured = footprints(resolved, store) if sizes else known
        unknown = {w: pipeline for w, pipeline in resolved.places.items() if not known[w] or w not in measured}
        if not unknown:
            return known
        taken = _taken(unknown, shard)
        for where, one in _loaded(taken, pool, tell, sizes).items():
            if one.footprint is not None:
                store.put_text(_record(taken[where], where[1], "size"), json.dumps(asdict(one.footprint)))
            store.put_text(_record(taken[where], where[1]), one.digest)
        if shard is not None:
            for where, pipeline in taken.items():
                shard.give_back(_record(pipeline, where[1]))
            if not taken:
                time.sleep(_LOOK)


def _taken(unknown: Mapping[Where, Pipeline], shard: Shard | None) -> Mapping[Where, Pipeline]:
    """What is to be loaded here: of what nobody else is at, a shard's own, or the first."""
    if shard is None:
        return unknown
    names = {where: _record(pipeline, where[1]) for where, pipeline in unknown.items()}
    own = [where for where, name in names.items() if shard.mine(name) and shard.take(name)]
    taken = own or list(islice((where for where, name in names.items() if shard.take(name)), 1))
    return {where: unknown[where] for where in taken}


def _record(pipeline: Pipeline, seed: int, what: str = "scenario") -> str:
    return content_name(what, {"scenario": pipeline.identity, "state": pipeline.state, "seed": seed})


def _loaded(
    places: Mapping[Where, Pipeline], pool: Workers | None, tell: Callable[[str, int], None], sizes: bool
) -> dict[Where, Loaded]:
    references = {where: scenario_reference(pipeline.how[0], where[1]) for where, pipeline in places.items()}
    found: dict[Where, Loaded] = {}
    if pool is None:
        for where, reference in references.items():
            tell(*where)
            found[where] = _accepted(where, loaded(reference, sizes))
        return found
    by_job = {f"{name} seed {seed}": (name, seed) for name, seed in references}
    for job, where in by_job.items():
        tell(*where)
        pool.start(job, loaded, references[where], sizes, seconds=float("inf"))
    lives: Counter[str] = Counter()
    while pool.jobs:
        for ended in pool.wait():
            where = by_job[ended.job]
            lives[ended.job] += 1
            if ended.how == "died" and lives[ended.job] < _LIVES:
                pool.start(ended.job, loaded, references[where], sizes, seconds=float("inf"))
                continue
            # Where workers die over and over, this process loads it: whoever kills them has another aim.
            answer = ended.value if ended.how == "done" else loaded(references[where], sizes)
            found[where] = _accepted(where, answer)
    return found


@dataclass(frozen=True)
class Loaded:
    """What is known of a scenario that was tried on one batch.

    Attributes:
        digest: Of its weights and data.
        footprint: Its size, where it was asked for.
    """

    digest: str
    footprint: Footprint | None


def loaded(reference: str, sizes: bool = True) -> Loaded | str:
    """A scenario that was tried on one batch, or what went wrong."""
    try:
        scenario = load_scenario(reference)
        try_out(scenario)
        return Loaded(scenario_digest(reference), Footprint.of(scenario) if sizes else None)
    except RedteamError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def try_out(scenario: Scenario) -> None:
    """Runs one batch through every network, so that what can't work is said before anything is planned.

    Raises:
        PluginFault: With the clause of the contract that is not kept.
    """
    for whose, checkpoint in (
        ("the base", scenario.base),
        *((f"expert {n!r}", e) for n, e in scenario.experts.items()),
    ):
        if bad := not_finite(checkpoint):
            raise PluginFault(f"The tensor {bad!r} of {whose} holds NaN or infinity; expected finite weights")
    for name, task in scenario.tasks.items():
        if name not in scenario.experts:
            raise PluginFault(f"There is no expert for the task {name!r}; a scenario has one for each of its tasks")
        inputs = {key: value[:2] for key, value in task.inputs_of("validation").items()}
        for what, checkpoint in (("expert", scenario.experts[name]), ("base", scenario.dressed(scenario.base, name))):
            with torch.inference_mode():
                output = checkpoint.module()(**inputs)
            logits = getattr(output, "logits", None)
            if (
                not isinstance(logits, torch.Tensor)
                or logits.ndim < 2
                or len(logits) != len(next(iter(inputs.values())))
            ):
                found = "none" if logits is None else f"one of shape {list(getattr(logits, 'shape', ()))}"
                raise PluginFault(
                    f"The network of the {what} for the task {name!r} gives a {type(output).__name__}; expected an "
                    f"output with a tensor .logits [samples, classes] or [samples, tokens, vocabulary], found {found}"
                )


def _accepted(where: Where, answer: Loaded | str) -> Loaded:
    if isinstance(answer, str):
        raise PluginFault(f"The scenario {where[0]} failed under seed {where[1]} ({answer.rstrip('.')}).")
    return answer
