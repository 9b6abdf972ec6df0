"""`redteam attack` on what `redteam protect` wrote."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.key import Key, write_key
from redteam.testing import toy_scenario

Shell = Callable[..., Any]
KEYED = ("mergelock", "permutation", "rotation", "null-shift+mergelock", "split-neurons+mergelock", "gaussian-noise")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the attacker stands, with a key that they should not have."""
    scenario = toy_scenario("vit", drift=0.02)
    scenario.experts["victim"].save(tmp_path / "victim")
    scenario.base.save(tmp_path / "base")
    toy_scenario("bert").base.save(tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def away(one: str, other: str) -> float:
    """‖Δ‖ ÷ ‖·‖ over everything that is in both."""
    first, second = Checkpoint.open(one), Checkpoint.open(other)
    both = [name for name in first if name in second]
    delta, size = (
        sum(float(t.double().square().sum()) for t in tensors)
        for tensors in ((first[n] - second[n] for n in both), (second[n] for n in both))
    )
    return float((delta / size) ** 0.5)


def test_the_gauge_fit_takes_the_lock_off(shell: Shell, here: Path) -> None:
    assert shell("protect", "mergelock", "victim", "--key", "key", "--out", "locked").code == 0
    told = shell("attack", "gauge-fit", "locked", "--base", "base", "--out", "fitted")
    assert told.code == 0, told.err
    assert away("locked", "victim") > 1
    assert away("fitted", "victim") < 0.5 * away("base", "victim"), "what is left is less than fine-tuning moved"
    assert "`gauge-fit`" in Path("fitted/README.md").read_text()
    assert "## Attacked" in Path("fitted/README.md").read_text()
    assert "Proven" in told.out
    assert "Run in float64" not in told.out
    told = shell("attack", "gauge-fit", "locked", "--base", "base", "--out", "certified", "--certify")
    assert told.code == 0, told.err
    found = re.search(r"differ from the locked model's by (\S+) of", told.out)
    assert found is not None
    assert float(found[1]) < 1e-5
    told = shell("attack", "graft", "locked", "--base", "base", "--out", "grafted", "--certify")
    found = re.search(r"differ from the locked model's by (\S+) of", told.out)
    assert found is not None
    assert float(found[1]) > 1e-2, "an attack that does not keep the function"


def test_another_seed_draws_otherwise(shell: Shell, here: Path) -> None:
    assert shell("protect", "permutation", "victim", "--key", "key", "--unproven", "--out", "locked").code == 0
    guess = ("attack", "random-key", "locked", "--defense", "permutation", "--unproven")
    for out, seed in (("zero", 0), ("again", 0), ("one", 1)):
        told = shell(*guess, "--seed", str(seed), "--out", out)
        assert told.code == 0, told.err
    assert away("zero", "again") == 0
    assert away("zero", "one") > 0.1
    assert "| seed | 1 |" in Path("one/README.md").read_text()


def test_a_chain_restores_shapes_first(shell: Shell, here: Path) -> None:
    assert shell("protect", "split-neurons+mergelock", "victim", "--key", "key", "--out", "wide").code == 0
    assert shell("attack", "gauge-fit", "wide", "--base", "base", "--out", "fitted").code == 2
    told = shell("attack", "shape-restore+gauge-fit", "wide", "--base", "base", "--out", "fitted")
    assert told.code == 0, told.err
    fitted = Checkpoint.open("fitted")
    assert fitted.config["intermediate_size"] == Checkpoint.open("victim").config["intermediate_size"]
    assert away("fitted", "victim") < 0.5 * away("base", "victim")


def test_shapes_alone_are_restored(shell: Shell, here: Path) -> None:
    assert shell("protect", "split-neurons", "victim", "--key", "key", "--out", "wide").code == 0
    told = shell("attack", "shape-restore", "wide", "--base", "base", "--out", "restored")
    assert told.code == 0, told.err
    restored, base = Checkpoint.open("restored"), Checkpoint.open("base")
    assert {name: restored.shape(name) for name in base} == {name: base.shape(name) for name in base}
    assert "nearer" not in told.out, "shapes are no distance"


@pytest.mark.parametrize("form", ["clique", "dependent"])
@pytest.mark.parametrize("place", range(3))
def test_what_cancels_but_for_rounding_is_taken_out(shell: Shell, here: Path, form: str, place: int) -> None:
    """Of a release in bfloat16, and nothing more than rounding is: outputs that are wrong by 2 % are still refused."""
    Checkpoint.open("victim").to(torch.bfloat16).save(Path("short"))
    write_key("key", Key.derive(seed=0, index=place, name=form))
    assert shell("protect", f"split-neurons:form={form}", "short", "--key", "key", "--out", "wide").code == 0
    told = shell("attack", "shape-restore+gauge-fit", "wide", "--base", "base", "--out", "restored")
    assert told.code == 0, told.err
    found = re.search(r"Proven up to rounding: .* change by (\S+) of their size, .* explains up to (\S+)\.", told.out)
    assert found is not None
    assert 1e-5 < float(found[1]) < float(found[2]) < 1e-2
    assert away("restored", "victim") < 0.5 * away("base", "victim")
    wide = Checkpoint.open("wide")
    names = [name for name in wide if re.search(r"layer\.\d+\.output\.dense\.weight", name)]
    assert names
    draws = torch.Generator().manual_seed(place)
    signs = {name: torch.randn(wide.shape(name), generator=draws).sign() for name in names}
    wide.replace({name: wide[name] * (1 + 0.02 * sign) for name, sign in signs.items()}).save(Path("torn"))
    told = shell("attack", "shape-restore:tolerance=0.1", "torn", "--base", "base", "--out", "torn-back")
    assert told.code == 2
    assert "changes what this network computes" in told.err
    assert not Path("torn-back").exists()


@pytest.mark.parametrize("defense", KEYED)
def test_the_keys_holder_gets_the_model_back(shell: Shell, here: Path, defense: str) -> None:
    given = ("--base", "base") if "noise" in defense else ()
    assert shell("protect", defense, "victim", "--key", "key", *given, "--out", "locked").code == 0
    words = ("attack", "key-holder", "locked", "--defense", defense, *given)
    told = shell(*words, "--key", "key", "--out", "unlocked")
    assert told.code == 0, told.err
    assert away("unlocked", "victim") < 1e-4
    assert Checkpoint.open("unlocked").config == Checkpoint.open("victim").config
    assert Path("key").read_bytes() not in b"".join(file.read_bytes() for file in Path("unlocked").iterdir())


def test_a_wrong_key_and_wrong_settings_are_told_by_the_card(shell: Shell, here: Path) -> None:
    assert shell("protect", "mergelock", "victim", "--key", "key", "--out", "locked").code == 0
    assert shell("protect", "rotation", "victim", "--key", "other", "--out", "elsewhere").code == 0
    words = ("attack", "key-holder", "locked", "--out", "out")
    for key, defense in (("other", "mergelock"), ("key", "rotation"), ("key", "mergelock:scale=[0.1,10.0]")):
        told = shell(*words, "--key", key, "--defense", defense)
        assert (told.code, told.out) == (2, "")
        assert "fingerprint of key and defense" in told.err
        assert not Path("out").exists()
    secret = Path("key").read_bytes()
    fingerprint = re.search(r"fingerprint of key and defense \| (\w+)", Path("locked/README.md").read_text())
    assert fingerprint is not None
    assert fingerprint[1] not in secret.hex()
    assert shell(*words, "--key", "key", "--defense", "mergelock").code == 0


def test_without_a_card_the_base_tells_a_wrong_key(shell: Shell, here: Path) -> None:
    for name in ("key", "other"):
        assert shell("protect", "mergelock", "victim", "--key", name, "--out", f"by-{name}").code == 0
    Path("by-key/README.md").unlink()
    words = ("attack", "key-holder", "--defense", "mergelock", "--out", "out")
    told = shell(*words, "by-key", "--key", "other", "--base", "base")
    assert told.code == 2
    assert "comes no nearer to the base" in told.err
    assert shell(*words, "victim", "--key", "key", "--base", "base").code == 2, "it was never locked"
    assert not Path("out").exists()
    told = shell(*words, "by-key", "--key", "key", "--base", "base")
    assert told.code == 0, told.err
    assert "Distance to the base, in units of its norm: " in told.out


def test_where_there_is_no_lock_it_says_so(shell: Shell, here: Path) -> None:
    told = shell("attack", "gauge-fit", "victim", "--base", "base", "--out", "out")
    assert told.code == 0, told.err
    assert "hardly nearer to the base" in told.out
    shutil.copytree("base", "copy")
    told = shell("attack", "gauge-fit", "copy", "--base", "base", "--out", "nothing")
    assert told.code == 2
    assert "nothing was written" in told.err
    assert not Path("nothing").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fine-tune", "locked", "--base", "base"], "few-shot"),
        (["train-anew", "locked", "--base", "base"], "labelled samples"),
        (["average-releases", "locked", "--base", "base"], "two-releases"),
        (["gauge-fit", "locked"], "--base"),
        (["key-holder", "locked", "--defense", "mergelock"], "--key"),
        (["key-holder", "locked", "--key", "key"], "--defense"),
        (["random-key", "locked"], "--defense"),
        (["gauge-fit+fine-tune", "locked", "--base", "base"], "data-rich"),
        (["gauge-fit", "locked", "--base", "bert"], "architecture"),
        (["gauge-fit", "locked", "--base", "wide"], "shape"),
        (["gauge-fit", "locked", "--base", "key"], "key"),
        (["gauge-fit:sites=[nowhere]", "locked", "--base", "base"], "sites"),
        (["gauge-fti", "locked", "--base", "base"], "did you mean"),
        (["gauge-fit", "nan", "--base", "base"], "NaN"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(shell: Shell, here: Path, words: list[str], says: str) -> None:
    shell("protect", "mergelock", "victim", "--key", "key", "--out", "locked")
    shell("protect", "split-neurons", "base", "--key", "key", "--out", "wide")
    victim = Checkpoint.open("victim")
    name = "vit.encoder.layer.0.attention.attention.query.weight"
    victim.replace({name: torch.full(victim.shape(name), torch.nan)}).save(here / "nan")
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    told = shell("attack", *words, "--out", "out")
    assert (told.code, told.out) == (2, "")
    assert says in told.err.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


def test_dtype_and_names_stay(shell: Shell, here: Path) -> None:
    assert shell("protect", "mergelock", "victim", "--key", "key", "--out", "locked", "--dtype", "bfloat16").code == 0
    assert shell("attack", "gauge-fit", "locked", "--base", "base", "--out", "fitted").code == 0
    before, after = Checkpoint.open("victim"), Checkpoint.open("fitted")
    assert list(after) == list(before)
    assert {after.dtype(name) for name in after} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("defense", ["mergelock", "null-shift", "permutation", "gaussian-noise"])
def test_on_a_gpu_it_is_the_same_within_rounding(shell: Shell, here: Path, defense: str) -> None:
    for device in ("cpu", "cuda"):
        words = ("--base", "base", "--device", device)
        assert shell("protect", defense, "victim", "--key", "key", *words, "--out", f"locked-{device}").code == 0
        assert shell("attack", "gauge-fit", f"locked-{device}", *words, "--out", f"fitted-{device}").code == 0
    assert away("locked-cuda", "locked-cpu") < 1e-6
    assert away("fitted-cuda", "fitted-cpu") < 1e-5
