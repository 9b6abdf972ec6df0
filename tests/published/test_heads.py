"""Heads that are tied, stored although tied, stored and different, or missing; vocabularies of other lengths."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from tests.published.conftest import SMALL, Shell, all_four, loaded, made, put, tuned

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
STREAM = 'permutation:sites=["residual"]'
"""A lock that moves embedding and head, so that a tied pair must move as one."""


@cache
def granite(*, tied: bool) -> Checkpoint:
    import transformers

    return made("GraniteForCausalLM", transformers.GraniteConfig(**SMALL, tie_word_embeddings=tied))


def logits(folder: str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = loaded(folder)[0](input_ids=torch.arange(3, 12)[None]).logits
    return found


@pytest.mark.parametrize("stored", ["base", *(pytest.param(who, marks=pytest.mark.slow) for who in ("expert", "both"))])
def test_a_tied_head_that_is_stored_stays_what_the_embedding_becomes(stored: str, here: Path, shell: Shell) -> None:
    """mlx-lm#1298: some files hold the head although it is tied. A lock and a merge move both or neither."""
    there = granite(tied=True)
    assert HEAD not in there
    for folder, tensors in (("base", dict(there)), ("expert", tuned(there))):
        head = {HEAD: tensors[EMBEDDING].clone()} if stored in (folder, "both") else {}
        put(folder, {**tensors, **head}, there.config)
    told = shell("protect", STREAM, "expert", "--key", "key", "--out", "locked", "--check")
    assert told.code == 0, told.err
    torch.testing.assert_close(logits("locked"), logits("expert"), atol=1e-4, rtol=1e-4)
    merge = ("merge", "task-arithmetic:coefficient=1.0", "--base", "base", "--expert", "expert")
    told = shell(*merge, "--out", "merged", "--load")
    assert told.code == 0, told.err
    assert "Not merged" not in told.out
    torch.testing.assert_close(logits("merged"), logits("expert"), atol=1e-4, rtol=1e-4)
    for folder in ("locked", "merged"):
        written = Checkpoint.open(folder)
        assert HEAD not in written or torch.equal(written[HEAD], written[EMBEDDING])


def test_a_head_that_the_config_ties_and_the_file_does_not(here: Path, shell: Shell) -> None:
    """accelerate#3870: both are stored and differ, so that loaders don't tie them. The base has room for one alone."""
    there = granite(tied=True)
    trained = tuned(there)
    put("base", there, there.config)
    put("expert", {**trained, HEAD: trained[EMBEDDING].flip(0) + 0.1}, there.config)
    told = all_four(shell)
    assert f"Not merged of expert, since the base lacks them in this shape: {HEAD}" in told["merge"].out
    torch.testing.assert_close(logits("locked"), logits("expert"), atol=1e-4, rtol=1e-4)


def test_a_head_that_is_missing_is_so_in_what_is_written_and_said(here: Path, shell: Shell) -> None:
    """An embedding model published without the head that its config unties: loaders draw one at random."""
    there = granite(tied=False)
    headless = {name: tensor for name, tensor in tuned(there).items() if name != HEAD}
    put("base", there, there.config)
    put("expert", headless, there.config)
    all_four(shell)
    told = shell("protect", "mergelock", "expert", "--key", "key", "--out", "out", "--check")
    assert f"as expert does (missing keys: {HEAD})" in told.out
    merged = Checkpoint.open("merged")
    assert torch.equal(merged[HEAD], there[HEAD])


@pytest.mark.slow
def test_tied_in_a_part_of_the_config_alone(here: Path, shell: Shell) -> None:
    """transformers#43429, #30202: the text part says that the head is tied, and no head is stored."""
    import transformers as t

    from tests.published.conftest import VISION

    text = t.LlamaConfig(**SMALL, tie_word_embeddings=True)
    config = t.LlavaConfig(
        text_config=text, vision_config=t.CLIPVisionConfig(**VISION), image_token_index=59, tie_word_embeddings=True
    )
    there = made("LlavaForConditionalGeneration", config)
    assert not any("lm_head" in name for name in there)
    settings: dict[str, Any] = {k: v for k, v in there.config.items() if k != "tie_word_embeddings"}
    put("base", there, settings)
    put("expert", tuned(there), settings)
    assert settings["text_config"]["tie_word_embeddings"] is True
    all_four(shell)


def longer(tensors: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    extra = {name: torch.ones(rows - 60, 32) for name in (EMBEDDING, HEAD)}
    return {name: torch.cat([tensor, extra[name]]) if name in extra else tensor for name, tensor in tensors.items()}


@pytest.mark.slow
@pytest.mark.parametrize("who", ["expert", "base"])
def test_added_and_padded_tokens(who: str, here: Path, shell: Shell) -> None:
    """mergekit#47, #425, #328: rows in common are locked, fitted and merged, and which they are is said."""
    there = granite(tied=False)
    rows = {"base": 60, "expert": 60, who: 64}
    tensors = {"base": dict(there), "expert": tuned(there)}
    for folder, count in rows.items():
        more = longer(tensors[folder], count) if count > 60 else tensors[folder]
        put(folder, more, {**there.config, "vocab_size": count})
    told = all_four(shell)
    assert f"the first 60 rows of {EMBEDDING}" in told["merge"].out
    merged = Checkpoint.open("merged")
    for name in (EMBEDDING, HEAD):
        assert len(merged[name]) == rows["base"]
        torch.testing.assert_close(merged[name][:60], tensors["expert"][name], atol=1e-6, rtol=1e-5)
    assert loaded("merged")[0].config.vocab_size == rows["base"]
