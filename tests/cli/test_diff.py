"""`redteam diff`: what it says of two runs and of two models, and what it refuses."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.diff import ModelDiff, RunDiff
from redteam.evaluation.results import Results
from redteam.evaluation.statistics import Interval
from redteam.key import Key
from redteam.symmetry import GeneralLinear, Orthogonal, random_shifts, sample_gauges

KEPT = Path(__file__).resolve().parents[2] / "reports" / "reference" / "tables.json.gz"
Shell = Callable[..., Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, two experts, one of them under two keys (locked, again), a merge, and a locked one that was edited."""
    from redteam_scenarios.digits import digits

    scenario, home = digits(seed=0), tmp_path_factory.mktemp("models")
    base, plain, other = scenario.base, scenario.experts["digits"], scenario.experts["letters"]
    for index, name in enumerate(("locked", "again")):
        key = Key.derive(seed=0, index=index, name="diff")
        locked = sample_gauges(plain, ("qk",), GeneralLinear(), key.generator)
        locked = sample_gauges(locked, ("vo",), Orthogonal(), key.generator)
        random_shifts(locked, np.random.default_rng(index), 5.0, ("mlp",)).save(home / name)
    locked = Checkpoint.open(home / "locked")
    token = locked["vit.embeddings.cls_token"].clone()
    token.view(-1)[3] += 1e-2
    locked.replace({"vit.embeddings.cls_token": token}).save(home / "edited")
    common = [n for n in base if n in plain and n in other and plain[n].shape == other[n].shape]
    merged = {n: base[n] + 0.3 * (plain[n] - base[n]) + 0.3 * (other[n] - base[n]) for n in common}
    base.replace(merged).save(home / "merge")
    for name, model in (("base", base), ("plain", plain), ("other", other)):
        model.save(home / name)
    return home


@pytest.fixture
def redteam(shell: Shell, models: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(models)
    return shell


def found(told: Any) -> Any:
    assert told.code in (0, 1), told.err
    read = json.loads(told.out)
    return (RunDiff if read["kind"] == "runs" else ModelDiff).model_validate(read)


def test_two_keys_are_the_same_function_with_nothing_between_them_up_to_gauge(redteam: Shell) -> None:
    for pair in (("locked", "plain"), ("locked", "again"), ("plain", "again")):
        diff = found(redteam("diff", *pair, "--json"))
        assert diff.relation == "regauged"
        assert diff.distance > 0.9
        assert diff.up_to_gauge < 1e-6
        kinds = {kind.kind: kind for kind in diff.kinds}
        assert kinds["qk"].groups == ("general-linear",)
        assert kinds["vo"].groups == ("orthogonal",)
        assert kinds["qk"].as_is > 0.9 > 1e-6 > kinds["qk"].furthest
        assert "they compute the same" in diff.summary[0]


def test_one_number_that_is_edited_is_no_longer_the_same_function(redteam: Shell) -> None:
    diff = found(redteam("diff", "edited", "plain", "--json"))
    assert diff.relation == "near-regauged"
    assert "compute the same" not in " ".join(diff.summary)
    assert max(diff.tensors, key=lambda one: one.up_to_gauge).name == "vit.embeddings.cls_token"


def test_fine_tunes_are_near_and_no_gauge_lies_between_them(redteam: Shell) -> None:
    diff = found(redteam("diff", "plain", "other", "--base", "base", "--json"))
    assert diff.relation == "near"
    assert not any(kind.groups for kind in diff.kinds)
    assert 0.9 * diff.distance < diff.up_to_gauge <= diff.distance
    assert abs(diff.share.cosine) < 0.2
    assert {one.name for one in diff.shapes} == {"classifier.bias", "classifier.weight"}


def test_of_a_fine_tune_and_its_merge_it_says_how_much(redteam: Shell) -> None:
    diff = found(redteam("diff", "plain", "merge", "--base", "base", "--json"))
    assert diff.share.a_in_b == pytest.approx(0.3, abs=0.05)
    told = redteam("diff", "plain", "merge", "--base", "base")
    assert f"merge holds {diff.share.a_in_b:.0%} of plain's task vector" in told.out


def test_the_same_model_is_the_same_and_a_rounded_one_says_so(redteam: Shell, models: Path, tmp_path: Path) -> None:
    diff = found(redteam("diff", "plain", "plain", "--json"))
    assert (diff.relation, diff.distance, diff.up_to_gauge, diff.tensors) == ("same", 0.0, 0.0, ())
    plain = Checkpoint.open(models / "plain")
    Checkpoint.of({name: tensor.half() for name, tensor in plain.items()}, plain.config).save(tmp_path / "half")
    diff = found(redteam("diff", str(tmp_path / "half"), "plain", "--json"))
    assert set(diff.dtypes) == {"float16 / float32"}
    assert diff.relation == "same"
    assert "the same weights, rounded" in diff.summary[0]


def test_networks_that_have_nothing_in_common_are_no_relatives(
    redteam: Shell, models: Path, vit: Any, tmp_path: Path
) -> None:
    Checkpoint.open(models / "plain").fresh(7).save(tmp_path / "fresh")
    diff = found(redteam("diff", str(tmp_path / "fresh"), "plain", "--json"))
    assert diff.relation == "stranger"
    assert diff.up_to_gauge <= diff.distance
    vit.checkpoint.save(tmp_path / "vit")
    diff = found(redteam("diff", str(tmp_path / "vit"), "plain", "--json"))
    assert diff.relation == "apart"
    assert diff.up_to_gauge is None
    assert len(diff.shapes) > 10


@pytest.mark.parametrize("where", ["plain", "broken"])
def test_what_is_no_number_has_no_distance(redteam: Shell, models: Path, tmp_path: Path, where: str) -> None:
    plain, name = Checkpoint.open(models / "plain"), "vit.encoder.layer.1.output.dense.weight"
    plain.replace({name: plain[name] * torch.nan}).save(tmp_path / "broken")
    pair = [str(tmp_path / "broken"), "plain"] if where == "broken" else ["plain", str(tmp_path / "broken")]
    diff = found(redteam("diff", *pair, "--json"))
    assert (diff.relation, diff.distance) == ("unknown", None)
    assert f"holds NaN or infinity in '{name}'" in diff.summary[0]


def test_pages_are_written_and_offline(redteam: Shell, tmp_path: Path) -> None:
    told = redteam("diff", "locked", "plain", "--out", str(tmp_path / "m.html"), "-o", str(tmp_path / "m.json"))
    assert told.code == 0, told.err
    page = (tmp_path / "m.html").read_text()
    assert 'data-kind="qk"' in page
    assert "https:" not in page.replace("&", "")
    assert ModelDiff.model_validate_json((tmp_path / "m.json").read_text()).summary[0] in told.out


@pytest.fixture(scope="module")
def kept() -> Results:
    return Results.read(KEPT)


@pytest.fixture
def changed(kept: Results, tmp_path: Path) -> Path:
    """A run with its rows turned round, one gated verdict that is another, and a figure far from what it was."""
    place = next(k for k, v in enumerate(kept.verdicts) if v.gated and v.theft is not None)
    verdicts = list(kept.verdicts)
    word = "INCONCLUSIVE" if verdicts[place].verdict != "INCONCLUSIVE" else "BROKEN"
    far = Interval(2.0, 2.0, 2.0, 5, "seeds")
    verdicts[place] = verdicts[place].model_copy(update={"verdict": word, "theft": far, "counted": far})
    turned = kept.model_copy(update={"verdicts": tuple(verdicts[::-1]), "figures": kept.figures[::-1]})
    (tmp_path / "run").mkdir()
    turned.write(tmp_path / "run" / "results.json")
    return tmp_path / "run"


def test_a_run_is_itself_in_any_order(shell: Shell, kept: Results, tmp_path: Path) -> None:
    turned = {table: getattr(kept, table)[::-1] for table in ("verdicts", "figures", "controls", "subjects")}
    kept.model_copy(update=turned).write(tmp_path / "turned.json")
    diff = found(shell("diff", str(KEPT), str(tmp_path / "turned.json"), "--json"))
    assert (diff.verdicts, diff.figures, diff.controls, diff.moved) == ((), (), (), 0)
    assert (diff.only_a, diff.only_b, diff.plan, diff.engine) == ((), (), (), ())
    assert diff.agreeing == len(kept.verdicts)
    assert diff.compared > 500


def test_a_changed_verdict_is_exit_code_1(shell: Shell, changed: Path) -> None:
    told = shell("diff", str(KEPT), str(changed))
    assert told.code == 1
    assert "verdicts that both have 1 changed." in told.out
    assert "[2.00, 2.00]" in told.out
    diff = found(shell("diff", str(KEPT), str(changed), "--json"))
    (verdict,) = diff.verdicts
    assert verdict.counts
    assert [one.figure for one in diff.figures] == ["theft"]
    assert shell("diff", str(changed), str(KEPT)).code == 1


def test_what_protects_nothing_and_what_is_gone_does_not_count(shell: Shell, kept: Results, tmp_path: Path) -> None:
    place = next(k for k, v in enumerate(kept.verdicts) if not v.gated)
    verdicts = [*kept.verdicts[:place], kept.verdicts[place].model_copy(update={"verdict": "INVALID"})]
    kept.model_copy(update={"verdicts": tuple(verdicts)}).write(tmp_path / "less.json")
    told = shell("diff", str(KEPT), str(tmp_path / "less.json"))
    assert told.code == 0, told.err
    assert "which does not count" in told.out
    assert f"Only in {KEPT}:" in told.out


def test_of_long_entries_the_terminal_gets_what_differs(shell: Shell, kept: Results, tmp_path: Path) -> None:
    for name, end in (("a", "one"), ("b", "other and then much more " * 9)):
        entry = {"note": f"{'the same ' * 30}{end}"}
        kept.model_copy(update={"plan": {**kept.plan, **entry}}).write(tmp_path / f"{name}.json")
    told = shell("diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    (line,) = (line for line in told.out.splitlines() if line.startswith("  note: "))
    assert "… the same the same one / … the same the same other and then" in line
    assert line.endswith("…")
    assert len(line) < 140


def test_the_page_of_two_runs(shell: Shell, changed: Path, tmp_path: Path) -> None:
    assert shell("diff", str(KEPT), str(changed), "-o", str(tmp_path / "r.html")).code == 1
    page = (tmp_path / "r.html").read_text()
    assert page.count('data-counts="true"') == 1
    assert "Figures whose intervals part" in page


def test_refusals_are_one_sentence(redteam: Shell, kept: Results, changed: Path, tmp_path: Path) -> None:
    whole = KEPT.read_bytes()
    (tmp_path / "cut.json.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.json").write_text("{")
    elsewhere = [v.model_copy(update={"scenario": "elsewhere"}) for v in kept.verdicts]
    kept.model_copy(update={"verdicts": tuple(elsewhere)}).write(tmp_path / "elsewhere.json")
    (tmp_path / "empty").mkdir()
    refused = {
        ("plane", "plain"): "There is nothing at plane; did you mean plain?",
        (str(KEPT), "plain"): "is a run and plain a model; name two runs, or two models.",
        (str(tmp_path / "cut.json.gz"), str(KEPT)): "no whole gzip file",
        (str(tmp_path / "text.json"), str(KEPT)): "holds no results that this version reads",
        (str(tmp_path / "elsewhere.json"), str(KEPT)): "nothing can be compared",
        (str(KEPT), str(changed), "--base", "base"): "are runs, which have no --base",
        ("plain", str(tmp_path / "empty")): "empty",
        ("plain", "base", "-o", "x.pdf"): "must end in one of .html, .json.",
        ("plain", "base", "-o", "plain/config.json"): "which is read",
    }
    for words, sentence in refused.items():
        told = redteam("diff", *words)
        assert told.code == 2, words
        assert told.out == "", words
        (line,) = told.err.splitlines()
        assert sentence in line


def test_gz_of_something_else(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b"[]"))
    assert "holds no results" in shell("diff", str(tmp_path / "x.json.gz"), str(KEPT)).err
