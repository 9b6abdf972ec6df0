"""mlflow watches a run. It is never the store: where it fails, the run goes on and says so in one sentence."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from redteam.terminal import say

if TYPE_CHECKING:
    from redteam.evaluation.execute import Outcome
    from redteam.evaluation.graph import Graph
    from redteam.evaluation.nodes import Node
    from redteam.evaluation.plan import Plan
    from redteam.evaluation.results import Results
    from redteam.tracking_record import Record

_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT": "8",
}
"""What is set for mlflow unless the user has: by default a dead server costs it minutes."""

_PRIVATE = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
"""No request goes anywhere but to the tracking server: https://mlflow.org/docs/latest/community/usage-tracking."""

_CONNECTING = 30.0  # seconds that a run which is over still waits for mlflow to answer at all
_LEAVING = 5.0  # the same after an interruption
_OFTEN = 5.0  # seconds between two reports of progress, at least


class Mlflow:
    """An observer that logs a run to mlflow: `redteam.run(plan, observer=Mlflow())`.

    One mlflow run per call, with the plan as parameters and environment and digests as tags; nested in it one run per
    verdict, and in these one per figure, with the scores of every cell (at most 100; the tables `cells.json`,
    `figures.json`, `verdicts.json` and `controls.json` hold all). `results.json` and the reports are artefacts. It
    ends FINISHED if the exit code is 0, FAILED if not, KILLED if the run was interrupted or killed. The same plan
    again is another mlflow run with the same tag `digest.plan`.

    As a context manager it waits for `conclude`, so that reports can be added after the run.

    Args:
        uri: The tracking server or database; by default `MLFLOW_TRACKING_URI`, else SQLite, `mlflow.db` in the run's
            folder.
        experiment: By default `MLFLOW_EXPERIMENT_NAME`, else `redteam`.
        on: Whether to log at all.
        patience: Seconds that the end of a run waits for mlflow, at most.
        tell: Who gets the sentence if it fails.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        experiment: str | None = None,
        on: bool = True,
        patience: float = 60.0,
        tell: Callable[[str], None] = say,
    ) -> None:
        self.uri = self._wanted = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "redteam"
        self.on, self.patience, self.tell = on, patience, tell
        self.run_id: str | None = None
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._held = self._failed = False
        self._folder = Path()
        self._ended: tuple[Results | None, str, tuple[Path, ...]] | None = None
        self._cached: frozenset[str] = frozenset()
        self._done = self._total = 0
        self._began = self._told = 0.0

    def __enter__(self) -> Mlflow:
        self._held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False
        self._close()

    def started(self, plan: Plan, folder: Path) -> None:
        """Starts the process that writes, which imports mlflow and connects while the run goes on."""
        if not self.on:
            return
        from redteam.tracking_record import beginning

        self._folder, self._ended, self.run_id, self._failed = folder.absolute(), None, None, False
        self._began = self._told = time.monotonic()
        self.uri = self._wanted or f"sqlite:///{(self._folder / 'mlflow.db').as_posix()}"
        about = beginning(plan)
        self._start()
        self._order(
            "start",
            {
                "uri": self.uri,
                "experiment": self.experiment,
                "artifacts": _artifacts(self.uri),
                "name": about.name,
                "params": about.params,
                "tags": {**about.tags, "redteam.folder": str(self._folder)},
            },
        )

    def preparing(self, scenario: str, seed: int) -> None:
        """Nothing to log."""

    def planned(self, graph: Graph, cached: frozenset[str]) -> None:
        """Counts the computations."""
        self._cached, self._total, self._done = cached, len(graph.nodes), len(cached)
        self._order("progress", [self._done, self._total])

    def settled(self, node: Node, outcome: Outcome) -> None:
        """Logs progress now and then: rarely enough that a process which hangs never fills its pipe."""
        self._done += node.name not in self._cached
        now = time.monotonic()
        if now - self._told >= max(_OFTEN, (now - self._began) / 50):
            self._told = now
            self._order("progress", [self._done, self._total])
            self._listen(0.0)

    def finished(self, results: Results | None) -> None:
        """Logs what was found, at once or, in a `with` block, at its end."""
        lost = "FAILED" if isinstance(sys.exception(), Exception) else "KILLED"
        status = lost if results is None else "FAILED" if results.exit_code else "FINISHED"
        self._ended = (results, status, ())
        if not self._held:
            self._close()

    def conclude(self, results: Results, reports: Sequence[Path]) -> None:
        """Says what the results are after a gate has spoken, and which reports have been written."""
        self._ended = (results, "FAILED" if results.exit_code else "FINISHED", tuple(reports))

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", "redteam.tracking_writer"]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                env={**_LIMITS, **os.environ, **_PRIVATE},
                start_new_session=True,  # an interruption reaches us alone, and we tell
            )
        except OSError as error:
            self._fail(str(error))
            return
        self._answers = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True)
        reader.start()

    def _order(self, order: str, given: Any) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(json.dumps({order: given}) + "\n")
            self._process.stdin.flush()
        except OSError:
            self._listen(1.0)  # it may have said why

    def _listen(self, seconds: float) -> bool:
        """Takes what was answered within this time; whether the process still works."""
        end = time.monotonic() + seconds
        while self._process is not None:
            try:
                answer = self._answers.get(timeout=max(0.0, end - time.monotonic()) or 0.001)
            except queue.Empty:
                return True
            if answer is None or "failed" in answer:
                self._fail("its process ended" if answer is None else answer["failed"])
            elif "started" in answer:
                self.run_id = answer["started"]
                return True
            elif "done" in answer:
                self._leave()
        return False

    def _close(self) -> None:
        """Hands over what was found and waits until it is logged, or patience ends."""
        if self._process is None or self._ended is None:
            self._leave()
            return
        results, status, reports = self._ended
        record = None
        try:
            record = self._write(results, status, reports)
            self._order("finish", str(record))
            patience = self.patience if results is not None else min(_LEAVING, self.patience)
            end = time.monotonic() + patience
            if self.run_id is None:
                self._listen(min(_CONNECTING, patience))
            if self._process is not None and self.run_id is None:
                self._fail("it did not answer")
            if self._listen(end - time.monotonic()):
                self._fail(f"it was not done after {patience:g} s")
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            if record is not None:
                record.unlink(missing_ok=True)

    def _write(self, results: Results | None, status: str, reports: Sequence[Path]) -> Path:
        from redteam.tracking_record import Record, ending, tables

        record: Record = Record("") if results is None else ending(results)
        files = [] if results is None else [self._folder / "results.json", *reports]
        whole = {
            **asdict(record),
            "status": status,
            "files": [str(file.absolute()) for file in files if file.is_file()],
            "tables": {} if results is None else tables(results),
            "seconds": 0.75 * self.patience,
        }
        handle, name = tempfile.mkstemp(prefix=".mlflow.", suffix=".json", dir=self._folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(whole, file)
        return Path(name)

    def _fail(self, reason: str) -> None:
        """Says once that nothing more is logged."""
        self._leave(0.0)
        if not self._failed:
            self.tell(f"Warning: mlflow at {_shown(self.uri)} failed ({reason}); the run goes on without it.")
        self._failed = True

    def _leave(self, seconds: float = _LEAVING) -> None:
        """Ends the process: it has this long to do so itself, now that there are no more orders."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _read(lines: IO[str], answers: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    with lines:
        for line in lines:
            answers.put(json.loads(line))
    answers.put(None)


def _artifacts(uri: str) -> str | None:
    """Where artefacts go if mlflow is a file: beside it, and not where the user happens to stand."""
    _, found, path = uri.partition("sqlite:///")
    return (Path(path.partition("?")[0]).absolute().parent / "mlflow-artifacts").as_uri() if found and path else None


def _shown(uri: str) -> str:
    """Without the password that it may hold."""
    return re.sub(r"//[^/@]*@", "//…@", uri)
