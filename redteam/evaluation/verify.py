"""Whether results can be believed: derived anew from rows, summed anew from records, computed anew in a sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from redteam.archive import PLAN, is_archive, read_archive
from redteam.errors import RedteamError
from redteam.evaluation.digest import engine_digest, versions
from redteam.evaluation.recompute import Again
from redteam.evaluation.rederive import Disagreement, disagreements, judged_alike, reworded, said
from redteam.evaluation.results import Results
from redteam.evaluation.rows import Model
from redteam.evaluation.runner.pool import Pool
from redteam.events import Observer
from redteam.terminal import disarmed_json

State = Literal["agrees", "disagrees", "not checked"]


class Check(Model):
    """One thing that was looked at.

    Attributes:
        name: `"rows"`, `"engine"`, `"words"`, `"plan"`, `"records"` or `"sample"`.
        told: What was looked at, or why nothing could be.
        found: What does not agree.
    """

    name: str
    state: State
    told: str
    found: tuple[Disagreement, ...] = ()


class Verification(Model):
    """What was verified of one run.

    Attributes:
        schema_: Raised when a field changes its meaning; `"schema"` in JSON.
        run: What was read, as it was named.
        checks: In the order in which they were made.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    run: str
    checks: tuple[Check, ...]

    @property
    def agrees(self) -> bool:
        """Whether nothing was found that does not agree; what could not be checked is no disagreement."""
        return all(check.state != "disagrees" for check in self.checks)


def verify(
    path: Path, *, sample: int = 5, seed: int = 0, workers: int = 2, observer: Observer | None = None
) -> Verification:
    """Verifies the results of a run; nothing is written to its folder.

    Args:
        path: The run's folder, an archive, of which rows and plan can be checked, or a results file, only its rows.
        sample: How many steps to compute anew; 0 for none.
        seed: Of the draw.
        workers: Processes; 0 computes in this one, without time limits.
        observer: Told how it goes on.

    Raises:
        BadInput: If there are no results.
    """
    results, root = Results.read(path), path.parent if path.name == "results.json" else path
    engine = _engine(results)
    checks = [_rows(results), engine, _words(results, engine)]
    if root.is_dir() or is_archive(root):
        checks.append(_plan(results, root))
    checks += _recomputed(results, root, engine, sample, seed, workers, observer or Observer())
    return Verification(run=str(path), checks=tuple(checks))


def _check(name: str, told: str, found: Iterable[Disagreement] = ()) -> Check:
    held = tuple(found)
    return Check(name=name, state="disagrees" if held else "agrees", told=told, found=held)


def _unchecked(name: str, why: str) -> Check:
    return Check(name=name, state="not checked", told=why)


def _rows(results: Results) -> Check:
    found = list(disagreements(results))
    if judged_alike(results):
        told = f"{len(results.verdicts)} verdicts and {len(results.figures)} figures, derived anew from rows"
    else:
        told = (
            f"{len(results.figures)} figures; the {len(results.verdicts)} verdicts were judged by another version's "
            "limits, and only that one decides them anew"
        )
    if not found and not judged_alike(results):
        return _unchecked("rows", told)
    return _check("rows", told, found)


def _engine(results: Results) -> Check:
    """Whether what computes cells is the same here; where it is not, nothing is wrong with the results."""
    here: dict[str, Any] = {"engine": engine_digest(), **versions()}
    other = {key: results.environment.get(key) for key in here if results.environment.get(key) != here[key]}
    if not other:
        return _check("engine", "the engine and the libraries are those that the results were made with")
    told = ", ".join(f"{key} {str(value)[:12]} (here {str(here[key])[:12]})" for key, value in other.items())
    return _unchecked("engine", f"the results were made with {told}, so that nothing can be computed anew here")


def _words(results: Results, engine: Check) -> Check:
    told = "what flags and threat models mean"
    if engine.state != "agrees":
        return _unchecked("words", f"{told} is said in another version's words")
    return _check("words", told, reworded(results))


def _plan(results: Results, root: Path) -> Check:
    """What was written down before any attack ran, against what the results say."""
    try:
        content = read_archive(root)[PLAN] if is_archive(root) else (root / PLAN).read_bytes()
        announced = _Announced.model_validate_json(disarmed_json(content.decode("utf-8")))
    except OSError:
        return _unchecked("plan", "there is no plan.json, which is written before any attack runs")
    except ValueError:
        found = Disagreement(what="plan.json", field="it", stored="there", found="no plan that can be read")
        return _check("plan", "plan.json, written before any attack ran", [found])
    return _check(
        "plan",
        "plan, limits and scenarios, as they were written down before any attack ran",
        _unlike(results, announced),
    )


class _Announced(Model):
    """What `plan.json` says, as far as results say the same."""

    plan: dict[str, Any]
    thresholds: dict[str, Any]
    thresholds_digest: str
    scenarios: dict[str, str]

    model_config = ConfigDict(extra="ignore")


def _unlike(results: Results, announced: _Announced) -> Iterator[Disagreement]:
    places = {f"{ground.scenario} seed {ground.seed}": ground.digest for ground in results.grounds}
    known = {where: announced.scenarios.get(where) for where in places}
    limits = {**announced.thresholds, "digest": announced.thresholds_digest}
    # What the plan asks of the gate; plans of older versions say nothing of it.
    gate, asked = results.gate.expression if results.gate else "", results.plan.get("fail_on")
    gates = ({}, {}) if asked is None else ({"gate": gate}, {"gate": " or ".join(asked)})
    compared: tuple[tuple[str, Mapping[str, Any], Mapping[str, Any]], ...] = (
        ("the plan's", results.plan, announced.plan),
        ("the plan's", *gates),
        ("the limit", results.thresholds, limits),
        ("the digest of", places, known),
    )
    for what, mine, theirs in compared:
        for key in dict.fromkeys((*mine, *theirs)):
            if mine.get(key) != theirs.get(key):
                stored, found = (said(one.get(key))[:60] for one in (mine, theirs))
                yield Disagreement(what="plan.json", field=f"{what} {key}", stored=stored, found=found)


def _recomputed(
    results: Results, root: Path, engine: Check, sample: int, seed: int, workers: int, observer: Observer
) -> Iterator[Check]:
    if not (root / "cells").is_dir():
        yield _unchecked("records", "there are no records of single steps, as a run's folder has them in cells/")
        return
    try:
        with Again.of(results, root) as again:
            if engine.state != "agrees" and (not again.held or again.lost(results)):
                told = "records have their names from the engine that computes them, which is another"
                yield _unchecked("records", told)
                return
            if unseen := [f"{name} seed {seed}" for (name, seed), found in again.identities.items() if not found]:
                told = f"the source of {', '.join(unseen[:3])} or its data are not what the run had"
                yield _unchecked("records", f"{told}, or its folder was tidied up")
                return
            if lost := again.lost(results):
                told = f"{lost[0]}{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}"
                yield _unchecked("records", f"there is no record of {told}: a plugin has changed, or records are gone")
                return
            with Pool(workers) if workers else nullcontext() as pool:
                found = again.summed(results, pool=pool, workers=workers, observer=observer)
                yield _check("records", f"every row summed anew from {len(again.held)} records", found)
                if sample:
                    yield _sampled(again, again.drawn(sample, seed=seed), pool, observer)
    except RedteamError as error:
        yield _unchecked("records", f"they cannot be summed here ({str(error).rstrip('.')})")


def _sampled(again: Again, drawn: list[str], pool: Pool | None, observer: Observer) -> Check:
    missing = again.missing_scenarios(drawn, pool)
    there = [name for name in drawn if name not in missing]
    found, failed = again.sampled(there, pool=pool, observer=observer) if there else ([], [])
    failed = [*dict.fromkeys(missing.values()), *failed]
    done = len(there) - (len(failed) - len(set(missing.values())))
    told = f"{done} of {len(again.held)} steps computed anew"
    if failed:
        told += f"; {len(drawn) - done} could not be: {failed[0].rstrip('.')}"
    return _unchecked("sample", told) if not done else _check("sample", told, found)
