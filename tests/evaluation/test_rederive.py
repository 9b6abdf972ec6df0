"""What follows from rows is derived anew: a kept report agrees with itself, and an edit anywhere is found."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redteam.errors import BadInput
from redteam.evaluation.rederive import disagreements, judged_alike
from redteam.evaluation.results import Gate, Results

KEPT = Path(__file__).resolve().parents[2] / "reports" / "reference" / "tables.json.gz"


@pytest.fixture(scope="module")
def kept() -> Results:
    return Results.read(KEPT)


def told(results: Results) -> list[str]:
    return [str(one) for one in disagreements(results)]


def edited(results: Results, table: str, place: int, **fields: Any) -> Results:
    rows = list(getattr(results, table))
    rows[place] = rows[place].model_copy(update=fields)
    return results.model_copy(update={table: tuple(rows)})


def test_a_kept_report_agrees_with_itself_in_any_order_of_its_figures(kept: Results) -> None:
    assert judged_alike(kept)
    assert told(kept) == []
    assert len(kept.verdicts) > 30
    turned = kept.model_copy(update={"subjects": kept.subjects[::-1], "verdicts": kept.verdicts[::-1]})
    assert told(turned) == []


def _figure(results: Results) -> Results:
    place = next(k for k, f in enumerate(results.figures) if f.choice == "attack" and f.theft is not None)
    figure = results.figures[place]
    assert figure.theft is not None
    raised = type(figure.theft)(figure.theft.mean + 0.01, figure.theft.low, 1.0, figure.theft.seeds, figure.theft.over)
    return edited(results, "figures", place, theft=raised)


EDITS: dict[str, tuple[Callable[[Results], Results], str]] = {
    "a word": (lambda r: edited(r, "verdicts", 3, verdict="HOLDS-SO-FAR"), "verdict is HOLDS-SO-FAR in the results"),
    "a reason": (lambda r: edited(r, "verdicts", 3, reason="so it is"), "reason is so it is in the results"),
    "a flag": (lambda r: edited(r, "verdicts", 3, flags=("COSTLY",)), "flags is COSTLY in the results"),
    "a verdict's figure": (lambda r: edited(r, "verdicts", 3, theft=None), "theft is nothing in the results"),
    "a figure": (_figure, "the mean of theft is"),
    "a limit": (
        lambda r: r.model_copy(update={"thresholds": {**r.thresholds, "stolen": 0.9}}),
        "the limits: digest is",
    ),
    "a verdict twice": (lambda r: r.model_copy(update={"verdicts": r.verdicts + r.verdicts[:1]}), "number of verdicts"),
    "a verdict gone": (lambda r: r.model_copy(update={"verdicts": r.verdicts[1:]}), "number of verdicts is 0"),
    "controls in another order": (lambda r: r.model_copy(update={"controls": r.controls[::-1]}), "rests_on is"),
    "no controls": (lambda r: r.model_copy(update={"controls": ()}), "follows"),
    "a gate's answer": (
        lambda r: r.model_copy(update={"gate": Gate(expression="theft>=0.5", outcome="held")}),
        "the gate: outcome is held in the results, and failed follows",
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_is_found(kept: Results, what: str) -> None:
    edit, sentence = EDITS[what]
    assert any(sentence in one for one in told(edit(kept)))


def test_files_compressed_or_not_are_read_and_cut_ones_refused(kept: Results, tmp_path: Path) -> None:
    kept.write(tmp_path / "run.json")
    assert Results.read(tmp_path / "run.json") == kept
    whole = KEPT.read_bytes()
    for name, content in (("cut.json.gz", whole[: len(whole) // 2]), ("plain.json.gz", gzip.decompress(whole)[:50])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match="no whole gzip file"):
            Results.read(tmp_path / name)
    (tmp_path / "other.json.gz").write_bytes(gzip.compress(b'{"schema": 1}'))
    with pytest.raises(BadInput, match="no results that this version reads"):
        Results.read(tmp_path / "other.json.gz")


UNSOUND: dict[str, Callable[[dict[str, Any]], object]] = {
    "controls that are not there": lambda r: r.update(controls=[]),
    "a plan without a name": lambda r: r.update(plan={}),
    "a plan of odd products": lambda r: r["plan"].update(also=3),
    "a plan of odd names": lambda r: r["plan"].update(defenses="rotation"),
    "limits that are no numbers": lambda r: r["thresholds"].update(stolen="x"),
}


@pytest.mark.parametrize("what", UNSOUND)
def test_what_no_version_writes_is_refused_in_a_sentence(kept: Results, tmp_path: Path, what: str) -> None:
    values = json.loads(kept.as_json())
    UNSOUND[what](values)
    (tmp_path / "odd.json").write_text(json.dumps(values))
    with pytest.raises(BadInput, match="holds no results that this version reads"):
        Results.read(tmp_path / "odd.json")


def test_what_a_terminal_would_obey_is_taken_out_of_what_is_read(kept: Results, tmp_path: Path) -> None:
    said = "\x1b]0;title\x07\x1b[2J\rBROKEN \u202e\x9b1A"
    edited(kept, "verdicts", 0, reason=said + " and \\u001b, ü\n").write(tmp_path / "armed.json")
    read = Results.read(tmp_path / "armed.json")
    assert read.verdicts[0].reason == "\ufffd]0;title\ufffd\ufffd[2J\ufffdBROKEN \ufffd\ufffd1A and \\u001b, ü\n"
    assert read.verdicts[1:] == kept.verdicts[1:]


def test_a_bomb_of_a_results_file_is_not_unpacked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redteam.evaluation.reading.LARGEST_RESULTS", 1 << 20)
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * (1 << 22)))
    with pytest.raises(BadInput, match="holds more than results ever take"):
        Results.read(tmp_path / "bomb.json.gz")


def test_a_folder_may_be_called_like_a_file(tmp_path: Path) -> None:
    published = KEPT.with_name("published.json.gz")
    (tmp_path / "run.gz").mkdir()
    (tmp_path / "run.gz" / "results.json").write_bytes(gzip.decompress(published.read_bytes()))
    assert Results.read(tmp_path / "run.gz") == Results.read(published)
