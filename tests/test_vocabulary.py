"""Models with added or padded tokens: rows in common are fitted, audited and merged, and the rest is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.audit import audit
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.vocabulary import as_long_as, in_common, token_rows
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.symmetry import Permutation, PositiveScaling, prove, sample_gauges
from redteam.views import AttackerView

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """base and expert of 60 tokens, grown: the expert with 64, short: with 50."""
    import transformers

    home = tmp_path_factory.mktemp("models")
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=60,
        max_position_embeddings=32,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.LlamaForCausalLM(config).double()
        network.save_pretrained(home / "base")
        for parameter in network.parameters():
            parameter.data += 0.003 * torch.randn_like(parameter)
        for name, size in (("expert", 60), ("grown", 64), ("short", 50)):
            network.resize_token_embeddings(size)
            network.save_pretrained(home / name)
    return {path.name: Checkpoint.open(path) for path in home.iterdir()}


def test_rows_in_common_are_told_by_the_config(models: dict[str, Checkpoint]) -> None:
    base, grown = models["base"], models["grown"]
    assert token_rows(grown, base) == {EMBEDDING: 60, HEAD: 60}
    assert token_rows(models["expert"], base) == {}
    assert in_common(models["expert"], base) == (models["expert"], base)
    labels = grown.replace({"score.weight": torch.zeros(3, 32)}), base.replace({"score.weight": torch.zeros(2, 32)})
    assert "score.weight" not in token_rows(*labels), "labels of different tasks have nothing in common"


def locked(victim: Checkpoint) -> Checkpoint:
    """Under one lock of the stream, the norms and the neurons."""
    key = Key.derive(seed=0, index=0, name="vocabulary")
    made = sample_gauges(victim, ("residual",), Permutation(), key.child("residual").generator)
    made = sample_gauges(made, ("norm",), PositiveScaling(), key.child("norm").generator)
    made = sample_gauges(made, ("mlp",), Permutation(), key.child("mlp").generator)
    assert prove(victim, made).holds
    return made


@pytest.mark.parametrize("name", ["grown", "short"])
def test_a_lock_comes_off_as_if_the_tokens_were_the_base_s(models: dict[str, Checkpoint], name: str) -> None:
    gauge_fit, base = ATTACKS.load("gauge-fit"), models["base"]
    fitted, plain = (gauge_fit(AttackerView.by_hand(locked(models[which]), anchor=base)) for which in (name, "expert"))
    for tensor in base:
        rows = min(len(fitted[tensor]), len(plain[tensor]))
        away = float((fitted[tensor][:rows] - plain[tensor][:rows]).norm())
        assert away < 1e-3 * float(plain[tensor].norm()), "fewer tokens tell a factor a little worse"
    found = {site.kind: site for site in audit(locked(models[name]), base).sites}
    assert found["residual"].group == "permutation"


@pytest.mark.parametrize("name", ["grown", "short"])
def test_a_merge_has_the_base_s_tokens(
    models: dict[str, Checkpoint], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    base, expert = models["base"], models[name]
    for which in ("base", name):
        models[which].save(which)
    told = shell("merge", "task-arithmetic:coefficient=1.0", "--base", "base", "--expert", name, "--out", "out")
    assert told.code == 0, told.err
    rows = min(60, len(expert[EMBEDDING]))
    assert f"the first {rows} rows of {EMBEDDING}" in told.out
    merged = Checkpoint.open("out")
    assert merged.config["vocab_size"] == 60
    for tensor in (EMBEDDING, HEAD):
        torch.testing.assert_close(merged[tensor][:rows], expert[tensor][:rows])
        torch.testing.assert_close(merged[tensor][rows:], base[tensor][rows:])
    assert torch.equal(as_long_as(expert, base)[HEAD][rows:], base[HEAD][rows:])
