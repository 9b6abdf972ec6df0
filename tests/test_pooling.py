"""A head on pooled states: what it computes, how it is initialised and saved, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.pooling import HEAD, POOLING, headed
from redteam.errors import NotACheckpoint

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
LABELS = ("a", "b", "c")
IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 0, 0]])
MASK = (IDS != 0).long()


@pytest.fixture(scope="module")
def encoder() -> Checkpoint:
    return Checkpoint.of({}, CONFIG).fresh(0)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_logits_are_the_head_on_pooled_states(encoder: Checkpoint, pooling: str) -> None:
    model = Checkpoint.of({}, headed(encoder.config, LABELS, pooling)).fresh(1)
    bare = Checkpoint.of({name: tensor for name, tensor in model.items() if name not in HEAD}, CONFIG)
    with torch.no_grad():
        logits = model.module()(input_ids=IDS, attention_mask=MASK).logits
        for row, count in enumerate((5, 3)):
            states = bare.module()(input_ids=IDS[row : row + 1, :count]).last_hidden_state[0]
            vector = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
            expected = model[HEAD[0]] @ vector + model[HEAD[1]]
            torch.testing.assert_close(logits[row], expected, rtol=1e-5, atol=1e-6)


def test_padding_in_front_counts_for_nothing() -> None:
    from redteam.checkpoint.pooling import POOLINGS

    states = torch.arange(8.0).reshape(1, 4, 2)
    mask = torch.tensor([[0, 1, 1, 0]])
    assert POOLINGS["cls"](states, mask).tolist() == [[2.0, 3.0]]
    assert POOLINGS["last"](states, mask).tolist() == [[4.0, 5.0]]
    assert POOLINGS["mean"](states, mask).tolist() == [[3.0, 4.0]]


def test_it_starts_as_transformers_starts_heads_and_can_be_trained_and_saved(tmp_path: Path) -> None:
    model = Checkpoint.of({}, headed({**CONFIG, "hidden_size": 64}, LABELS, "mean")).fresh(0)
    assert model.shape(HEAD[0]) == (3, 64)
    assert model[HEAD[0]].std().item() == pytest.approx(0.02, rel=0.3)
    assert not model[HEAD[1]].any()
    module = model.module()
    module(input_ids=IDS).logits.sum().backward()
    assert module.embeddings.word_embeddings.weight.grad.any()
    assert model.trained(module).digest() == model.digest()
    model.save(tmp_path / "model")
    opened = Checkpoint.open(tmp_path / "model")
    assert opened.digest() == model.digest()
    with torch.no_grad():
        assert torch.equal(opened.module()(input_ids=IDS).logits, module(input_ids=IDS).logits)
    assert list(opened.module().config.id2label.values()) == list(LABELS)


def test_its_heads_and_neurons_are_found(encoder: Checkpoint) -> None:
    model = Checkpoint.of({}, headed(encoder.config, LABELS, "mean")).fresh(0)
    here, there = (anatomy_of(each).sites(("qk", "vo", "mlp")) for each in (model, encoder))
    assert [(site.kind, site.layer) for site in here] == [(site.kind, site.layer) for site in there]
    assert len(here) == 6


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({POOLING: "median"}, r"redteam_pooling = 'median'; expected one of mean, cls, last\.$"),
        ({POOLING: ["mean"]}, r"redteam_pooling = \['mean'\]; expected"),
        ({"architectures": ["BertForMaskedLM"]}, r"names a BertForMaskedLM; expected a network without a head\.$"),
    ],
)
def test_what_cannot_be_pooled_is_one_sentence(encoder: Checkpoint, changes: dict[str, object], sentence: str) -> None:
    model = Checkpoint.of({}, headed(encoder.config, LABELS, "mean")).fresh(0)
    with pytest.raises(NotACheckpoint, match=sentence):
        model.configured(changes).module()
