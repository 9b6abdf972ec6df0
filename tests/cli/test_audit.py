"""`redteam audit`: what it prints and writes, and what it says of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redteam.audit import Audit
from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.symmetry import GeneralLinear, Orthogonal, random_shifts, sample_gauges

KEY = Key.derive(seed=0, index=0, name="audit")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, plain (an expert), locked, and second: another expert under the same key on one kind of sites."""
    from redteam_scenarios.digits import digits

    scenario, home = digits(seed=0), tmp_path_factory.mktemp("models")
    scenario.base.save(home / "base")
    scenario.experts["digits"].save(home / "plain")
    locked = sample_gauges(scenario.experts["digits"], ("qk",), GeneralLinear(), KEY.generator)
    locked = sample_gauges(locked, ("vo",), Orthogonal(), KEY.generator)
    random_shifts(locked, np.random.default_rng(0), 5.0, ("mlp",)).save(home / "locked")
    sample_gauges(scenario.experts["letters"], ("qk",), GeneralLinear(), KEY.generator).save(home / "second")
    return home


@pytest.fixture
def redteam(shell: Callable[..., Any], folders: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(folders)
    return shell


def test_sentences_first_then_one_row_for_each_kind(redteam: Callable[..., Any]) -> None:
    told = redteam("audit", "locked", "--base", "base")
    assert told.code == 0, told.err
    first, second = told.out.splitlines()[:2]
    assert first.startswith("A lock of the general-linear group sits on qk of all 4 layers; ")
    assert second.startswith("A lock of the orthogonal group sits on vo of all 4 layers; ")
    assert "Additive shifts" in told.out
    table = told.out[told.out.index("\n\n") :].strip().splitlines()
    assert table[0].split()[:3] == ["site", "layers", "found"]
    assert [row.split()[0] for row in table[1:7]] == ["residual", "norm-scale", "heads", "qk", "vo", "mlp"]
    assert all("0–3" in row for row in table[3:7])
    assert "general-linear lock" in table[4]


def test_an_unlocked_model_is_said_to_be_that(redteam: Callable[..., Any]) -> None:
    told = redteam("audit", "plain", "--base", "base")
    assert told.out.startswith("No lock was found on any of the 27 sites, which are ")
    assert "A lock of" not in told.out
    assert "Additive" not in told.out


def test_other_tells_where_gauges_are_shared(redteam: Callable[..., Any]) -> None:
    told = redteam("audit", "locked", "--base", "base", "--other", "second")
    assert "Both models have the same gauge on qk of all 4 layers" in told.out
    assert "Only one of the two models is locked on vo of all 4 layers" in told.out
    assert "gauge shared" in told.out


def test_json_has_a_schema_and_every_site(redteam: Callable[..., Any], tmp_path: Path) -> None:
    told = redteam("audit", "locked", "--base", "base", "-o", str(tmp_path / "a.json"))
    assert told.code == 0
    text = (tmp_path / "a.json").read_text()
    read = json.loads(text)
    assert read["schema"] == 1
    assert (read["model"], read["base"], read["other"]) == ("locked", "base", None)
    assert len(read["sites"]) == 27
    assert Audit.model_validate_json(text).summary[0] in told.out


def test_html_is_written(redteam: Callable[..., Any], tmp_path: Path) -> None:
    told = redteam("audit", "locked", "--base", "base", "-o", str(tmp_path / "deep" / "a.html"))
    assert told.code == 0
    assert "<svg" in (tmp_path / "deep" / "a.html").read_text()


def test_it_says_how_far_it_is(redteam: Callable[..., Any]) -> None:
    lines = [line for line in redteam("audit", "plain", "--base", "base").err.splitlines() if line.startswith("[")]
    assert 3 < len(lines) <= 11


def test_it_never_imports_transformers(folders: Path) -> None:
    code = (
        "import sys\nfrom redteam.cli.main import main\ntry:\n    main(['audit', 'locked', '--base', 'base'])\n"
        "except SystemExit as end:\n    assert not end.code\nassert 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folders, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def bad(folders: Path, tmp_path: Path) -> Callable[[str], Path]:
    base = Checkpoint.open(folders / "base")

    def made(what: str) -> Path:
        folder = tmp_path / what
        if what == "nan":
            name = "vit.encoder.layer.1.output.dense.weight"
            base.replace({name: base[name] * torch.nan}).save(folder)
        elif what == "unknown":
            Checkpoint.of(base, {"model_type": "perceiver-of-mine"}).save(folder)
        elif what == "shallow":
            Checkpoint.of(base, {**base.config, "num_hidden_layers": 2}).save(folder)
        elif what == "deep":
            Checkpoint.of(base, {**base.config, "num_hidden_layers": 9}).save(folder)
        elif what == "cut":
            base.save(folder)
            whole = (folder / "model.safetensors").read_bytes()
            (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        return folder

    return made


@pytest.mark.parametrize("what", ["nan", "unknown", "deep", "cut", "absent"])
def test_bad_models_get_one_sentence_and_no_file(
    redteam: Callable[..., Any], bad: Callable[[str], Path], what: str, tmp_path: Path
) -> None:
    told = redteam("audit", str(bad(what)), "--base", "base", "-o", str(tmp_path / "out.json"))
    assert told.code == 2
    assert told.out == ""
    (sentence,) = [line for line in told.err.splitlines() if not line.startswith("[")]
    assert sentence.startswith("Error: ")
    assert not (tmp_path / "out.json").exists()


def test_two_models_of_different_depth(redteam: Callable[..., Any], bad: Callable[[str], Path]) -> None:
    told = redteam("audit", "locked", "--base", "base", "--other", str(bad("shallow")))
    assert told.code == 2
    assert "different numbers of layers" in told.err


def test_a_device_that_is_not_there_and_a_format_that_is_not(redteam: Callable[..., Any]) -> None:
    for device in ("cuda:99", "abacus"):
        told = redteam("audit", "locked", "--base", "base", "--device", device)
        assert told.code == 2
        assert "leave --device out" in told.err
    told = redteam("audit", "locked", "--base", "base", "-o", "x.pdf")
    assert told.code == 2
    assert ".html, .json" in told.err


def test_help_in_one_line(redteam: Callable[..., Any]) -> None:
    assert "audit" in redteam("--help").out


def test_an_adapter_is_audited_merged_into_its_base(redteam: Callable[..., Any], folders: Path) -> None:
    base = Checkpoint.open(folders / "base")
    weight = next(name for name in base if name.endswith(("q_proj.weight", "query.weight")))
    module, (out, into) = weight.removesuffix(".weight"), base.shape(weight)
    generator = torch.Generator().manual_seed(0)
    low_rank = {
        f"base_model.model.{module}.lora_A.weight": 0.1 * torch.randn(2, into, generator=generator),
        f"base_model.model.{module}.lora_B.weight": 0.1 * torch.randn(out, 2, generator=generator),
    }
    Checkpoint.of(low_rank, {}).save(folders / "adapter-weights")
    (folders / "adapter").mkdir()
    (folders / "adapter-weights" / "model.safetensors").rename(folders / "adapter" / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "base"}
    (folders / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    told = redteam("audit", "adapter", "--base", "base")
    assert told.code == 0, told.err
    assert " 1 changed" in told.out, "the one weight that the adapter updates"


def test_a_report_never_takes_the_place_of_what_is_read(redteam: Callable[..., Any], folders: Path) -> None:
    before = (folders / "base/config.json").read_bytes()
    for path in ("base/config.json", "base/new.json", "plain/audit.html"):
        told = redteam("audit", "plain", "--base", "base", "-o", path)
        assert told.code == 2
        assert "which is read" in told.err
    assert (folders / "base/config.json").read_bytes() == before
    assert not (folders / "base/new.json").exists()
