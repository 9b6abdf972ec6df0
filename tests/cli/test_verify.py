"""`redteam verify`: an untouched run agrees, and an edit of a row, a figure, a plan or a record is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redteam.evaluation import recompute, steps
from redteam.evaluation import verify as verifying
from redteam.evaluation.load_scenarios import Loaded
from redteam.evaluation.results import Results
from redteam.evaluation.verify import Verification
from tests.evaluation.conftest import Toys

KEPT = Path(__file__).resolve().parents[2] / "reports" / "reference" / "published.json.gz"
Shell = Callable[..., Any]
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy scenario in which one attack fails and another is not for such a lock."""
    toys, home = Toys(), tmp_path_factory.mktemp("verify")
    plan = toys.plan(("rotation",), ("procrustes", "shape-restore", toys.named("raises")), controls="needed")
    toys.run(plan, home / "run")
    return home / "run"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edited(file: Path, edit: Edit) -> None:
    values = json.loads(file.read_text())
    edit(values)
    file.write_text(json.dumps(values))


def found(told: Any) -> dict[str, Any]:
    assert told.code in (0, 1), told.err
    read = json.loads(told.out)
    assert Verification.model_validate(read).agrees == (told.code == 0)
    return {check["name"]: check for check in read["checks"]}


def test_an_untouched_run_agrees_and_stays_untouched(shell: Shell, finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    told = shell("verify", str(finished), "--workers", "0", "--sample", "6", "--json")
    checks = found(told)
    assert {name: check["state"] for name, check in checks.items()} == dict.fromkeys(
        ("rows", "engine", "words", "plan", "records", "sample"), "agrees"
    ), told.out
    assert checks["sample"]["told"].startswith("6 of ")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    assert any(line.startswith("[") for line in told.err.splitlines()), "it says how far it is"


def _everywhere(results: dict[str, Any]) -> None:
    """A lie that is consistent: the worst case, its seeds, and the verdict all say the same."""
    for row in (*results["figures"], *results["verdicts"]):
        for name in ("theft", "counted"):
            if row.get(name) and (row.get("choice") == "worst" or "verdict" in row):
                row[name]["mean"] = row[name]["low"] = 0.999
        for seed in row.get("per_seed", ()) if row.get("choice") == "worst" else ():
            seed["theft"] = seed["counted"] = 0.999


def _row_from_nowhere(results: dict[str, Any]) -> None:
    row = next(row for row in results["cells"] if row["status"] == "ok")
    results["cells"].append({**row, "attack": "unheard-of"})
    for count in ("planned", "judged"):
        results["coverage"][count] += 1


def _another_engine(results: dict[str, Any]) -> None:
    """As if nothing could be computed anew here."""
    results["environment"]["engine"] = "0" * 64
    results["cells"][3]["scores"]["theft"] = 0.123


RESULTS: dict[str, tuple[Edit, str, str]] = {
    "a word": (lambda r: r["verdicts"][0].update(verdict="HOLDS-SO-FAR"), "rows", "HOLDS-SO-FAR in the results"),
    "a figure of an attack": (
        lambda r: r["cells"][3]["scores"].update(theft=0.123),
        "records",
        "scores.theft is 0.123",
    ),
    "a figure, consistently": (_everywhere, "records", "0.999 in the results"),
    "a control": (lambda r: r["controls"][-1].update(value=0.5), "records", "value is 0.5"),
    "a cell gone": (lambda r: r["cells"].pop(), "rows", "planned is"),
    "what a scenario is": (lambda r: r["grounds"][0].update(digest="0" * 64), "plan", "the digest of toy seed 0"),
    "the plan": (lambda r: r["plan"].update(keys=2), "plan", "the plan's keys"),
    "a gate": (
        lambda r: r.update(gate={"expression": "theft>=1", "outcome": "held"}),
        "plan",
        "the plan's gate is theft>=1 in the results, and nothing follows",
    ),
    "no counts": (lambda r: r.update(coverage=None), "records", "coverage is nothing in the results"),
    "a claim": (lambda r: r["claims"].update(rotation="safe"), "records", "claims.rotation is safe"),
    "settings": (lambda r: r["settings"]["attack"].clear(), "records", "settings.attack"),
    "what a flag means": (
        lambda r: next(iter(r["flags"].values())).update(means="nothing to see here"),
        "words",
        "means is nothing to see here in the results",
    ),
    "a threat model": (
        lambda r: r["threats"].update({"weights-only": "The attacker has all there is."}),
        "words",
        "weights-only is The attacker has all there is. in the results",
    ),
    "no threat models": (lambda r: r.update(threats={}), "words", "weights-only is nothing in the results"),
    "a row from nowhere": (_row_from_nowhere, "records", "the row is there in the results, and no such row follows"),
    "an engine, and a figure": (_another_engine, "records", "scores.theft is 0.123"),
}


@pytest.mark.parametrize("what", RESULTS)
def test_an_edit_of_the_results_is_found(shell: Shell, copy: Path, what: str) -> None:
    edit, name, sentence = RESULTS[what]
    edited(copy / "results.json", edit)
    told = shell("verify", str(copy), "--workers", "0", "--sample", "0")
    assert told.code == 1
    lines = told.out.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"disagrees    {name}"))
    assert any(sentence in line for line in lines[start:])


PLANS: dict[str, tuple[Edit, str]] = {
    "no plan": (lambda p: p.update(plan=None), "no plan that can be read"),
    "a limit": (
        lambda p: p["thresholds"].update(stolen=0.9),
        "the limit stolen is 0.5 in the results, and 0.9 follows",
    ),
}


@pytest.mark.parametrize("what", PLANS)
def test_an_edit_of_what_was_announced_is_found(shell: Shell, copy: Path, what: str) -> None:
    edit, sentence = PLANS[what]
    edited(copy / "plan.json", edit)
    shutil.rmtree(copy / "cells")
    told = shell("verify", str(copy), "--workers", "0")
    assert told.code == 1
    assert sentence in told.out


def test_a_plan_that_is_nested_without_end_is_no_plan(shell: Shell, copy: Path) -> None:
    (copy / "plan.json").write_text("[" * 100_000)
    shutil.rmtree(copy / "cells")
    told = shell("verify", str(copy), "--workers", "0")
    assert (told.code, told.err) == (1, "")
    assert "no plan that can be read" in told.out


def test_what_ran_out_of_time_and_comes_out_here_shows_nothing_wrong(shell: Shell, copy: Path) -> None:
    def slow(results: dict[str, Any]) -> None:
        row = next(r for r in results["cells"] if (r["attack"], r["defense"]) == ("procrustes", "rotation"))
        row.update(status="timeout", reason="ended after 1 s", scores={}, tasks={}, cost={})
        results["coverage"]["judged"] -= 1
        results["coverage"]["timeouts"] += 1

    edited(copy / "results.json", slow)
    sentence = "procrustes on rotation failed in the run and comes out here"
    told = shell("verify", str(copy), "--workers", "0", "--sample", "0")
    assert (told.code, sentence in told.out) == (1, False), "its record is there"
    for file in (copy / "cells").glob("*.json"):
        if json.loads(file.read_text())["label"].startswith("merge with procrustes on rotation"):
            file.unlink()
    told = shell("verify", str(copy), "--workers", "0", "--sample", "0")
    assert (told.code, sentence in told.out) == (0, True), told.out


def test_rows_in_another_order_are_the_same_rows(shell: Shell, copy: Path) -> None:
    def turned(results: dict[str, Any]) -> None:
        for table in ("cells", "figures", "subjects", "grounds"):
            results[table].reverse()

    edited(copy / "results.json", turned)
    told = shell("verify", str(copy), "--workers", "0", "--sample", "0")
    assert told.code == 0, told.out


def test_the_last_digit_of_a_sum_is_no_disagreement_and_the_tenth_is(shell: Shell, copy: Path) -> None:
    for moved, code in ((1e-15, 0), (1e-10, 1)):

        def nudged(results: dict[str, Any], moved: float = moved) -> None:
            figure = next(f for f in results["figures"] if f["seen"] is not None)
            figure["seen"] += moved

        edited(copy / "results.json", nudged)
        told = shell("verify", str(copy), "--workers", "0", "--sample", "0")
        assert told.code == code, told.out


def test_a_record_that_was_edited_is_found_by_sum_and_by_sample(shell: Shell, copy: Path) -> None:
    labels = {json.loads(file.read_text())["label"]: file for file in (copy / "cells").glob("*.json")}
    record = next(file for label, file in labels.items() if label.startswith("attack procrustes on rotation ("))
    edited(record, lambda held: held["result"].update(residual=0.25, digest="0" * 64))
    count = len(list((copy / "cells").glob("*.json")))
    checks = found(shell("verify", str(copy), "--workers", "0", "--sample", str(count), "--json"))
    assert checks["records"]["state"] == "disagrees"
    assert [one["field"] for one in checks["sample"]["found"]] == ["digest", "residual"]


def test_an_attack_that_is_only_said_not_to_apply_is_found(shell: Shell, copy: Path) -> None:
    for file in (copy / "cells").glob("*.json"):
        label = json.loads(file.read_text())["label"]
        if "procrustes on rotation (" in label and label.startswith(("attack", "merge")):
            file.unlink()
            if label.startswith("attack"):
                said = copy / "shared" / f"{file.stem}-inapplicable.json"
                said.write_text(json.dumps({"text": "It is not for such a lock."}))
    forged = Toys().run(Results.read(copy).plan, copy).results
    (cell,) = (c for c in forged.cells if (c.attack, c.defense, c.key) == ("procrustes", "rotation", 0))
    assert (cell.status, cell.reason) == ("skipped", "It is not for such a lock.")
    told = shell("verify", str(copy), "--workers", "0", "--sample", "0")
    assert "procrustes on rotation failed in the run and comes out here" in told.out
    assert "not checked: records." in told.out


def test_a_record_that_is_gone_or_cut_is_said_and_shows_nothing_wrong(shell: Shell, copy: Path) -> None:
    record = next(f for f in sorted((copy / "cells").glob("*.json")) if json.loads(f.read_text())["kind"] == "merge")
    record.write_text(record.read_text()[:40])
    told = shell("verify", str(copy), "--workers", "0")
    assert told.code == 0, told.out
    assert "not checked  records   there is no record of" in told.out
    assert "not checked: records." in told.out
    assert record.exists()


def test_another_engine_is_said_and_nothing_is_computed(
    shell: Shell, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (verifying, steps):
        monkeypatch.setattr(module, "engine_digest", lambda: "f" * 64)
    told = shell("verify", str(copy), "--workers", "0")
    assert told.code == 0
    assert "(here ffffffffffff), so that nothing can be computed anew here" in told.out
    assert "not checked: engine, words, records." in told.out


def test_a_scenario_that_is_not_to_be_had_here_shows_nothing_wrong(
    shell: Shell, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer, sentence in (
        ("the cable is out.", "cannot be loaded here (the cable is out)"),
        (Loaded("0" * 64, None), "gives other models or data here than in the run"),
    ):
        monkeypatch.setattr(recompute, "loaded", lambda *_, answer=answer, **__: answer)
        told = shell("verify", str(finished), "--workers", "0")
        assert told.code == 0, told.out
        assert sentence in told.out
        monkeypatch.setattr(recompute.Again, "summed", lambda *_, **__: [])
        told = shell("verify", str(finished), "--workers", "0")
        assert told.code == 0, told.out
        assert "not checked  sample    0 of " in told.out
        monkeypatch.undo()


def test_of_a_kept_file_rows_are_checked(shell: Shell) -> None:
    checks = found(shell("verify", str(KEPT), "--json"))
    assert checks["rows"]["state"] == "agrees"
    assert checks["records"]["state"] == "not checked"


def test_refusals_are_one_sentence(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "cut.json.gz").write_bytes(KEPT.read_bytes()[:1000])
    refused = {
        "nowhere": "name the folder of a finished run",
        "cut.json": "did you mean",
        "cut.json.gz": "no whole gzip file",
    }
    for path, sentence in refused.items():
        told = shell("verify", str(tmp_path / path))
        assert (told.code, told.out) == (2, "")
        assert sentence in told.err
