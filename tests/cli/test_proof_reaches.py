"""How far a proof reaches: tokens as small as the norms' eps, and networks loaded without their heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from tests.cli.test_proof import SMALL, Shell, here, protect, refused, saved

__all__ = ["here"]
SCALED = "scaling:sites=[norm-scale], signed=false, scale=[0.05, 0.5]"
TYPES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {"rms_norm_eps": 1e-15}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"layer_norm_epsilon": 1e-15}),
    "bert": ("BertForSequenceClassification", "BertConfig", {"layer_norm_eps": 1e-15}),
}
WITHOUT = {"llama": "LlamaModel", "gpt2": "GPT2Model", "bert": "BertModel"}
SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}


def model(name: str, **settings: Any) -> Path:
    network, config, own = TYPES[name]
    return saved(name, network, config, **SMALL, **(SIZES if name == "gpt2" else {}), **{**own, **settings})


@pytest.mark.parametrize("name", TYPES)
def test_a_factor_on_what_norms_read_is_refused_for_small_tokens(shell: Shell, here: Path, name: str) -> None:
    """The eps is nothing beside the tokens that are made up, and all that is left beside others."""
    refused(protect(shell, SCALED, model(name)), "eps of its norms", "as small as that")


def test_what_is_refused_does_move_the_outputs(shell: Shell, here: Path) -> None:
    import transformers

    folder = model("llama")
    whole = Checkpoint.open(folder)
    tokens = whole["model.embed_tokens.weight"].clone()
    tokens[3:6] *= 1e-7
    whole.replace({"model.embed_tokens.weight": tokens}).save(Path("small"))
    told = protect(shell, SCALED, "small", "--unproven", "--dtype", "float64")
    assert told.code == 0, told.err
    outputs = []
    for one in ("small", "out"):
        network = transformers.LlamaForCausalLM.from_pretrained(one, dtype=torch.float64)
        with torch.no_grad():
            outputs.append([network(torch.tensor([ids])).logits for ids in ([3, 4, 5], [10, 11, 12])])
    small, usual = ((a - b).abs().max() / b.abs().max() for a, b in zip(*outputs, strict=True))
    assert float(small) > 1e-3 > 1e-6 > float(usual)


def test_where_norms_add_nothing_the_factor_is_free(shell: Shell, here: Path) -> None:
    told = protect(shell, SCALED, model("llama", rms_norm_eps=0.0))
    assert told.code == 0, told.err
    assert "Proven" in told.out


@pytest.mark.parametrize("name", TYPES)
def test_what_a_network_without_its_head_gives_out_is_told(shell: Shell, here: Path, name: str) -> None:
    import transformers

    folder = model(name)
    told = protect(shell, "permutation:sites=[residual]", folder)
    assert told.code == 0, told.err
    sentence = f"Loaded without its head, as {WITHOUT[name]}, it gives out other states than before"
    assert sentence in told.out
    assert sentence in Path("out/README.md").read_text()
    states = []
    for one in (folder, "out"):
        with torch.no_grad():
            found = transformers.AutoModel.from_pretrained(one)(torch.tensor([[3, 4, 5]]))
            states.append(found.last_hidden_state)
    assert float((states[0] - states[1]).abs().max()) > 0.1


@pytest.mark.parametrize("name", TYPES)
def test_nothing_is_told_where_the_states_are_kept(shell: Shell, here: Path, name: str) -> None:
    told = protect(shell, "mergelock", model(name))
    assert told.code == 0, told.err
    assert "Proven" in told.out
    assert "without its head" not in told.out + Path("out/README.md").read_text()


def test_a_gain_that_the_head_takes_over_is_told_too(shell: Shell, here: Path) -> None:
    told = protect(shell, "scaling:sites=[norm]", model("llama"))
    assert told.code == 0, told.err
    assert "without its head, as LlamaModel" in told.out
