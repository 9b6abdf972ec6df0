"""A finished run taken up again in a copy: everything summed anew from its records, and some of these computed anew."""

from __future__ import annotations

import json
import math
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redteam.devices import CPU, model_of, require_device
from redteam.errors import BadInput
from redteam.evaluation.bench import scenario_reference
from redteam.evaluation.design import Design
from redteam.evaluation.load_scenarios import Loaded, Where, known_scenarios, loaded
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.plan import Plan
from redteam.evaluation.preview import laid_out
from redteam.evaluation.rederive import Disagreement, said
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.results import Results
from redteam.evaluation.run import engine_of, results_of
from redteam.evaluation.runner.scheduler import INAPPLICABLE, Scheduler, behind
from redteam.evaluation.runner.store import Store
from redteam.evaluation.steps import Outcome, Step, plain
from redteam.evaluation.summarize import Summary
from redteam.events import Observer

if TYPE_CHECKING:
    from redteam.evaluation.runner.pool import Pool

TABLES: Mapping[str, tuple[str, ...]] = {
    "grounds": ("scenario", "seed", "merger"),
    "cells": ("scenario", "defense", "threat", "seed", "key", "attack", "role", "merger"),
    "subjects": ("scenario", "defense", "threat"),
    "figures": ("scenario", "defense", "threat", "choice", "attack", "role", "merger"),
    "controls": ("control", "scenario", "defense", "threat", "attack", "site", "group", "explanation"),
    "verdicts": ("scenario", "defense", "threat"),
    "over_victims": ("scenario", "defense", "threat"),
    "whole": ("scenario", "defense", "threat", "merger"),
    "beside": ("what", "scenario", "defense", "threat", "attack", "merger"),
    "by_merger": ("scenario", "defense", "threat", "merger"),
}
"""Table of `results.json` that is summed from records → what tells its rows apart."""
FACTS = (
    "thresholds", "about", "settings", "gauntlets", "merger_gauntlets", "claims", "coverage", "computed", "gate"
)  # fmt: skip
"""What else follows from plan and records. Sentences on what was not tested hang on what is installed besides."""
_FAILED = ("error", "timeout", "skipped")
_LAST = 1e-13  # what the order of a sum does to a figure
_TIMED = ("cost", "seconds", "stored_seconds", "inference", "megabytes")
"""Fields of records that depend on how long things took."""


@dataclass(frozen=True)
class Again:
    """A run that is laid out anew over copies of its records.

    Attributes:
        resolved: The plan of its results.
        identities: (scenario, seed) → digest, empty where this source of the scenario was not seen in the run.
        design: The plan laid out.
        store: The copy.
        held: Names of steps of the design of which there is a record.
        others: What the folder's other records are of: of other plans, or of plugins as they were.
    """

    resolved: Resolved
    identities: Mapping[Where, str]
    design: Design
    store: Store
    held: frozenset[str]
    others: frozenset[str]

    @classmethod
    @contextmanager
    def of(cls, results: Results, root: Path) -> Iterator[Again]:
        """Lays a run out; the copy is gone afterwards, and the run's own folder is only read.

        Raises:
            RedteamError: If a plugin of the plan is not to be found here.
        """
        resolved = Resolved.of(Plan.of(results.plan), Path())
        with tempfile.TemporaryDirectory(prefix="redteam-verify-") as folder:
            store = Store(Path(folder))
            # What is said not to apply is tried once more: no sample would find a line that takes an attack out.
            told = (file for file in (root / "shared").glob("*.json") if not file.stem.endswith(INAPPLICABLE))
            _copy(told, store.root / "shared")
            identities = known_scenarios(resolved, store)
            design, _ = laid_out(resolved, {w: found or f"{w[0]} seed {w[1]}" for w, found in identities.items()})
            files = {file.stem: file for file in (root / "cells").glob("*.json")}
            _copy((files[name] for name in design.steps if name in files), store.root / "cells")
            held = frozenset(name for name in design.steps if name in files and store.get(name) is not None)
            others = frozenset(_label(file) for name, file in files.items() if name not in design.steps)
            yield cls(resolved, identities, design, store, held, others)

    def lost(self, results: Results) -> list[str]:
        """Steps behind cells with a result of which there is no record under the names that they have here.

        A cell that the plan does not ask for here is among them where a record speaks of it: its plugin was another one
        then. Where none does, it is a row without a source, which `summed` finds.
        """
        pairings = {_cell_of(pairing): pairing for pairing in self._pairings()}
        found: dict[str, None] = {}
        for cell in results.cells:
            if cell.status == "ok":
                pairing = pairings.get(_told_apart(cell, "cells"))
                names = () if pairing is None else tuple(pairing.steps)
                found.update((self.design.steps[name].label, None) for name in names if name not in self.held)
                if pairing is None and any(f"{cell.attack} on {cell.defense} " in label for label in self.others):
                    found[f"{cell.attack} on {cell.defense} with {cell.merger}, which the plan does not ask for"] = None
        return list(found)

    def summed(self, results: Results, *, pool: Pool | None, workers: int, observer: Observer) -> list[Disagreement]:
        """Whatever of the results is not what the records come to; steps that failed are computed once more.

        Raises:
            BadInput: If there are such steps, and their scenario is not to be had here, or one comes out here that ran
                out of time or memory in the run, so that other rows follow.
        """
        engine = engine_of(
            self.resolved, self.design, self.store, self.identities, pool=pool, workers=workers, observer=observer
        )
        engine.run()
        anew = [name for name in engine.scheduler.steps if name not in self.held]
        for reason in self.missing_scenarios(anew, pool).values():
            raise BadInput(f"of steps that failed, which are tried once more: {reason}")
        summary = Summary(self.design, engine.table, engine.places)
        again = results_of(self.resolved, engine, summary, command="", duration=0.0)
        found: list[Disagreement] = []
        for table, keys in TABLES.items():
            rows = (_rows(getattr(one, table), keys, one.controls) for one in (results, again))
            found += _compared(table, *rows)
        mine, theirs = (json.loads(one.model_dump_json(include=set(FACTS))) for one in (results, again))
        found += _differences("the results", mine, theirs)
        if found and (came_out := self._came_out(results, again)):
            raise BadInput(
                f"{came_out[0]} failed in the run and comes out here, as steps do that ran out of time or memory on a "
                "busier or smaller machine, and other rows follow from that"
            )
        return found

    def _came_out(self, results: Results, again: Results) -> list[str]:
        """Pairings and controls that failed in the run, with no record of how, and come out here."""
        pairings = {_cell_of(pairing): pairing for pairing in self._pairings()}
        here = {_told_apart(cell, "cells"): cell.status for cell in again.cells}
        found = [
            f"{cell.attack} on {cell.defense}"
            for cell in results.cells
            if cell.status in _FAILED
            and here.get(key := _told_apart(cell, "cells")) == "ok"
            and not self.held.issuperset(pairings[key].steps)
        ]
        passed = {_told_apart(row, "controls")[:-1] for row in again.controls if row.status == "ok"}
        return found + [
            f"the control {' of '.join(filter(None, (row.control, row.attack)))}"
            for row in results.controls
            if row.status in ("error", "timeout") and _told_apart(row, "controls")[:-1] in passed
        ]

    def drawn(self, count: int, *, seed: int) -> list[str]:
        """Names of some steps of which there is a record, at random."""
        names = sorted(self.held)
        return random.Random(seed).sample(names, min(count, len(names)))

    def missing_scenarios(self, names: Iterable[str], pool: Pool | None) -> dict[str, str]:
        """Name of a step → why its scenario is not to be had here as the run had it; those of the others are."""
        references = {name: scenario_reference(self._step(name).how["scenario"], self._seed(name)) for name in names}
        answers: dict[str, Loaded | str] = {}
        for reference in dict.fromkeys(references.values()):
            if pool is None:
                answers[reference] = loaded(reference, sizes=False)
            else:
                pool.start(reference, loaded, reference, False, seconds=math.inf)
        while pool is not None and pool.jobs:
            answers |= {e.job: e.value if e.how == "done" else "its process died" for e in pool.wait()}
        found: dict[str, str] = {}
        for name, reference in references.items():
            answer = answers[reference]
            if other := self._other_device(name):
                found[name] = other
            elif isinstance(answer, str):
                found[name] = f"the scenario {reference} cannot be loaded here ({answer.rstrip('.')})"
            elif answer.digest != self._step(name).settings["scenario"]:
                found[name] = f"the scenario {reference} gives other models or data here than in the run"
        return found

    def _other_device(self, name: str) -> str:
        """Why a step cannot come out here as it did: it was computed on a GPU of which there is none here."""
        device = self._step(name).settings.get("device", CPU)
        try:
            require_device(device)
        except BadInput as error:
            return str(error)
        held, here = self.store.get(name), model_of(device)
        if held is not None and held.gpu != here:
            return f"it was computed on {held.gpu or 'another device'}, and here is {here}"
        return ""

    def sampled(
        self, drawn: Iterable[str], *, pool: Pool | None, observer: Observer
    ) -> tuple[list[Disagreement], list[str]]:
        """Computes steps anew, from the records and checkpoints before them.

        Returns:
            Where one came out otherwise, and why one could not be computed.
        """
        drawn = list(drawn)
        before = {name: _timeless(plain(self._step(name).kind, self._record(name))) for name in drawn}
        for name in drawn:
            (self.store.root / "cells" / f"{name}.json").unlink()
        for file in (self.store.root / "shared").glob("*.json"):  # merges of the same weights, but for lines of text
            if set(json.loads(file.read_text(encoding="utf-8"))) != {"text"}:
                file.unlink()
        ended: dict[str, Outcome] = {}

        def settled(step: Step, outcome: Outcome) -> None:
            ended[step.name] = outcome
            observer.settled(step.label, outcome.status, outcome.reason, len(ended), todo)

        scheduler = Scheduler(self.store, pool=pool, time_limit=self.resolved.plan.time_limit, settled=settled)
        todo = scheduler.add(behind(self.design.steps, drawn))
        observer.planned(todo, todo, 0, "")
        scheduler.run()
        found: list[Disagreement] = []
        failed: list[str] = []
        for name in drawn:
            step, outcome = self._step(name), scheduler.outcomes[name]
            what = f"the record of {step.label}"
            if outcome.status == "ok":
                found += _differences(what, before[name], _timeless(plain(step.kind, outcome.record)))
            elif outcome.status == "error":
                found.append(Disagreement(what=what, field="status", stored="ok", found=f"error ({outcome.reason})"))
            else:
                failed.append(f"{step.label}: {outcome.reason}")
        return found, failed

    def _seed(self, name: str) -> int:
        return int(self._step(name).settings["seed"])

    def _step(self, name: str) -> Step:
        return self.design.steps[name]

    def _record(self, name: str) -> Any:
        outcome = self.store.get(name)
        assert outcome is not None, "only such as are held are asked for"
        return outcome.record

    def _pairings(self) -> Iterator[Pairing]:
        for asked in self.design.asked.values():
            cases = chain.from_iterable(case.members for case in asked.cases)
            yield from dict.fromkeys((*asked.pairings, *asked.later, *asked.beside, *cases))


def _told_apart(row: Any, table: str) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in TABLES[table])


def _label(file: Path) -> str:
    """What a record says that it is of; nothing where it cannot be read."""
    try:
        return str(json.loads(file.read_bytes())["label"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _copy(files: Iterable[Path], folder: Path) -> None:
    for file in files:
        shutil.copyfile(file, folder / file.name)


def _cell_of(pairing: Pairing) -> tuple[Any, ...]:
    place = pairing.place
    where = (place.scenario, place.defense, place.threat, pairing.seed, pairing.key)
    return (*where, pairing.attack, pairing.role, pairing.merger)


def _rows(rows: Iterable[Any], keys: tuple[str, ...], controls: tuple[Any, ...]) -> dict[tuple[Any, ...], Any]:
    """Rows as JSON holds them, by what tells them apart; what a verdict rests on by its sentences, not by places."""
    found: dict[tuple[Any, ...], Any] = {}
    for row in rows:
        values = json.loads(row.model_dump_json())
        if "rests_on" in values:
            inside = [index for index in values["rests_on"] if index < len(controls)]
            values["rests_on"] = sorted(controls[index].explanation for index in inside)
        key = tuple(getattr(row, name) for name in keys)
        while key in found:
            key = (*key, "again")
        found[key] = values
    return found


def _compared(
    table: str, mine: Mapping[tuple[Any, ...], Any], theirs: Mapping[tuple[Any, ...], Any]
) -> Iterator[Disagreement]:
    for key in dict.fromkeys((*mine, *theirs)):
        what = f"{table}, {' '.join(str(part) for part in key if part != '')}"
        if key not in theirs:
            yield Disagreement(what=what, field="the row", stored="there", found="no such row")
        elif key not in mine:
            yield Disagreement(what=what, field="the row", stored="not there", found="such a row")
        else:
            yield from _differences(what, mine[key], theirs[key])


def _differences(what: str, mine: Any, theirs: Any, field: str = "") -> Iterator[Disagreement]:
    """The innermost values on which two rows differ."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in dict.fromkeys((*mine, *theirs)):
            yield from _differences(what, mine.get(key), theirs.get(key), f"{field}.{key}".lstrip("."))
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for index, pair in enumerate(zip(mine, theirs, strict=True)):
            yield from _differences(what, *pair, f"{field}[{index}]")
    elif mine != theirs and not _rounded_alike(mine, theirs):
        yield Disagreement(what=what, field=field or "it", stored=_short(mine), found=_short(theirs))


def _rounded_alike(mine: Any, theirs: Any) -> bool:
    """Whether two figures differ by no more than what the order of a sum does to its last digits."""
    figures = isinstance(mine, float) and isinstance(theirs, float)
    return figures and math.isclose(mine, theirs, rel_tol=_LAST, abs_tol=_LAST)


def _short(value: Any) -> str:
    text = said(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in _TIMED}
    return [_timeless(one) for one in value] if isinstance(value, (list, tuple)) else value
