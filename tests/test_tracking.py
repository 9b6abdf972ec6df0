"""A run written to mlflow, read back with mlflow's own client; what goes wrong costs a sentence."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from redteam.evaluation.results import Results
from redteam.plugins.files import module_from
from redteam.tracking import export_mlflow

pytest.importorskip("mlflow")

pytestmark = pytest.mark.usefixtures("lasting_no_power_cut")


@pytest.fixture(scope="module")
def results() -> Results:
    """What the reports are tested on, cut down to what is written in seconds."""
    made: Results = module_from(Path(__file__).parent / "reports" / "conftest.py").make()
    first = made.verdicts[0].place
    figures = tuple(one for one in made.figures if one.place == first)[:3]
    cells = tuple(one for one in made.cells if one.place == first)
    assert figures
    assert cells
    return made.model_copy(update={"verdicts": made.verdicts[:2], "figures": figures, "cells": cells})


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=f"sqlite:///{(tmp_path / 'mlflow.db').as_posix()}")


def nested(client: Any, run_id: str) -> list[Any]:
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'"))


def test_everything_is_written_and_nested(client: Any, results: Results, tmp_path: Path) -> None:
    before = dict(os.environ)
    run_id = export_mlflow(results, folder=tmp_path)
    assert dict(os.environ) == before
    run = client.get_run(run_id)
    assert run.info.status == ("FINISHED" if results.exit_code == 0 else "FAILED")
    assert set(run.data.params) >= {key for key, value in results.plan.items() if value and key != "name"}
    assert run.data.tags["digest.thresholds"] == results.thresholds["digest"]
    assert len(run.data.tags["digest.plan"]) == 64
    assert run.data.metrics["cells"] == len(results.cells)
    verdicts = nested(client, run_id)
    assert {each.info.run_name for each in verdicts} == {str(one.place) for one in results.verdicts}
    first = next(each for each in verdicts if each.info.run_name == str(results.verdicts[0].place))
    assert first.data.params["verdict"] == results.verdicts[0].verdict
    figures = nested(client, first.info.run_id)
    assert len(figures) == len(results.figures)
    assert all(each.info.status == "FINISHED" for each in (*verdicts, *figures))
    told = Path(client.download_artifacts(run_id, "results.json", str(tmp_path))).read_text()
    assert Results.model_validate_json(told) == results
    table = json.loads(Path(client.download_artifacts(run_id, "verdicts.json", str(tmp_path))).read_text())
    assert len(table["data"]) == len(results.verdicts)


def test_an_address_counts_before_the_environment(
    client: Any, results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = results.model_copy(update={"figures": (), "cells": ()})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{(tmp_path / 'other.db').as_posix()}")
    assert export_mlflow(bare, f"sqlite:///{(tmp_path / 'mlflow.db').as_posix()}", folder=tmp_path)
    assert not (tmp_path / "other.db").exists()
    assert export_mlflow(bare, folder=tmp_path)
    assert (tmp_path / "other.db").exists()
    assert client.get_experiment_by_name("redteam") is not None


@pytest.mark.parametrize("uri", ["http://user:secret@127.0.0.1:9", "sqlite:////dev/null/all.db", "nonsense://x"])
def test_what_goes_wrong_costs_a_sentence(
    results: Results, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_mlflow(results, uri, folder=tmp_path) == ""
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("The run was not written")]
    assert len(said) == 1
    assert said[0].endswith("its results are kept.")
    assert "secret" not in said[0]


def test_without_mlflow_the_sentence_says_how_to_get_it(
    results: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert export_mlflow(results, "http://127.0.0.1:9", folder=tmp_path) == ""
    assert "needs mlflow, which is not installed; pip install 'merge-redteam[mlflow]'); its" in capsys.readouterr().err
