"""The vocabulary lock on folders: transformers loads what is written, and texts are answered as before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from tests.tokenizers_of_three_kinds import KINDS, SENTENCE, folder

Shell = Callable[..., Any]


def answered(place: Path, text: str = SENTENCE) -> tuple[list[str], torch.Tensor, list[str]]:
    """The tokens of a text, the logits of its last one in the order of the tokens' strings, and these."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place)
    config = json.loads((place / "config.json").read_text())
    loader = AutoModelForMaskedLM if config["model_type"] == "bert" else AutoModelForCausalLM
    network = loader.from_pretrained(place, dtype=torch.float64).eval()
    given = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        logits = network(**given).logits[0, -1]
        states = AutoModel.from_pretrained(place, dtype=torch.float64).eval()(**given).last_hidden_state
    strings = tokenizer.get_vocab()
    order = sorted(strings)
    tokens = tokenizer.convert_ids_to_tokens(given["input_ids"][0])
    return tokens, torch.cat([logits[[strings[s] for s in order]], states.flatten()]), order


def same(one: Path, other: Path, tolerance: float = 1e-5) -> bool:
    (tokens, logits, order), (others, theirs, strings) = answered(one), answered(other)
    assert tokens == others
    assert order == strings
    return float((logits - theirs).abs().max()) <= tolerance * float(logits.abs().max())


def weights(place: Path) -> dict[str, torch.Tensor]:
    return dict(Checkpoint.open(place).items())


def equal(one: Path, other: Path) -> bool:
    here, there = weights(one), weights(other)
    return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.parametrize(("kind", "network"), [(kind, "llama") for kind in KINDS] + [("wordpiece", "bert")])
def test_texts_are_answered_as_before_and_both_ways_back_give_the_files_again(
    shell: Shell, tmp_path: Path, kind: str, network: str
) -> None:
    base = folder(tmp_path / "base", kind, network)
    key, locked, read, freed = (tmp_path / name for name in ("key", "locked", "read", "freed"))
    told = shell("protect", "vocabulary", str(base), "--key", str(key), "--out", str(locked), "--load")
    assert told.code == 0, told.err
    assert "Proven: " in told.out
    assert same(base, locked)
    assert not equal(base, locked)
    (locked / "tokenizer.json").rename(tmp_path / "kept.json")
    (locked / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    assert not same(base, locked), "the base's tokenizer must not do"
    (tmp_path / "kept.json").replace(locked / "tokenizer.json")
    told = shell("attack", "vocabulary-read", str(locked), "--base", str(base), "--out", str(read))
    assert told.code == 0, told.err
    told = shell(
        "attack", "key-holder", str(locked), "--key", str(key), "--defense", "vocabulary", "--out", str(freed),
        "--certify",
    )  # fmt: skip
    assert told.code == 0, told.err
    for back in (read, freed):
        assert equal(base, back)
        assert json.loads((back / "tokenizer.json").read_text()) == json.loads((base / "tokenizer.json").read_text())
