"""A search from beginning to end: tune, choose, write down, and score the winner on data that it was not tuned on."""

from __future__ import annotations

import json
import platform
import shlex
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redteam.devices import CPU, model_of, require_device
from redteam.errors import BadInput
from redteam.evaluation.digest import engine_digest, versions
from redteam.evaluation.plan import Plan
from redteam.evaluation.resolve import Pipeline, Resolved
from redteam.evaluation.run import alone_in
from redteam.evaluation.run import run as evaluate
from redteam.evaluation.runner.pool import Pool
from redteam.evaluation.runner.store import Store
from redteam.events import Observer
from redteam.files import write_atomically
from redteam.plugins.reference import parse_chain
from redteam.plugins.registry import ATTACKS
from redteam.plugins.shipped import default_merger, defaults
from redteam.search.objective import SPLIT, STREAM, Objective
from redteam.search.results import Scored, SearchResults, Trial, bounded, front, winner
from redteam.search.space import Space
from redteam.search.study import Goal, Study, coarse, default_storage, require_storage

_TIME_LIMIT = 300.0  # of the plan that repeats the winner, unless the search was given more
_LEAST = 1e-3  # seconds


def _values(trial: Trial) -> tuple[float, float] | None:
    return None if trial.theft is None or trial.seconds is None else (trial.theft, coarse(trial.seconds, _LEAST))


_GOAL = Goal(Trial, {"theft": "maximize", "seconds, to a power of two": "minimize"}, _values)


@dataclass(frozen=True)
class Asked:
    """What to search for. Everything is written as `redteam run` takes it.

    Attributes:
        trials: How many pipelines to try, those of earlier calls among them.
        seconds: After so many no further trial is begun.
        steps: The most attacks in a pipeline.
        without: Attacks to leave out.
        attacks: Attacks to choose from, all by default.
        storage: An optuna storage URL; by default a file in the folder.
        study: The study's name in it.
        time_limit: Seconds after which a trial is ended.
        device: As of a plan.
    """

    defense: str
    scenario: str = field(default_factory=lambda: str(defaults()["scenarios"][0]))
    seed: int = 0
    merger: str = field(default_factory=default_merger)
    threat: str = "weights-only"
    trials: int = 40
    seconds: float | None = None
    steps: int = 3
    without: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    storage: str | None = None
    study: str = "redteam"
    time_limit: float = 30.0
    device: str = CPU

    def plan(self, attacks: tuple[str, ...] = ()) -> Plan:
        """The plan of one scenario, seed, defense, merger and threat model."""
        return Plan.of(
            {
                "name": "winner",
                "scenarios": [self.scenario],
                "seeds": [self.seed],
                "defenses": [self.defense],
                "attacks": list(attacks),
                "mergers": [self.merger],
                "threats": [self.threat],
                "device": self.device,
                "time_limit": max(_TIME_LIMIT, self.time_limit) if attacks else self.time_limit,
            },
            origin="The command line",
        )


def search(
    asked: Asked,
    out: Path,
    *,
    observer: Observer,
    workers: int = 1,
    cores: int = 1,
    command: str = "",
) -> SearchResults:
    """Looks for the strongest attacker. The same call again goes on where it stopped.

    Args:
        asked: What to search for.
        out: The folder for the study, `search.json`, `winner.toml` and finished cells.
        observer: Told of every trial, and of the run that scores the winner.
        workers: 1, or 0 to compute trials in this process, without time limits.
        cores: Processes for that run.
        command: The command that repeats the search, for the report.

    Raises:
        RedteamError: If something that was named is wrong or cannot be used, or theft means nothing here.
    """
    require_device(asked.device)
    deadline = None if asked.seconds is None else time.monotonic() + asked.seconds
    resolved = Resolved.of(asked.plan(), Path())
    require_one_victim(resolved)
    space = _space(asked, resolved)
    root = out / "tuning"
    Store(root)
    if asked.storage:
        require_storage(asked.storage)
    with alone_in(root), Pool(workers) if workers else nullcontext() as pool:
        objective = Objective(resolved, root, pool=pool, tell=observer.preparing)
        study = Study(
            _GOAL,
            asked.storage or default_storage(out),
            asked.study,
            about=_about(asked, resolved, space, objective),
            space=space,
            seed=asked.seed,
            wanted=asked.trials,
            owner=str(out.resolve()),
        )
        try:
            observer.searching(space, objective.naive, len(study.trials), asked.trials)
            for proposal in study.proposals(deadline):
                trial = study.tell(proposal, vars(objective.measure(proposal.pipeline)))
                trials = bounded(study.trials)
                best = winner(trials)
                leads = f"{best.figures}, {best.pipeline}" if best is not None else ""
                observer.tried(trial.pipeline, trial.figures, leads, len(trials), asked.trials)
            found = _found(asked, resolved, space, study, objective.naive, command)
        finally:
            study.close()
        objective.store.clear_work()
    found = _kept(found, asked, out)
    if found.best is not None:
        observer.scoring(found.best.pipeline)
        plan = asked.plan((found.best.pipeline,))
        results = evaluate(plan, out=out / "winner", workers=cores, observer=observer, folder=Path())
        found = found.model_copy(update={"scored": _scored(results, found.best.pipeline)})
        write_atomically(out / "search.json", found.model_dump_json(indent=1, by_alias=True) + "\n")
    return found


def require_one_victim(resolved: Resolved) -> None:
    """Raises BadInput if a plan takes several victims in turn."""
    for family, victims in resolved.families.items():
        raise BadInput(f"A search takes one victim, and {family} has several in turn; name one: victim={min(victims)}.")


def _space(asked: Asked, resolved: Resolved) -> Space:
    (part,) = resolved.parts
    (defense,), (threat,) = part.defenses, part.threats
    return Space.of(
        threat,
        keyed=defense.any(lambda spec: spec.keyed),
        defenses=[link.spec.name for link in defense.links],
        steps=asked.steps,
        only=asked.attacks,
        without=asked.without,
    )


def _about(asked: Asked, resolved: Resolved, space: Space, objective: Objective) -> dict[str, Any]:
    """Everything on which a trial's figures depend: a study of anything else is not gone on with."""
    (part,) = resolved.parts
    identities: Mapping[str, Any] = {"defense": part.defenses[0].identity, "merger": part.mergers[0].identity}
    about = {
        "scenario": f"{part.scenarios[0].text} seed {asked.seed}, {objective.identity[:16]}",
        "defense": part.defenses[0].text,
        "merger": part.mergers[0].text,
        "threat": part.threats[0].name,
        "device": asked.device,
        "space": space.plain(),
        "code": {**identities, "engine": engine_digest()[:16], **versions()},
        "key": STREAM,
    }
    return dict(json.loads(json.dumps(about)))


def _found(
    asked: Asked, resolved: Resolved, space: Space, study: Study[Trial], naive: float, command: str
) -> SearchResults:
    (part,), trials = resolved.parts, bounded(study.trials)
    best = winner(trials)
    return SearchResults(
        scenario=part.scenarios[0].text,
        seed=asked.seed,
        defense=part.defenses[0].text,
        merger=part.mergers[0].text,
        threat=part.threats[0].name,
        split=SPLIT,
        wanted=asked.trials,
        naive=naive,
        space=json.loads(json.dumps(space.plain())),
        trials=trials,
        repeated=study.repeated,
        exhausted=study.exhausted,
        front=tuple(trial.number for trial in front(trials)),
        winner=best.number if best else None,
        command=command,
        environment=environment(asked.device),
    )


def environment(device: str) -> dict[str, str]:
    """The versions, and the device, on which a search depends."""
    return {
        "redteam": version("merge-redteam"),
        "engine": engine_digest(),
        "python": platform.python_version(),
        "optuna": version("optuna"),
        **versions(),
        "device": device if device == CPU else f"{device} ({model_of(device)})",
    }


def _kept(found: SearchResults, asked: Asked, out: Path) -> SearchResults:
    """Writes `search.json`, and the plan that repeats the winner on the scoring data."""
    if found.best is not None:
        path = out / "winner.toml"
        text, flags = plan_text(asked.plan((found.best.pipeline,)))
        write_atomically(path, text)
        found = found.model_copy(update={"repeat": shlex.join(["redteam", "run", str(path), *flags])})
    write_atomically(out / "search.json", found.model_dump_json(indent=1, by_alias=True) + "\n")
    return found


def plan_text(
    plan: Plan, remark: str = "The strongest attacker that `redteam search` found, on the scoring data."
) -> tuple[str, list[str]]:
    """A plan as TOML, and what of it has to be named on the shell.

    A plan names no files outside its folder, so plugins in files are left to the command.

    Args:
        plan: One product.
        remark: Its first line.
    """
    lines, flags = [f"# {remark}"], list[str]()
    for kind in ("scenarios", "defenses", "attacks", "mergers"):
        values = getattr(plan, kind)
        if any(reference.file for text in values for reference in parse_chain(text)):
            for text in values:
                flags += [f"--{kind.removesuffix('s')}", text]
        else:
            lines.append(f"{kind} = {json.dumps(list(values), ensure_ascii=False)}")
    lines += [f"seeds = {list(plan.seeds)}", f"threats = {json.dumps(list(plan.threats))}"]
    if plan.device != CPU:
        lines.append(f"device = {json.dumps(plan.device)}")
    if plan.time_limit is not None:
        lines.append(f"time_limit = {plan.time_limit}")
    return "\n".join(lines) + "\n", flags


def _scored(results: Any, pipeline: str) -> Scored:
    text = Pipeline.load(ATTACKS, pipeline, Path()).text
    figure = next((one for one in results.figures if (one.choice, one.attack) == ("attack", text)), None)
    verdict = results.verdicts[0].verdict if results.verdicts else ""
    if figure is None:
        raise BadInput(f"The winner {pipeline} is not in the run that scores it.")
    if figure.theft is None:
        return Scored(verdict=verdict, reason=figure.reason or figure.status)
    return Scored(theft=figure.theft, seconds=figure.seconds, verdict=verdict)
