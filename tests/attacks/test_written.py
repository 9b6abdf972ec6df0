"""Texts that a network writes: drawn as it expects them, from language models alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from redteam_attacks.written import written
from torch import Tensor, nn

TOKENS, LENGTH = 11, 6
SIZES = {"vocab_size": TOKENS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LIKE = {"input_ids": torch.full((4096, LENGTH), 3)}


def network(kind: str, **config: Any) -> nn.Module:
    torch.manual_seed(0)
    config = {**SIZES, "intermediate_size": 16, "initializer_range": 0.5, **config}
    made: nn.Module = getattr(transformers, kind)(getattr(transformers, f"{kind.split('For')[0]}Config")(**config))
    return made.eval()


def draws() -> np.random.Generator:
    return np.random.default_rng(0)


class Uncached(nn.Module):
    """A language model that keeps nothing from call to call."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, past_key_values: None = None, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(logits=self.inner(input_ids=input_ids).logits)


def test_each_token_comes_as_often_as_the_network_expects_it() -> None:
    made = network("LlamaForCausalLM")
    texts = written(made, LIKE, draws())
    assert texts is not None
    ids = texts["input_ids"]
    assert ids.shape == LIKE["input_ids"].shape
    assert ids.dtype == torch.int64
    assert set(ids[:, 0].tolist()) == {3}
    with torch.no_grad():
        chance = torch.softmax(made(input_ids=ids).logits.double(), -1)
    for place in range(LENGTH - 1):  # of the chance that it gave to what was drawn, over all texts
        found = nn.functional.one_hot(ids[:, place + 1], TOKENS).double().mean(0)
        spread = (chance[:, place] * (1 - chance[:, place])).mean(0).sqrt() / len(ids) ** 0.5
        assert bool(((found - chance[:, place].mean(0)).abs() < 5 * spread + 1e-12).all())


def test_the_same_texts_without_a_cache() -> None:
    made = network("LlamaForCausalLM")
    few = {"input_ids": LIKE["input_ids"][:8]}
    one, other = (written(net, few, draws()) for net in (made, Uncached(made)))
    assert one is not None
    assert other is not None
    assert torch.equal(one["input_ids"], other["input_ids"])


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_texts_begin_behind_padding_and_have_none(dtype: torch.dtype) -> None:
    ids, mask = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 0]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]], dtype=dtype)
    made = network("LlamaForCausalLM")
    assert written(made, {"input_ids": ids, "attention_mask": mask[:, None]}, draws()) is None, "no mask of padding"
    texts = written(made, {"input_ids": ids, "attention_mask": mask}, draws())
    assert texts is not None
    assert texts["input_ids"][:, 0].tolist() == [5, 7]
    assert texts["attention_mask"].tolist() == [[1] * 4] * 2


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "LlamaForSequenceClassification", "T5ForConditionalGeneration"])
def test_others_write_nothing(kind: str) -> None:
    assert written(network(kind, pad_token_id=0, decoder_start_token_id=0), LIKE, draws()) is None


def test_images_are_no_texts() -> None:
    assert written(network("LlamaForCausalLM"), {"pixel_values": torch.zeros(2, 3, 8, 8)}, draws()) is None
