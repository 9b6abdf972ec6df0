"""mlflow as an observer: what it is told, by default and by a server, and that its failures cost a sentence."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from redteam.evaluation.plan import Plan
from redteam.evaluation.results import Gate, Results
from redteam.evaluation.run import run
from redteam.tracking import Mlflow, _shown
from redteam.tracking_record import NESTED, beginning, ending, tables

TOY = Path(__file__).parent / "evaluation" / "toy.py"
PLAN: dict[str, Any] = {"scenarios": [f"{TOY}@toy"], "defenses": ["rotation"], "attacks": ["procrustes"]}


@dataclass
class Logged:
    """What mlflow holds, read back with its own client."""

    uri: str
    run_id: str | None
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        with _quietly():
            from mlflow import MlflowClient

            self.client = MlflowClient(tracking_uri=self.uri)
            assert self.run_id is not None
            self.run = self.client.get_run(self.run_id)

    def runs(self, where: str) -> list[Any]:
        with _quietly():
            return list(self.client.search_runs([self.run.info.experiment_id], where, max_results=1000))

    def nested(self, run_id: str | None = None) -> list[Any]:
        return self.runs(f"tags.`mlflow.parentRunId` = '{run_id or self.run_id}'")

    def text(self, artefact: str, folder: Path) -> str:
        with _quietly():
            return Path(self.client.download_artifacts(self.run_id, artefact, str(folder))).read_text()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """mlflow's own deprecations are not ours."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, so that all others find their cells in a copy of it."""
    made = tmp_path_factory.mktemp("tracking") / "run"
    run(PLAN, out=made, workers=0)
    return made


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "run"))


@pytest.fixture(scope="module")
def local(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, Logged, Logged]:
    """Two runs of the same plan by default, the second with a report; nothing of ours is changed by them."""
    home = Path(shutil.copytree(folder, tmp_path_factory.mktemp("local") / "run"))
    report = home / "report.md"
    report.write_text("# A report\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        environment, modules = dict(os.environ), set(sys.modules)
        first = Mlflow(tell=pytest.fail)
        run(PLAN, out=home, workers=0, observer=first)
        with Mlflow(tell=pytest.fail) as second:
            results = run(PLAN, out=home, workers=0, observer=second, command="redteam run")
            second.conclude(results, [report])
        assert dict(os.environ) == environment
        assert not any(name.partition(".")[0] == "mlflow" for name in set(sys.modules) - modules)
    assert first.uri == f"sqlite:///{home / 'mlflow.db'}"
    return home, results, Logged(first.uri, first.run_id), Logged(second.uri, second.run_id)


class TestByDefault:
    def test_the_run_says_what_was_planned_and_found(self, local: tuple[Path, Results, Logged, Logged]) -> None:
        _, results, _, logged = local
        told = logged.run
        assert told.info.status == "FINISHED"
        assert told.info.run_name == "custom"
        assert told.data.params["defenses"] == "rotation"
        assert told.data.params["seeds"] == "0"
        assert told.data.params["time_limit"] == "300.0"
        assert told.data.tags["digest.thresholds"] == results.thresholds["digest"]
        assert told.data.tags["environment.torch"] == results.environment["torch"]
        assert results.grounds[0].digest in told.data.tags.values()
        assert told.data.tags["redteam.command"] == "redteam run"
        assert results.verdicts[0].reason in told.data.tags["mlflow.note.content"]
        assert told.data.metrics["cells"] == len(results.cells)
        assert told.data.metrics["verdicts.BROKEN"] == 1
        assert told.data.metrics["progress/done"] == told.data.metrics["progress/total"] > 0

    def test_verdicts_are_nested_and_figures_in_them(self, local: tuple[Path, Results, Logged, Logged]) -> None:
        _, results, _, logged = local
        (verdict,) = logged.nested()
        (found,) = results.verdicts
        assert found.theft is not None
        assert verdict.info.status == "FINISHED"
        assert verdict.data.tags["redteam.verdict"] == "BROKEN"
        assert verdict.data.params["attack"] == "procrustes"
        assert verdict.data.metrics["theft.low"] == found.theft.low
        assert verdict.data.metrics["fidelity.float32"] == found.fidelity["float32"].mean
        figures = {run.data.params["attack"]: run for run in logged.nested(verdict.info.run_id)}
        assert set(figures) == {figure.attack for figure in results.figures}
        (cell,) = (cell for cell in results.cells if cell.attack == "procrustes")
        metrics = figures["procrustes"].data.metrics
        for name in ("theft", "protection", "residual"):
            assert metrics[f"cells/{name}"] == cell.scores[name]
        assert metrics["cells/seconds"] == cell.cost["seconds"]
        assert metrics["labels"] == 0

    def test_every_cell_is_in_a_table(self, local: tuple[Path, Results, Logged, Logged], tmp_path: Path) -> None:
        _, results, _, logged = local
        table = json.loads(logged.text("cells.json", tmp_path))
        assert len(table["data"]) == len(results.cells)
        assert table["columns"] == list(results.to_frame().columns)
        thefts = [row[table["columns"].index("theft")] for row in table["data"]]
        assert thefts == pytest.approx([cell.scores["theft"] for cell in results.cells], abs=1e-9)

    def test_results_and_reports_are_artefacts(
        self, local: tuple[Path, Results, Logged, Logged], tmp_path: Path
    ) -> None:
        home, _, first, second = local
        assert second.text("results.json", tmp_path) == (home / "results.json").read_text()
        assert second.text("report.md", tmp_path) == "# A report\n"
        assert not any(file.path == "report.md" for file in first.client.list_artifacts(first.run_id))
        assert not list(home.glob(".mlflow*")), "nothing is left behind"

    def test_the_same_plan_again_is_another_run_of_the_same_digest(
        self, local: tuple[Path, Results, Logged, Logged]
    ) -> None:
        _, _, first, second = local
        digest = first.run.data.tags["digest.plan"]
        same = first.runs(f"tags.`digest.plan` = '{digest}'")
        assert {run.info.run_id for run in same} == {first.run_id, second.run_id}


@pytest.mark.slow
def test_the_status_says_how_it_ended(local: tuple[Path, Results, Logged, Logged], folder: Path) -> None:
    home, results, logged, _ = local
    gate = Gate(expression="theft>=0.5", outcome="failed")
    doubtful = results.model_copy(update={"verdicts": ()})
    observers = [Mlflow(logged.uri, tell=pytest.fail) for _ in range(3)]
    failed, interrupted, orphan = observers
    for observer in observers:
        observer.started(Plan(), home)
    with failed:
        failed.finished(results)
        failed.conclude(doubtful.model_copy(update={"gate": gate}), [])
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert interrupted._listen(30.0)
        interrupted.finished(None)
    assert orphan._listen(30.0)
    orphan._leave(30.0)  # as if our process were gone: nothing but the end of its orders
    ended = [logged.client.get_run(one.run_id).info.status for one in observers]
    assert ended == ["FAILED", "KILLED", "KILLED"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `mlflow server` on loopback, which surely ends."""
    home, port = tmp_path_factory.mktemp("server"), _free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", str(home / "files")]
    off = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=home, stdout=log, stderr=log, env={**os.environ, **off}, start_new_session=True
        )
    try:
        _await(f"http://127.0.0.1:{port}/health", process, home / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_server_is_told_the_same(server: str, copy: Path, tmp_path: Path) -> None:
    observer = Mlflow(server, experiment="locks", tell=pytest.fail)
    results = run(PLAN, out=copy, workers=0, observer=observer)
    logged = Logged(server, observer.run_id)
    assert logged.run.info.status == "FINISHED"
    assert logged.client.get_experiment(logged.run.info.experiment_id).name == "locks"
    assert logged.text("results.json", tmp_path) == (copy / "results.json").read_text()
    (verdict,) = logged.nested()
    assert results.verdicts[0].theft is not None
    assert verdict.data.metrics["theft"] == results.verdicts[0].theft.mean
    assert len(logged.nested(verdict.info.run_id)) == len(results.figures)
    assert not (copy / "mlflow.db").exists()


class TestFailures:
    """One sentence, a few seconds, the same results."""

    @pytest.fixture
    def failing(self, copy: Path, folder: Path) -> Callable[..., str]:
        def watched(uri: str, **options: Any) -> str:
            told: list[str] = []
            started = time.perf_counter()
            run(PLAN, out=copy, workers=0)
            alone = time.perf_counter() - started
            started = time.perf_counter()
            results = run(PLAN, out=copy, workers=0, observer=Mlflow(uri, tell=told.append, **options))
            assert time.perf_counter() - started - alone < 20, "by default it would be minutes"
            assert results.model_dump_json() == Results.read(folder).model_dump_json()
            (sentence,) = told
            assert sentence.startswith("Warning: mlflow at ")
            assert sentence.endswith("; the run goes on without it.")
            return sentence

        return watched

    def test_a_dead_server(self, failing: Callable[..., str]) -> None:
        assert "refused" in failing(f"http://127.0.0.1:{_free_port()}")

    def test_a_server_that_never_answers(self, failing: Callable[..., str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
            assert "it did not answer" in failing(uri, patience=2.0)

    @pytest.mark.slow
    def test_a_server_that_refuses(self, failing: Callable[..., str]) -> None:
        class Refuses(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(403, "not you")

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None: ...

        with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as refusing:
            threading.Thread(target=refusing.serve_forever, daemon=True).start()
            assert "403" in failing(f"http://127.0.0.1:{refusing.server_port}")
            refusing.shutdown()

    @pytest.mark.slow
    def test_an_address_that_means_nothing(self, failing: Callable[..., str]) -> None:
        sentence = failing("nonsense://me:secret@host/db")
        assert "secret" not in sentence

    def test_it_can_be_off(self, copy: Path) -> None:
        observer = Mlflow("http://127.0.0.1:9", on=False, tell=pytest.fail)
        run(PLAN, out=copy, workers=0, observer=observer)
        assert observer.run_id is None


def test_passwords_are_not_shown() -> None:
    assert _shown("postgresql://me:secret@host/db") == "postgresql://…@host/db"
    assert _shown("http://host:5000/a@b") == "http://host:5000/a@b"


class TestRecord:
    def test_a_big_plan_nests_the_verdicts_and_what_steals_most(self, folder: Path) -> None:
        big = _big(Results.read(folder))
        assert len(big.cells) == 3000
        started = time.perf_counter()
        record, whole = ending(big), tables(big)
        assert time.perf_counter() - started < 10
        figures = [figure for verdict in record.children for figure in verdict.children]
        assert len(record.children) == 30
        assert len(record.children) + len(figures) == NESTED
        thefts = [{k: v for k, v, _ in one.metrics}.get("theft", 0.0) for one in figures]
        left = sorted((f.theft.mean for f in big.figures if f.theft), reverse=True)
        assert sorted(thefts, reverse=True) == pytest.approx(left[: len(figures)])
        assert len(whole["cells.json"]["data"]) == 3000
        assert len(figures[0].metrics) > 10 * 10, "every cell of a figure is a step"

    def test_names_and_values_are_such_as_mlflow_takes(self, folder: Path) -> None:
        plan = Plan.of({**PLAN, "attacks": [f"graft:drift={i / 1000}" for i in range(1, 700)]})
        about = beginning(plan)
        assert len(about.params["attacks"]) == 6000
        assert about.params["attacks"].endswith("…")
        found = ending(Results.read(folder))
        names = {name for one in (found, *found.children) for name in (*one.tags, *(m[0] for m in one.metrics))}
        assert not any(set(name) & set("@()%\n") for name in names)

    def test_the_digest_is_the_plans(self) -> None:
        def digest(**plan: Any) -> str:
            return beginning(Plan.of(plan)).tags["digest.plan"]

        assert digest(seeds=2) == digest(seeds=2, name="other") != digest(seeds=3)


def _big(small: Results) -> Results:
    """30 defenses × 10 attacks × 10 cells."""
    cell, figure, verdict = (getattr(small, kind)[-1] for kind in ("cells", "figures", "verdicts"))
    theft = small.verdicts[0].theft
    assert theft is not None
    cells, figures, verdicts = [], [], []
    for d in range(30):
        verdicts.append(verdict.model_copy(update={"defense": f"d{d}"}))
        for a in range(10):
            where = {"defense": f"d{d}", "attack": f"a{a}"}
            stolen = type(theft)((d * 10 + a) / 300, 0.0, 1.0, 5, "seeds")
            figures.append(figure.model_copy(update={**where, "theft": stolen, "counted": stolen, "status": "ok"}))
            cells += [cell.model_copy(update={**where, "seed": s, "key": k}) for s in range(5) for k in range(2)]
    return small.model_copy(update={"cells": tuple(cells), "figures": tuple(figures), "verdicts": tuple(verdicts)})


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _await(address: str, process: subprocess.Popen[Any], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-2000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2):
            return
        time.sleep(0.1)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
