"""The vocabulary lock on folders: transformers loads what is written, and texts are answered as before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.tokenizer_files import movable_tokens, numbered_tokens, renumber_tokenizer
from redteam.errors import NotACheckpoint
from tests.tokenizers_of_three_kinds import KINDS, SENTENCE, folder, tokenizer

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


@pytest.mark.parametrize(("kind", "network"), [("bpe", "llama"), ("unigram", "llama"), ("wordpiece", "bert")])
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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Path:
    """base, key, and locked: the base under the lock, with what says numbers beside its tokenizer."""
    home = tmp_path_factory.mktemp("vocabulary")
    base = folder(home / "base", "bpe")
    by_number = numbered_tokens(base)
    (base / "vocab.json").write_text(json.dumps({token: number for number, token in by_number.items()}))
    (base / "vocab.txt").write_text("\n".join(by_number[number] for number in sorted(by_number)) + "\n")
    (base / "tokenizer.model").write_bytes(b"\x0a\x0e")
    (base / "generation_config.json").write_text(json.dumps({"suppress_tokens": [10, 11], "bad_words_ids": [[12]]}))
    told = shell(
        "protect", "vocabulary", str(base), "--key", str(home / "key"), "--out", str(home / "locked"), "--unproven"
    )
    assert told.code == 0, told.err
    assert "tokenizer.model" in told.out
    assert "have other numbers" in told.out
    return home


def test_all_files_that_say_numbers_say_the_same_and_what_is_named_stays(made: Path) -> None:
    before, after = numbered_tokens(made / "base"), numbered_tokens(made / "locked")
    assert before != after
    assert json.loads((made / "locked" / "vocab.json").read_text()) == {token: n for n, token in after.items()}
    assert (made / "locked" / "vocab.txt").read_text().split() == [after[n] for n in sorted(after)]
    assert not (made / "locked" / "tokenizer.model").exists()
    assert [before[n] for n in (0, 1, 2, 3, 10, 11, 12)] == [after[n] for n in (0, 1, 2, 3, 10, 11, 12)]
    assert "have other numbers" in (made / "locked" / "README.md").read_text()


def test_rows_tell_where_the_tokenizer_is_missing(shell: Shell, made: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        (tmp_path / "bare" / name).write_bytes((made / "locked" / name).read_bytes())
    told = shell(
        "attack", "vocabulary-match", str(tmp_path / "bare"), "--base", str(made / "base"),
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "no tokenizer.json to be renumbered" in told.out
    assert equal(tmp_path / "out", made / "base")


def test_nothing_is_read_off_tokenizers_that_agree(shell: Shell, made: Path, tmp_path: Path) -> None:
    base, out = str(made / "base"), tmp_path / "out"
    told = shell("attack", "vocabulary-read", base, "--base", base, "--out", str(out))
    assert told.code == 2
    assert "number tokens alike" in told.err
    assert "changes no tensor" in told.err
    assert not out.exists()


def test_a_model_without_a_tokenizer_is_refused(shell: Shell, made: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((made / "base" / name).read_bytes())
    key, out = tmp_path / "key", tmp_path.parent / "out"
    told = shell("protect", "vocabulary", str(tmp_path), "--key", str(key), "--out", str(out))
    assert told.code == 2
    assert "has no tokenizer.json that says which there are" in told.err
    assert not out.exists()
    assert not key.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_renumbered_tokenizer_gives_the_same_tokens_under_the_new_numbers(kind: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    before = tokenizer(kind)
    before.save(str(tmp_path / "tokenizer.json"))
    free = sorted(movable_tokens(tmp_path).values())
    assert len(free) > 20
    moved = dict(zip(free, free[1:] + free[:1], strict=True))
    assert renumber_tokenizer(tmp_path, moved) == ()
    after = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (SENTENCE, "cats §", "<s> zzz </s>"):
        one, other = before.encode(text), after.encode(text)
        assert one.tokens == other.tokens
        assert [moved.get(number, number) for number in one.ids] == other.ids
        assert before.decode(one.ids) == after.decode(other.ids)
    assert after.get_vocab_size() == before.get_vocab_size()
    assert after.token_to_id("zzz") == before.token_to_id("zzz")


def test_a_vocabulary_without_numbers_is_refused(tmp_path: Path) -> None:
    tokenizer("bpe").save(str(tmp_path / "tokenizer.json"))
    held = json.loads((tmp_path / "tokenizer.json").read_text())
    free = sorted(movable_tokens(tmp_path).values())
    held["model"]["vocab"]["odd"] = "seven"
    (tmp_path / "tokenizer.json").write_text(json.dumps(held))
    with pytest.raises(NotACheckpoint, match=r"tokenizer\.json gives 'odd' the number 'seven'"):
        renumber_tokenizer(tmp_path, dict(zip(free[:2], free[1::-1], strict=True)))
