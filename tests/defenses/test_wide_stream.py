"""The lock that widens the residual stream: exact where it is legal, refused elsewhere, undone by key and by rank."""

from pathlib import Path

import pytest
import torch
from redteam_attacks.gauge_fit import gauge_fit
from redteam_defenses.planar import planar
from redteam_defenses.wide_stream import wide_stream

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput, IllegalGauge
from redteam.views import AttackerView, unlocked
from tests.defenses.shaped import KEY, OTHER, distance, protect, restored, shapes
from tests.zoo import network

SHELL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
WIDENED = ("llama", "mistral", "qwen2", "qwen3", "phi3")


@pytest.mark.parametrize("name", WIDENED)
def test_the_function_stays_and_no_matrix_of_the_stream_keeps_its_shape(name):
    net = network(name)
    locked = protect(net.checkpoint, wide_stream)
    assert net.change(locked) <= 1e-10
    kept = shared_tensors(locked, net.checkpoint)
    assert all(locked[n].ndim == 1 for n in kept)
    assert not [n for n in kept if "layernorm" in n]


@pytest.mark.parametrize("name", WIDENED)
def test_key_and_rank_give_the_weights_back(name):
    net = network(name)
    locked = protect(net.checkpoint, wide_stream)
    for back in (unlocked(locked, wide_stream, net.checkpoint, KEY), restored(locked, net.checkpoint)):
        assert distance(back, net.checkpoint) <= 1e-7
        assert net.change(back) <= 1e-7
        assert shapes(back) == shapes(net.checkpoint)
    wrong = unlocked(locked, wide_stream, net.checkpoint, OTHER)
    assert distance(wrong, net.checkpoint) > 0.1


def test_a_fit_after_it_undoes_what_lay_below():
    net = network("llama")
    locked = protect(net.checkpoint, planar, wide_stream)
    back = restored(locked, net.checkpoint)
    assert distance(back, net.checkpoint) > 0.1
    assert distance(gauge_fit(AttackerView.by_hand(back, anchor=net.checkpoint)), net.checkpoint) <= 1e-6


def test_the_weakened_form_leaves_the_added_dimensions_open():
    net = network("llama")
    plain = protect(net.checkpoint, wide_stream, basis="plain")
    assert net.change(plain) <= 1e-10
    assert not plain["model.embed_tokens.weight"][:, 24:].any()
    assert protect(net.checkpoint, wide_stream)["model.embed_tokens.weight"][:, 24:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restoring_what_was_stored(dtype):
    base = network("llama").checkpoint.to(dtype)
    locked = protect(base, wide_stream)
    assert {locked.dtype(n) for n in locked} == {dtype}
    assert distance(restored(locked, base), base) <= 8 * torch.finfo(dtype).eps


def test_a_tied_head_takes_one_gain_alone():
    net = network("llama")
    config = {**net.checkpoint.config, "tie_word_embeddings": True}
    tied = Checkpoint.of({n: t for n, t in net.checkpoint.items() if n != "lm_head.weight"}, config)
    with pytest.raises(IllegalGauge, match="varies and no map alone reads it"):
        protect(tied, wide_stream)
    even = tied.replace({"model.norm.weight": torch.full_like(tied["model.norm.weight"], 0.7)})
    locked = protect(even, wide_stream)
    for one, two in zip(net.computed(locked), net.computed(even), strict=True):
        assert float((one - two).abs().max()) <= 1e-10 * float(two.abs().max())
    assert distance(unlocked(locked, wide_stream, even, KEY), even) <= 1e-12
    assert distance(restored(locked, even), even) <= 1e-10


@pytest.mark.parametrize(
    ("name", "error", "why"),
    [
        ("bert", IllegalGauge, "read by LayerNorms"),
        ("vit", IllegalGauge, "read by LayerNorms"),
        ("gemma2", IllegalGauge, "varies and no map alone reads it"),
        ("t5", BadInput, "several stacks"),
        ("clip", BadInput, "several stacks"),
    ],
)
def test_it_is_refused_in_a_sentence(name, error, why):
    with pytest.raises(error, match=why):
        protect(network(name).checkpoint, wide_stream)


def test_what_is_of_full_rank_is_no_widened_stream():
    net = network("llama")
    locked = protect(net.checkpoint, wide_stream)
    name = "model.embed_tokens.weight"
    noise = torch.from_numpy(KEY.generator("noise").standard_normal(locked.shape(name)))
    with pytest.raises(BadInput, match="more than 24 dimensions that count"):
        restored(locked.replace({name: locked[name] + noise}), net.checkpoint)


def test_the_shell_puts_it_on_proves_it_and_takes_it_off_by_the_base(shell, tmp_path: Path) -> None:
    base, key, locked, out = (str(tmp_path / name) for name in ("base", "key", "locked", "restored"))
    Checkpoint.of({}, SHELL).fresh(0).save(Path(base))
    told = shell("protect", "wide-stream", base, "--base", base, "--key", key, "--out", locked)
    assert told.code == 0, told.err
    assert "Proven" in told.out
    assert "of another width" in told.out
    assert Checkpoint.open(Path(locked)).config["hidden_size"] > SHELL["hidden_size"]
    told = shell("attack", "shape-restore", locked, "--base", base, "--out", out)
    assert told.code == 0, told.err
    assert distance(Checkpoint.open(Path(out)), Checkpoint.open(Path(base))) < 1e-4
    told = shell("merge", "task-arithmetic", "--base", base, "--expert", locked, "--out", str(tmp_path / "merged"))
    assert told.code == 2
    assert "take a lock that widens it off first" in told.err
