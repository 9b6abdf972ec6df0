"""Folders with a network that redteam builds itself: every command works on them, or says in a sentence why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.known import NETWORK
from redteam.symmetry.inputs import random_inputs
from redteam.testing import toy_scenario
from tests.zoo import network

Shell = Callable[..., Any]
KINDS = ["vit", "bert", "gpt2"]


@pytest.fixture(scope="module", params=KINDS)
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Path:
    """victim, base, other (an expert), and locked: the victim under mergebarrier."""
    home = tmp_path_factory.mktemp(request.param)
    if request.param == "gpt2":
        base = network("gpt2").checkpoint.to(torch.float32)
        for name, size in (("base", 0.0), ("victim", 0.02), ("other", -0.01)):
            base.replace({n: t + size for n, t in base.items() if t.ndim == 2}).save(home / name)
    else:
        scenario = toy_scenario(request.param)
        scenario.base.save(home / "base")
        scenario.experts["victim"].save(home / "victim")
        scenario.experts["left"].save(home / "other")
    told = shell("protect", "mergebarrier", str(home / "victim"), "--out", str(home / "locked"))
    assert told.code == 0, told.err
    assert "weights: reflection" in told.out
    return home


@pytest.fixture
def here(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folders)
    return folders


def logits(folder: str | Path, like: str = "victim") -> torch.Tensor:
    inputs = {n: t.float() if t.is_floating_point() else t for n, t in random_inputs(Checkpoint.open(like)).items()}
    with torch.no_grad():
        found: torch.Tensor = Checkpoint.open(folder).module(torch.float32)(**inputs).logits
    return found


def refused(told: Any, says: str, out: Path | None = None) -> None:
    assert told.code == 2
    assert told.err.strip().splitlines()[-1].startswith("Error: ")
    assert says in told.err
    assert out is None or not out.exists()


def test_what_was_written_opens_and_runs(here: Path) -> None:
    locked = Checkpoint.open("locked")
    assert locked.config[NETWORK] == "expanded-mlp"
    assert {locked.dtype(n) for n in locked} == {torch.float32}
    assert torch.isfinite(logits("locked")).all()
    assert "not exact" in Path("locked/README.md").read_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_is_written_in_other_dtypes_and_runs_in_them(shell: Shell, here: Path, tmp_path: Path, dtype: str) -> None:
    told = shell("protect", "mergebarrier", "victim", "--out", str(tmp_path / "out"), "--dtype", dtype)
    assert told.code == 0, told.err
    stored = Checkpoint.open(tmp_path / "out")
    assert {str(stored.dtype(n)) for n in stored} == {f"torch.{dtype}"}
    assert {str(p.dtype) for p in stored.module().parameters()} == {f"torch.{dtype}"}
    near = float((logits(tmp_path / "out") - logits("locked")).norm() / logits("locked").norm())
    assert near < 0.2


def test_a_certificate_says_that_the_function_is_not_kept(shell: Shell, here: Path, tmp_path: Path) -> None:
    refused(shell("protect", "mergebarrier", "victim", "--out", "strict", "--strict"), "does not keep", Path("strict"))
    told = shell("protect", "mergebarrier", "victim", "--out", str(tmp_path / "out"), "--certify")
    assert told.code == 0, told.err
    assert "does not keep it" in told.out


def test_twice_is_refused(shell: Shell, here: Path) -> None:
    refused(shell("protect", "mergebarrier", "locked", "--out", "twice"), "no MLPs", Path("twice"))


def test_a_lock_goes_on_its_heads_and_the_key_takes_it_off(shell: Shell, here: Path, tmp_path: Path) -> None:
    key, chained, held = (str(tmp_path / name) for name in ("key", "chained", "held"))
    told = shell("protect", "mergebarrier+mergelock", "victim", "--key", key, "--out", chained)
    assert told.code == 0, told.err
    assert float((logits(chained) - logits("locked")).abs().max()) < 1e-2 * float(logits("locked").abs().max())
    words = ("--key", key, "--defense", "mergebarrier+mergelock", "--out", held)
    told = shell("attack", "key-holder", chained, *words)
    assert told.code == 0, told.err
    locked, back = Checkpoint.open("locked"), Checkpoint.open(held)
    assert all(torch.allclose(back[n], locked[n], atol=1e-4) for n in locked)


@pytest.mark.parametrize("attack", ["gauge-fit", "procrustes", "hungarian"])
def test_a_fit_is_not_offered_another_form(shell: Shell, here: Path, attack: str) -> None:
    told = shell("attack", attack, "locked", "--base", "base", "--out", "fitted")
    refused(told, "does not have its base's shape", Path("fitted"))


def test_shapes_are_not_what_changed(shell: Shell, here: Path) -> None:
    told = shell("attack", "shape-restore+gauge-fit", "locked", "--base", "base", "--out", "restored")
    refused(told, "MLPs or heads of another form", Path("restored"))


@pytest.mark.parametrize("attack", ["mlp-substitution", "mlp-regression"])
def test_what_needs_experts_is_for_redteam_run(shell: Shell, here: Path, attack: str) -> None:
    told = shell("attack", attack, "locked", "--base", "base", "--out", "reformed")
    refused(told, "experts of the attacker's own tasks", Path("reformed"))


def test_it_is_neither_audited_nor_merged_with_the_base_s_form(shell: Shell, here: Path) -> None:
    refused(shell("audit", "locked", "--base", "base"), "expanded-mlp")
    experts = ("--expert", "locked", "--expert", "other")
    told = shell("merge", "task-arithmetic", "--base", "base", *experts, "--out", "merged")
    refused(told, "does not have its base's shape", Path("merged"))


def test_rotary_and_gated_networks_are_refused(shell: Shell, tmp_path: Path) -> None:
    network("llama").checkpoint.to(torch.float32).save(tmp_path / "llama")
    words = (str(tmp_path / "llama"), "--out", str(tmp_path / "out"))
    refused(shell("protect", "mergebarrier", *words), "rotary embedding", tmp_path / "out")
    refused(shell("protect", "mergebarrier:parts=[mlp]", *words), "has a gate", tmp_path / "out")
