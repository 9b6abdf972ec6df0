"""`redteam protect` on folders of small networks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from redteam.checkpoint import Checkpoint
from redteam.evaluation.pipelines import apply
from redteam.key import read_key
from redteam.plugins.registry import DEFENSES
from redteam.plugins.returned import check_as_read
from redteam.symmetry import certify
from redteam.symmetry.inputs import random_inputs
from redteam.testing import toy_scenario

Shell = Callable[..., Any]

NAN = """
from redteam import Checkpoint, DefenderView, defense

@defense("nan", exact=False, keyed=False)
def nan(view: DefenderView) -> Checkpoint:
    def read(name):
        return view.victim[name] / (0.0 if name.startswith("vit.layernorm") else 1.0)
    return Checkpoint.computed(view.victim.outline(), read, view.victim.config)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user stands: with a ViT, its base and a BERT."""
    scenario = toy_scenario("vit")
    scenario.experts["victim"].save(tmp_path / "vit")
    scenario.base.save(tmp_path / "base")
    toy_scenario("bert").experts["victim"].save(tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("model", ["vit", "bert"])
@pytest.mark.parametrize("defense", ["mergelock", "null-shift+mergelock:scale=[0.5,2.0]", "split-neurons"])
def test_the_function_stays_and_the_weights_do_not(shell: Shell, here: Path, model: str, defense: str) -> None:
    told = shell("protect", defense, model, "--key", "key", "--out", "locked")
    assert told.code == 0, told.err
    before, after = Checkpoint.open(model), Checkpoint.open("locked")
    inputs = random_inputs(before)
    with torch.no_grad():
        one, other = (c.module(torch.float64)(**_exact(inputs)).logits for c in (before, after))
    assert float((one - other).abs().max() / one.abs().max()) < 1e-4, "stored in float32"
    assert any(n not in after or not torch.equal(before[n], after[n]) for n in before)
    assert {after.dtype(n) for n in after} == {torch.float32}


def test_it_is_what_the_plugin_makes_rounded_once(shell: Shell, here: Path) -> None:
    assert shell("protect", "mergelock", "vit", "--key", "key", "--out", "locked").code == 0
    victim = Checkpoint.open("vit")
    made, _ = apply(
        [DEFENSES.load("mergelock")], victim.cast(torch.float64), None, read_key("key"), check=check_as_read
    )
    assert made.stored_as(victim).digest() == Checkpoint.open("locked").digest()


def test_the_key_is_made_once_and_never_told(shell: Shell, here: Path) -> None:
    first = shell("protect", "mergelock", "vit", "--key", "key", "--out", "one")
    secret = Path("key").read_bytes()
    assert len(secret) == 32
    assert Path("key").stat().st_mode & 0o777 == 0o600
    second = shell("protect", "mergelock", "vit", "--key", "key", "--out", "two")
    assert Path("key").read_bytes() == secret
    assert Checkpoint.open("one").digest() == Checkpoint.open("two").digest()
    shell("protect", "mergelock", "vit", "--key", "other", "--out", "three")
    assert Checkpoint.open("three").digest() != Checkpoint.open("two").digest()
    assert "made now" in first.out
    assert "made now" not in second.out
    written = b"".join(path.read_bytes() for path in Path("one").iterdir())
    for text in (first.out, first.err, second.out, written.decode("latin-1")):
        assert not any(form in text for form in (secret.decode("latin-1"), secret.hex(), secret.hex().upper()))


def test_what_was_done_is_told_and_on_the_card(shell: Shell, here: Path) -> None:
    told = shell("protect", "null-shift+mergelock", "vit", "--key", "key", "--out", "locked", "--dtype", "bfloat16")
    card = Path("locked/README.md").read_text()
    for text in (told.out, card):
        assert "general-linear at 2 sites" in text
        assert "shift lock" in text
    assert "`mergelock:factor=rotation,scale=[0.01,100.0]`" in card
    assert "bfloat16" in card
    assert "Proven: in float64 the outputs change by" in card
    assert {Checkpoint.open("locked").dtype(n) for n in Checkpoint.open("vit")} == {torch.bfloat16}
    assert "The key is in key" in told.out
    assert "locked" in told.out.splitlines()[-1]
    assert "[40/40]" in told.err


def test_noise_needs_the_base(shell: Shell, here: Path) -> None:
    told = shell("protect", "gaussian-noise", "vit", "--key", "key", "--out", "noisy")
    assert told.code == 2
    assert "--base" in told.err
    assert left(here) == {"vit", "base", "bert"}, "neither a folder nor a key is left"
    assert shell("protect", "gaussian-noise", "vit", "--key", "key", "--out", "noisy", "--base", "base").code == 0
    assert "not exact" in Path("noisy/README.md").read_text()


def test_a_certificate_says_how_far_outputs_move(shell: Shell, here: Path) -> None:
    told = shell("protect", "mergelock", "vit", "--key", "key", "--out", "locked", "--certify")
    assert told.code == 0, told.err
    assert all(f"{name}: " in told.out for name in ("float64", "float32", "bfloat16", "float16"))


def test_strict_writes_nothing_where_too_much_is_lost(shell: Shell, here: Path) -> None:
    words = ("protect", "null-shift:size=30.0", "vit", "--key", "key", "--out", "locked", "--dtype", "bfloat16")
    told = shell(*words, "--strict")
    assert told.code == 2
    assert "Nothing was written" in told.err
    assert left(here) == {"vit", "base", "bert"}
    assert shell(*words, "--certify").code == 0, "without --strict it is the owner's affair"
    assert shell("protect", "mergelock", "vit", "--key", "key", "--out", "mild", "--strict").code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mergelok", "vit", "--key", "key"], "did you mean"),
        (["mergelock:scal=1", "vit", "--key", "key"], "scal"),
        (["mergelock", "vit"], "--key"),
        (["mergelock", "nowhere", "--key", "key"], "nowhere"),
        (["mergelock", "vit", "--key", "out/key"], "output folder"),
        (["mergelock", "vit", "--key", "vit/config.json"], "key"),
        (["mergelock", "unknown", "--key", "key"], "model_type"),
        (["mergelock", "vit", "--key", "key", "--base", "bert"], "architecture"),
        (["mergelock", "vit", "--key", "key", "--base", "wide"], "shape"),
        (["nan.py@nan", "vit"], "not finite"),
        (["shadownet", "vit", "--key", "key"], "redteam run --defense shadownet --threat sealed"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(shell: Shell, here: Path, words: list[str], says: str) -> None:
    (here / "nan.py").write_text(NAN)
    Checkpoint.of({"a": torch.ones(2)}, {"model_type": "nobody"}).save(here / "unknown")
    shell("protect", "split-neurons", "base", "--key", "widening", "--out", "wide")
    before = {path.relative_to(here): path.stat().st_mtime_ns for path in here.rglob("*")}
    told = shell("protect", *words, "--out", "out")
    assert (told.code, told.out) == (2, "")
    assert says in told.err.splitlines()[-1]
    assert sum(line.startswith("Error: ") for line in told.err.splitlines()) == 1
    after = {path.relative_to(here): path.stat().st_mtime_ns for path in here.rglob("*")}
    assert after == before


def test_an_output_folder_is_not_overwritten_unasked(shell: Shell, here: Path) -> None:
    words = ("protect", "mergelock", "vit", "--key", "key", "--out", "locked")
    assert shell(*words).code == 0
    digest = Checkpoint.open("locked").digest()
    told = shell("protect", "rotation", "vit", "--key", "key", "--out", "locked")
    assert (told.code, Checkpoint.open("locked").digest()) == (2, digest)
    assert "--force" in told.err
    assert shell("protect", "rotation", "vit", "--key", "key", "--out", "locked", "--force").code == 0
    assert Checkpoint.open("locked").digest() != digest
    assert shell("protect", "mergelock", "vit", "--key", "key", "--out", "vit", "--force").code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_the_key_alone_and_says_so(
    shell: Shell, here: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    import redteam.cli.checkpoint_options as home

    class Interrupting(home.Progress):
        def advanced(self, done: int, total: int, what: str) -> None:
            if done == 7:
                signal.raise_signal(number)  # in this thread: another one may get a process's signal, and later

    monkeypatch.setattr(home, "Progress", Interrupting)
    handler = signal.signal(number, signal.SIG_DFL)  # a test run in the background ignores them, and so do we then
    try:
        told = shell("protect", "mergelock", "vit", "--key", "key", "--out", "locked")
    finally:
        signal.signal(number, handler)
    assert (told.code, told.err) == (130, "The new key stays in key.\nInterrupted; nothing was written.\n")
    assert left(here) == {"vit", "base", "bert", "key"}


def test_no_cuda_is_a_sentence(shell: Shell, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = shell("protect", "mergelock", "vit", "--key", "key", "--out", "locked", "--device", "cuda")
    assert told.code == 2
    assert "CUDA" in told.err
    assert left(here) == {"vit", "base", "bert"}


def test_threads_are_put_back(shell: Shell, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert shell("protect", "mergelock", "vit", "--key", "key", "--out", "locked").code == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_transformers_is_never_imported(here: Path) -> None:
    """In real processes, for all three commands."""
    script = (
        "import sys\nfrom redteam.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as left: print(left.code, *sys.modules)"
    )
    for words in (
        ["protect", "mergelock", "vit", "--key", "key", "--out", "locked", "--unproven"],
        ["attack", "gauge-fit", "locked", "--base", "base", "--out", "fitted", "--unproven"],
        ["merge", "ties", "--base", "base", "--expert", "fitted", "--expert", "locked", "--out", "merged"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        code, *modules = done.stdout.splitlines()[-1].split()
        assert code == "0", done.stderr
        assert not {"transformers", "open_clip", "mlflow", "pandas", "sklearn"} & set(modules)


def test_a_key_of_nobody_is_as_good_for_a_defense_that_draws_on_none(shell: Shell, here: Path) -> None:
    assert shell("protect", "none", "vit", "--out", "same").code == 0
    assert Checkpoint.open("same").digest() == Checkpoint.open("vit").digest()
    assert left(here) == {"vit", "base", "bert", "same"}


def test_the_lock_is_on_its_sites_and_nowhere_else(shell: Shell, here: Path) -> None:
    shell("protect", "mergelock:scale=[0.5,2.0]", "vit", "--key", "key", "--out", "locked")
    victim = Checkpoint.open("vit")
    found = certify(victim.cast(torch.float64), Checkpoint.open("locked").cast(torch.float64), random_inputs(victim))
    assert found.change < 1e-5
    assert set(found.conditions) == {"qk/0", "qk/1", "vo/0", "vo/1"}


def _exact(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2},
}


def test_open_clip_loads_what_was_written_and_its_features_agree(shell: Shell, here: Path) -> None:
    import open_clip

    (here / "clip").mkdir()
    (here / "clip/open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.CLIP(**json.loads(json.dumps(CLIP)))
    save_file(dict(network.state_dict()), here / "clip/open_clip_model.safetensors", metadata={"format": "pt"})
    told = shell("protect", "mergelock", "clip", "--key", "key", "--out", "locked", "--certify")
    assert told.code == 0, told.err
    assert "at 4 sites" in told.out, "both towers"
    before, after = (open_clip.create_model(f"local-dir:{here / name}").eval() for name in ("clip", "locked"))
    assert not torch.equal(
        before.visual.transformer.resblocks[0].attn.in_proj_weight,
        after.visual.transformer.resblocks[0].attn.in_proj_weight,
    )
    images, tokens = random_inputs(Checkpoint.open("clip")).values()
    images = images.float()
    with torch.no_grad():
        torch.testing.assert_close(after.encode_image(images), before.encode_image(images), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(after.encode_text(tokens), before.encode_text(tokens), rtol=1e-3, atol=1e-4)


def test_an_adapter_is_merged_into_its_base_and_laid_out_like_it(shell: Shell, here: Path) -> None:
    (here / "lora").mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "layers_to_transform": [0]}
    (here / "lora/adapter_config.json").write_text(json.dumps(settings))
    module = "base_model.model.vit.encoder.layer.0.attention.attention.query"
    draws = torch.Generator().manual_seed(0)
    update = {"A": torch.randn(2, 32, generator=draws), "B": torch.randn(32, 2, generator=draws)}
    weights = {f"{module}.lora_{half}.weight": tensor for half, tensor in update.items()}
    save_file(weights, here / "lora/adapter_model.safetensors")
    told = shell("protect", "mergelock", "lora", "--key", "key", "--out", "locked")
    assert told.code == 2
    assert "base" in told.err
    assert left(here) == {"vit", "base", "bert", "lora"}
    told = shell("protect", "mergelock", "lora", "--base", "base", "--key", "key", "--out", "locked")
    assert told.code == 0, told.err
    locked, base = Checkpoint.open("locked"), Checkpoint.open("base")
    assert list(locked) == list(base)
    opened = shell("attack", "key-holder", "locked", "--key", "key", "--defense", "mergelock", "--out", "unlocked")
    assert opened.code == 0, opened.err
    name = module.removeprefix("base_model.model.") + ".weight"
    learned = Checkpoint.open("unlocked")[name] - base[name]
    torch.testing.assert_close(learned, 2 * update["B"] @ update["A"], rtol=1e-3, atol=1e-3)


def test_an_adapter_s_tokenizer_and_its_grown_vocabulary_go_along(shell: Shell, here: Path) -> None:
    base = Checkpoint.open("bert")
    (here / "bert/tokenizer.json").write_text('{"of": "the base"}')
    (here / "lora").mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "layers_to_transform": [0]}
    (here / "lora/adapter_config.json").write_text(json.dumps(settings))
    (here / "lora/tokenizer.json").write_text('{"of": "the adapter"}')
    name = "bert.embeddings.word_embeddings.weight"
    rows, width = base.shape(name)
    grown = torch.cat([base[name], torch.randn(4, width, generator=torch.Generator().manual_seed(0))])
    query = "base_model.model.bert.encoder.layer.0.attention.self.query"
    save_file(
        {
            f"{query}.lora_A.weight": torch.ones(2, width),
            f"{query}.lora_B.weight": torch.ones(width, 2),
            f"base_model.model.{name}": grown,
        },
        here / "lora/adapter_model.safetensors",
    )
    told = shell("protect", "mergelock", "lora", "--base", "bert", "--key", "key", "--out", "locked")
    assert told.code == 0, told.err
    assert Checkpoint.open("locked").config["vocab_size"] == rows + 4 == Checkpoint.open("locked").shape(name)[0]
    assert json.loads(Path("locked/tokenizer.json").read_text()) == {"of": "the adapter"}
    Checkpoint.open("locked").module()
