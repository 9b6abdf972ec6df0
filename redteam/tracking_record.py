"""What mlflow is told of a run: plain values, laid out as a run with other runs nested in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from redteam.evaluation.frames import TABLES, flat
from redteam.evaluation.plan import Plan
from redteam.evaluation.results import Cell, Figure, Results, Verdict

NESTED = 100
"""The most runs that are nested in one: all verdicts first, then the figures that steal most."""

_PARAM, _TAG = 6000, 8000  # how long a value may be

Metric = tuple[str, float, int]
"""Name, value, step."""


@dataclass(frozen=True)
class Record:
    """A run as mlflow knows it.

    Attributes:
        name: What the run is called.
        tags, params: Texts by name.
        metrics: Figures.
        children: Runs nested in it.
    """

    name: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    children: list[Record] = field(default_factory=list)


def beginning(plan: Plan) -> Record:
    """What is known before anything runs: the plan as parameters, and its digest, which the same plan always has."""
    values = plan.model_dump(mode="json", exclude={"name", "also"})
    params = {key: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for key, v in values.items()}
    if plan.also:
        params["also"] = json.dumps([product.model_dump(mode="json") for product in plan.also])
    digest = hashlib.sha256(plan.model_dump_json(exclude={"name"}).encode()).hexdigest()
    tags = {"redteam.level": "evaluation", "digest.plan": digest, "mlflow.source.name": "redteam"}
    return Record(plan.name, tags=_texts(tags, _TAG), params=_texts(params, _PARAM))


def ending(results: Results) -> Record:
    """What was found: environment and digests as tags, counts as metrics, verdicts and figures nested."""
    tags = {f"environment.{name}": value for name, value in results.environment.items() if name != "engine"}
    tags |= {"digest.engine": results.environment.get("engine"), "digest.thresholds": results.thresholds.get("digest")}
    tags |= {f"digest.{ground.scenario} seed {ground.seed}": ground.digest for ground in results.grounds}
    tags |= {
        "redteam.exit_code": results.exit_code,
        "redteam.command": results.command,
        "mlflow.note.content": note(results),
    }
    failed = sum(not control.passed for control in results.controls)
    counts = {"cells": len(results.cells), "controls": len(results.controls), "controls.failed": failed}
    counts |= {f"verdicts.{word}": count for word, count in Counter(v.verdict for v in results.verdicts).items()}
    metrics = [(name, float(count), 0) for name, count in counts.items()]
    return Record("", tags=_texts(tags, _TAG), metrics=metrics, children=_nested(results))


def note(results: Results) -> str:
    """The verdicts in Markdown, which mlflow shows as the run's description."""
    lines = [f"- **{v.verdict}** {v.defense} under {v.threat} ({v.scenario}): {v.reason}" for v in results.verdicts]
    return "\n".join([*lines, "", "Theft figures are lower bounds: a stronger attack can only raise them."])


def tables(results: Results) -> dict[str, Any]:
    """Every row of every table, so that nothing depends on what is nested: file → columns and rows."""
    frames = {name: results.to_frame(name) for name in TABLES}
    return {
        f"{name}.json": json.loads(frame.to_json(orient="split", index=False))
        for name, frame in frames.items()
        if len(frame)
    }


def _nested(results: Results) -> list[Record]:
    verdicts = {(v.scenario, v.defense, v.threat): v for v in results.verdicts[:NESTED]}
    best = sorted(results.figures, key=lambda f: -1.0 if f.counted is None else f.counted.mean, reverse=True)
    chosen = {id(figure) for figure in best[: NESTED - len(verdicts)]}
    cells: dict[tuple[str, ...], list[Cell]] = {}
    for cell in results.cells:
        cells.setdefault((cell.scenario, cell.defense, cell.threat, cell.attack, cell.merger), []).append(cell)
    children: dict[tuple[str, str, str], list[Record]] = {where: [] for where in verdicts}
    for figure in results.figures:
        where = (figure.scenario, figure.defense, figure.threat)
        if id(figure) in chosen and where in children:
            children[where].append(_figure(figure, cells.get((*where, figure.attack, figure.merger), [])))
    several = len({verdict.scenario for verdict in verdicts.values()}) > 1
    return [_verdict(verdict, children[where], several) for where, verdict in verdicts.items()]


def _verdict(verdict: Verdict, children: list[Record], several: bool) -> Record:
    name = f"{verdict.defense} under {verdict.threat}" + (f" on {verdict.scenario}" if several else "")
    tags = {"redteam.level": "verdict", "redteam.verdict": verdict.verdict, "mlflow.note.content": verdict.reason}
    return _row(name, tags, flat(verdict), children)


def _figure(figure: Figure, cells: Iterable[Cell]) -> Record:
    tags = {"redteam.level": "figure", "redteam.status": figure.status}
    made = _row(f"{figure.attack} on {figure.defense}, {figure.merger}", tags, flat(figure), [])
    for step, cell in enumerate(sorted(cells, key=lambda cell: (cell.seed, cell.key))):
        own = {"seed": cell.seed, "key": cell.key, **{k: v for k, v in flat(cell).items() if isinstance(v, float)}}
        made.metrics.extend((_key(f"cells/{name}"), float(value), step) for name, value in own.items())
    return made


def _row(name: str, tags: Mapping[str, Any], row: Mapping[str, Any], children: list[Record]) -> Record:
    """Numbers are metrics, texts parameters."""
    numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
    texts = {key: value for key, value in row.items() if isinstance(value, str) and value}
    metrics = [(_key(key), float(value), 0) for key, value in numbers.items()]
    return Record(name, _texts(tags, _TAG), _texts(texts, _PARAM), metrics, children)


def _texts(values: Mapping[str, Any], length: int) -> dict[str, str]:
    """As mlflow takes them: cut where they are too long, those that do not exist left out."""
    return {
        _key(k): text if len(text := str(v)) <= length else f"{text[: length - 1]}…"
        for k, v in values.items()
        if v is not None
    }


def _key(name: str) -> str:
    """A name of the characters that mlflow allows."""
    return re.sub(r"[^\w./ :-]", "_", name, flags=re.ASCII)[-250:]
