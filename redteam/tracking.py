"""A finished run, written to mlflow: figures for whoever keeps their experiments there, never the store of anything."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redteam.errors import BadInput
from redteam.evaluation.frames import TABLES, flat
from redteam.evaluation.results import Results
from redteam.evaluation.rows import Model
from redteam.extras import require_extra
from redteam.terminal import say

if TYPE_CHECKING:
    from mlflow import MlflowClient

NESTED = 100
"""The most runs that are nested in one: all verdicts first, then the figures that steal most."""

_ENVIRONMENT = {
    # A dead server costs minutes by default.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    # No request goes anywhere but to the tracking server.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
"""What is set for mlflow while it writes, unless the user has set it."""

_PARAM, _TAG = 6000, 8000  # how long a value may be
_BATCH = 100  # how many parameters mlflow takes at once; of metrics it takes more


def export_mlflow(results: Results, uri: str | None = None, *, folder: Path = Path()) -> str:
    """Writes a run's results to mlflow: the plan as parameters, environment and digests as tags, verdicts nested.

    Below each verdict is one run per figure, with the scores of its cells as steps. `results.json` and a table of each
    kind of row are artefacts. The run is FINISHED if the exit code is 0, else FAILED. Whatever goes wrong is said in
    one sentence and raises nothing.

    Args:
        results: What the run found.
        uri: Tracking server or database; by default `MLFLOW_TRACKING_URI`, else SQLite, `mlflow.db` in the folder.
        folder: The run's folder.

    Returns:
        The id of the mlflow run, empty if it could not be written.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder.absolute() / 'mlflow.db').as_posix()}"
    try:
        require_extra("mlflow", "export_mlflow")
        with _quiet():
            from mlflow import MlflowClient

            run_id = _written(MlflowClient(tracking_uri=uri), results, folder.absolute(), uri)
    except Exception as error:
        text = _shown(" ".join(str(error).split())[:200])
        told = text.rstrip(".") if isinstance(error, BadInput) else f"{type(error).__name__}: {text}"
        say(f"The run was not written to mlflow at {_shown(uri)} ({told}); its results are kept.")
        return ""
    say(f"mlflow: run {run_id} at {_shown(uri)}")
    return run_id


def _written(client: MlflowClient, results: Results, folder: Path, uri: str) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "redteam"
    found = client.get_experiment_by_name(name)
    artefacts = (folder / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
    experiment = found.experiment_id if found else client.create_experiment(name, artifact_location=artefacts)
    run_id = _run(client, experiment, str(results.plan.get("name", "run")), _tags(results), _plan(results))
    _metrics(client, run_id, [(key, count, 0) for key, count in _counts(results).items()])
    where = {
        verdict.place: _row(client, experiment, verdict, str(verdict.place), run_id) for verdict in results.verdicts
    }
    best = sorted(results.figures, key=lambda one: -1.0 if one.counted is None else one.counted.mean, reverse=True)
    for figure in best[: max(0, NESTED - len(where))]:
        if figure.place not in where:
            continue
        label = f"{figure.attack} with {figure.merger} ({figure.choice})"
        nested = _row(client, experiment, figure, label, where[figure.place])
        cells = [
            cell
            for cell in results.cells
            if (cell.place, cell.attack, cell.merger) == (figure.place, figure.attack, figure.merger)
        ]
        cells.sort(key=lambda cell: (cell.seed, cell.key))
        steps = [
            (f"cells/{key}", value, step)
            for step, cell in enumerate(cells)
            for key, value in _numbers(flat(cell)).items()
        ]
        _metrics(client, nested, steps)
    client.log_text(run_id, results.model_dump_json(indent=1, by_alias=True), "results.json")
    for table in TABLES:
        if len(frame := results.to_frame(table)):
            client.log_text(run_id, frame.to_json(orient="split", index=False), f"{table}.json")
    client.set_terminated(run_id, "FINISHED" if results.exit_code == 0 else "FAILED")
    return run_id


def _run(
    client: MlflowClient,
    experiment: str,
    name: str,
    tags: Mapping[str, Any],
    params: Mapping[str, Any],
    parent: str = "",
) -> str:
    about = {**tags, "mlflow.source.name": "redteam", **({"mlflow.parentRunId": parent} if parent else {})}
    run = client.create_run(experiment, run_name=name, tags=_texts(about, _TAG))
    from mlflow.entities import Param

    given = [Param(key, value) for key, value in _texts(params, _PARAM).items()]
    for start in range(0, len(given), _BATCH):
        client.log_batch(run.info.run_id, params=given[start : start + _BATCH])
    return str(run.info.run_id)


def _row(client: MlflowClient, experiment: str, row: Model, name: str, parent: str) -> str:
    """A nested run of a row: its numbers are metrics, its texts parameters."""
    values = flat(row)
    texts = {key: value for key, value in values.items() if isinstance(value, str) and value}
    tags = {"redteam.level": type(row).__name__.lower(), "mlflow.note.content": values.get("reason", "")}
    run_id = _run(client, experiment, name, tags, texts, parent)
    _metrics(client, run_id, [(key, value, 0) for key, value in _numbers(values).items()])
    client.set_terminated(run_id)
    return run_id


def _metrics(client: MlflowClient, run_id: str, values: Sequence[tuple[str, float, int]]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    made = [Metric(_key(key), value, now, step) for key, value, step in values]
    for start in range(0, len(made), _BATCH):
        client.log_batch(run_id, metrics=made[start : start + _BATCH])


def _plan(results: Results) -> dict[str, Any]:
    plan = {key: value for key, value in results.plan.items() if key not in ("name", "also") or value}
    return {
        key: ", ".join(map(str, value)) if isinstance(value, list) and key != "also" else value
        for key, value in plan.items()
        if key != "name"
    }


def _tags(results: Results) -> dict[str, Any]:
    plan = {key: value for key, value in results.plan.items() if key != "name"}
    tags: dict[str, Any] = {"redteam.level": "evaluation", "redteam.command": results.command}
    tags["digest.plan"] = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    tags["digest.thresholds"] = results.thresholds.get("digest", "")
    tags |= {f"digest.{ground.scenario} seed {ground.seed}": ground.digest for ground in results.grounds}
    tags |= {f"environment.{name}": value for name, value in results.environment.items()}
    tags["redteam.exit_code"] = results.exit_code
    tags["mlflow.note.content"] = "\n".join(
        f"- **{one.verdict}** {one.place}: {one.reason}" for one in results.verdicts
    )
    return tags


def _counts(results: Results) -> dict[str, int]:
    failed = sum(not control.passed for control in results.controls)
    counts = {"cells": len(results.cells), "controls": len(results.controls), "controls.failed": failed}
    return counts | {f"verdicts.{word}": count for word, count in Counter(v.verdict for v in results.verdicts).items()}


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if isinstance(value, (int, float))}


def _texts(values: Mapping[str, Any], length: int) -> dict[str, str]:
    """As mlflow takes them: cut where they are too long."""
    return {_key(k): text if len(text := str(v)) <= length else f"{text[: length - 1]}…" for k, v in values.items()}


def _key(name: str) -> str:
    """A name of the characters that mlflow allows."""
    return re.sub(r"[^\w./ :-]", "_", name, flags=re.ASCII)[-250:]


def _shown(uri: str) -> str:
    """The address without a password."""
    return re.sub(r"//[^/@]*@", "//", uri)


@contextmanager
def _quiet() -> Iterator[None]:
    """With short timeouts and no telemetry, all put back afterwards; mlflow's own deprecations are not ours."""
    import logging

    unset = [name for name in _ENVIRONMENT if name not in os.environ]
    os.environ.update({name: _ENVIRONMENT[name] for name in unset})
    levels = {logger: logger.level for logger in map(logging.getLogger, ("mlflow", "alembic", "urllib3"))}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        for name in unset:
            os.environ.pop(name, None)
