"""Writes to mlflow in a process of its own, which reads orders as lines of JSON and answers on standard output.

A process, because mlflow reads its limits from the environment, retries for minutes, warns, configures logging and
installs hooks: none of that may reach the evaluation, and what hangs can be killed. Whatever ends the evaluation ends
the orders too, and then the mlflow run is marked as killed.

Orders: `{"start": {…}}`, `{"progress": [done, total]}`, `{"finish": FILE}` with a `redteam.tracking_record.Record`.
Answers: `{"started": RUN}`, `{"failed": REASON}`, `{"done": true}`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_BATCH = 100  # mlflow takes 1000 metrics, and 100 parameters or tags, in one request
_METRICS = 1000


class Writer:
    """One mlflow run, with what is nested in it."""

    def __init__(
        self, uri: str, experiment: str, artifacts: str | None, name: str, params: dict[str, str], tags: dict[str, str]
    ) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = self._experiment(experiment, artifacts)
        self.run = self._create(name, tags)
        self._log(self.run, params=params)

    def progress(self, done: int, total: int) -> None:
        """How many computations of how many are there."""
        self._log(self.run, metrics=[("progress/done", done, done), ("progress/total", total, done)])

    def finish(self, record: dict[str, Any], deadline: float) -> None:
        """Everything that was found; what is nested is left out from the deadline on."""
        self._log(self.run, metrics=record["metrics"], tags=record["tags"])
        for file in record["files"]:
            self.client.log_artifact(self.run, file)
        for name, table in record["tables"].items():
            self._table(name, table)
        written, total = self._nest(self.run, record["children"], deadline), _count(record["children"])
        if written < total:
            told = f"{written} of {total}, for lack of time; the tables hold everything"
            self._log(self.run, tags={"redteam.nested": told})
        self.client.set_terminated(self.run, record["status"])

    def killed(self) -> None:
        """The evaluation is gone."""
        self.client.set_terminated(self.run, "KILLED")

    def _experiment(self, name: str, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name, artifact_location=artifacts))

    def _create(self, name: str, tags: dict[str, str]) -> str:
        return str(self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id)

    def _nest(self, parent: str, children: Sequence[dict[str, Any]], deadline: float) -> int:
        written = 0
        for child in children:
            if time.monotonic() > deadline:
                break
            run = self._create(child["name"], {**child["tags"], "mlflow.parentRunId": parent})
            self._log(run, metrics=child["metrics"], params=child["params"])
            written += 1 + self._nest(run, child["children"], deadline)
            self.client.set_terminated(run)
        return written

    def _log(
        self,
        run: str,
        metrics: Sequence[Sequence[Any]] = (),
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        for part in _parts([Metric(key, value, now, step) for key, value, step in metrics], _METRICS):
            self.client.log_batch(run, metrics=part)
        for part in _parts([Param(key, value) for key, value in (params or {}).items()], _BATCH):
            self.client.log_batch(run, params=part)
        for part in _parts([RunTag(key, value) for key, value in (tags or {}).items()], _BATCH):
            self.client.log_batch(run, tags=part)

    def _table(self, name: str, table: dict[str, Any]) -> None:
        import pandas as pd

        self.client.log_table(self.run, pd.DataFrame(table["data"], columns=table["columns"]), name)


def main() -> None:
    """Obeys until told to finish, or until nobody is there to tell."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what mlflow prints is no answer

    def answer(**said: Any) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    writer: Writer | None = None
    try:
        for line in sys.stdin:
            ((order, given),) = json.loads(line).items()
            if order == "start":
                writer = Writer(**given)
                answer(started=writer.run)
            elif order == "progress" and writer is not None:
                writer.progress(*given)
            elif order == "finish" and writer is not None:
                record = json.loads(Path(given).read_text(encoding="utf-8"))
                writer.finish(record, time.monotonic() + record["seconds"])
                answer(done=True)
                return
        if writer is not None:
            writer.killed()
    except Exception as error:
        answer(failed=_innermost(error))


def _innermost(error: BaseException) -> str:
    """What went wrong first: mlflow wraps a refused connection four times over."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _count(children: Sequence[dict[str, Any]]) -> int:
    return sum(1 + _count(child["children"]) for child in children)


if __name__ == "__main__":
    main()
