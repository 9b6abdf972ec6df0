"""A search for a defense from beginning to end: try, keep what no other beats, and write the plan that repeats it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from redteam.devices import CPU, require_device
from redteam.evaluation.digest import engine_digest, versions
from redteam.evaluation.plan import Plan, no_defense
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.run import alone_in
from redteam.evaluation.runner.pool import Pool
from redteam.evaluation.runner.store import Store
from redteam.events import Observer
from redteam.files import write_atomically
from redteam.plugins.shipped import default_merger, defaults
from redteam.search.defenders.results import Defenses, Trial, best, front
from redteam.search.defenders.trial import Trials
from redteam.search.objective import SPLIT, STREAM
from redteam.search.run import environment, plan_text, require_one_victim
from redteam.search.space import Space
from redteam.search.study import Goal, Study, default_storage, require_storage

_GOAL = Goal(
    Trial,
    {
        "theft, upper bound": "minimize",
        "fidelity, up to 1": "maximize",
        "the owner's price, to a power of two": "minimize",
    },
    lambda trial: trial.values,
)
_REMARK = (
    "What `redteam search --defend` found that nothing else beats, on the scoring data and on seeds not searched on."
)


@dataclass(frozen=True)
class AskedDefenses:
    """What to search in. Everything is written as `redteam run` takes it.

    Attributes:
        defenses: Defenses to choose from, all by default.
        without: Defenses to leave out.
        steps: The most defenses in a chain.
        attacks: What every defense faces, by default what the default plan's first entry names.
        trials: How many chains to try, those of earlier calls among them.
        seconds: After so many no further trial is begun.
        fidelity: The least that a defense should keep.
        seeds: On how many further seeds the plan repeats the front.
        storage, study: As of `redteam.search.run.Asked`.
        time_limit: Seconds after which a computation is ended; by default as in `redteam run`.
        device: As of a plan.
    """

    defenses: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    steps: int = 2
    attacks: tuple[str, ...] = field(default_factory=lambda: (str(defaults()["attacks"][0]),))
    scenario: str = field(default_factory=lambda: str(defaults()["scenarios"][0]))
    seed: int = 0
    merger: str = field(default_factory=default_merger)
    threat: str = "weights-only"
    trials: int = 40
    seconds: float | None = None
    fidelity: float = 0.95
    seeds: int = 5
    storage: str | None = None
    study: str = "redteam"
    time_limit: float | None = None
    device: str = CPU

    def plan(self, *defenses: str, name: str = "trial", seeds: tuple[int, ...] = ()) -> Plan:
        """The plan of some defenses beside the victim as it is, or of that alone."""
        return Plan.of(
            {
                "name": name,
                "scenarios": [self.scenario],
                "seeds": list(seeds or (self.seed,)),
                "defenses": list(defenses),
                "attacks": list(self.attacks),
                "mergers": [self.merger],
                "threats": [self.threat],
                "device": self.device,
                "time_limit": self.time_limit,
            },
            origin="The command line",
        )

    def trial(self, defense: str | None) -> Plan:
        """The plan of one trial; of the victim as it is without any."""
        return self.plan(defense if defense is not None else no_defense()[0])

    @property
    def others(self) -> tuple[int, ...]:
        """The seeds on which the front is repeated: none of them was searched on."""
        return tuple(islice((seed for seed in count() if seed != self.seed), self.seeds))


def search(
    asked: AskedDefenses,
    out: Path,
    *,
    observer: Observer,
    keep: Callable[[Defenses], None] = lambda _: None,
    workers: int = 1,
    command: str = "",
) -> Defenses:
    """Looks for defenses that no other beats. The same call again goes on where it stopped.

    Args:
        asked: What to search in.
        out: The folder for the study, `search.json`, `frontier.toml` and finished cells.
        observer: Told of every trial.
        keep: Given what was found at the end, and also where the search is interrupted.
        workers: Processes that compute; 0 for this one, without time limits.
        command: The command that repeats the search, for the report.

    Raises:
        RedteamError: If something that was named is wrong or cannot be used, or theft means nothing here.
    """
    require_device(asked.device)
    deadline = None if asked.seconds is None else time.monotonic() + asked.seconds
    resolved = Resolved.of(asked.trial(None), Path())
    threat = resolved.parts[0].threats[0]
    space = Space.of_defenses(threat, steps=asked.steps, only=asked.defenses, without=asked.without)
    require_one_victim(resolved)
    root = out / "tuning"
    Store(root)
    if asked.storage:
        require_storage(asked.storage)
    with alone_in(root), Pool(workers) if workers else nullcontext() as pool:
        tries = Trials(asked.trial, root, pool=pool, workers=workers, tell=observer.preparing)
        naive = Trial(number=-1, pipeline=no_defense()[0], **vars(tries.naive))
        study = Study(
            _GOAL,
            asked.storage or default_storage(out),
            asked.study,
            about=_about(asked, resolved, space, tries),
            space=space,
            seed=asked.seed,
            wanted=asked.trials,
            owner=str(out.resolve()),
        )

        def found() -> Defenses:
            made = _found(asked, resolved, space, study, naive, tries, command)
            return _kept(made, asked, out)

        try:
            line = tries.imitation.mean if tries.imitation is not None else None
            observer.defending(space, line, len(study.trials), asked.trials)
            for proposal in study.proposals(deadline):
                begun = time.monotonic()
                tried = tries.measure(proposal.pipeline)
                trial = study.tell(proposal, {**vars(tried), "seconds": round(time.monotonic() - begun, 1)})
                trials = study.trials
                leads = best(trials, asked.fidelity)
                told = leads.short if leads is not None else ""
                observer.tried(trial.pipeline, trial.figures, told, len(trials), asked.trials)
        except KeyboardInterrupt:
            if study.trials:
                keep(found())
            raise
        else:
            made = found()
            keep(made)
            return made
        finally:
            study.close()
            tries.store.clear_work()


def _about(asked: AskedDefenses, resolved: Resolved, space: Space, tries: Trials) -> dict[str, Any]:
    """Everything on which a trial's figures depend: a study of anything else is not gone on with."""
    (part,) = resolved.parts
    code = {"attacks": [one.identity for one in part.everyone], "merger": [one.identity for one in part.merging]}
    about = {
        "kind of search": "defenses",
        "scenario": f"{part.scenarios[0].text} seed {asked.seed}, {tries.identity[:16]}",
        "set of attacks": ", ".join(asked.attacks),
        "merger": part.merging[0].text,
        "threat": part.threats[0].name,
        "device": asked.device,
        "space": space.plain(),
        "code": {**code, "engine": engine_digest()[:16], **versions()},
        "key": STREAM,
    }
    return dict(json.loads(json.dumps(about)))


def _found(
    asked: AskedDefenses,
    resolved: Resolved,
    space: Space,
    study: Study[Trial],
    naive: Trial,
    tries: Trials,
    command: str,
) -> Defenses:
    (part,), trials = resolved.parts, study.trials
    return Defenses(
        scenario=part.scenarios[0].text,
        seed=asked.seed,
        merger=part.merging[0].text,
        threat=part.threats[0].name,
        attacks=asked.attacks,
        split=SPLIT,
        wanted=asked.trials,
        fidelity=asked.fidelity,
        imitation=tries.imitation,
        naive=naive,
        space=json.loads(json.dumps(space.plain())),
        trials=trials,
        repeated=study.repeated,
        exhausted=study.exhausted,
        front=tuple(trial.number for trial in front(trials, naive)),
        seeds=asked.others,
        command=command,
        environment=environment(asked.device),
    )


def _kept(found: Defenses, asked: AskedDefenses, out: Path) -> Defenses:
    """Writes `search.json`, and the plan that repeats the front on the scoring data."""
    path = out / "frontier.toml"
    if found.front:
        defenses = (*no_defense()[:1], *(trial.pipeline for trial in found.on_front))
        text, flags = plan_text(asked.plan(*defenses, seeds=found.seeds), _REMARK)
        write_atomically(path, text)
        words = ["redteam", "run", str(path), *flags, "--out", str(out / "frontier")]
        found = found.model_copy(update={"repeat": shlex.join(words)})
    else:
        path.unlink(missing_ok=True)
    write_atomically(out / "search.json", found.model_dump_json(indent=1, by_alias=True) + "\n")
    return found
