"""Networks with a tensor that nobody has described: a lock is refused or keeps the function, and never breaks it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from redteam.anatomy import ARCHITECTURES, KINDS, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.tensors import in_a_block
from redteam.errors import BadInput, NotACheckpoint
from redteam.key import Key
from redteam.symmetry import largest_legal_group, prove, sample_gauges
from redteam.symmetry.running import run_network
from tests.zoo import NETWORKS, network

KEY = Key.derive(seed=0, index=0, name="undescribed")
ADDED = ("{block}q_norm.weight", "{block}attention.extra.weight", "{block}mlp.shared.up.weight", "value_head.weight")


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(set(NETWORKS) - {"resnet"})), added=st.sampled_from(ADDED))
def test_a_tensor_that_the_network_has_no_place_for_is_named(name: str, added: str) -> None:
    checkpoint = network(name).checkpoint
    block = next(n for n in checkpoint if in_a_block(n)).rpartition(".")[0].rpartition(".")[0] + "."
    strange = added.format(block=block)
    with pytest.raises(NotACheckpoint, match=added.replace("{block}", "").replace(".", r"\.")):
        prove(checkpoint.replace({strange: torch.ones(4)}), checkpoint)


@pytest.mark.parametrize("field", ["query_norm", "gate", "layer_scales", "post_norms"])
@pytest.mark.parametrize("name", ["qwen3", "gemma2", "dinov2", "llama"])
def test_a_description_that_lacks_a_part_is_found_out(monkeypatch: pytest.MonkeyPatch, name: str, field: str) -> None:
    """Whatever lock it then allows: it is refused, or what the proof says of it is what the network does."""
    checkpoint = network(name).checkpoint
    described = ARCHITECTURES[checkpoint.architecture]
    nothing = () if field in ("post_norms", "layer_scales") else None
    without = dataclasses.replace(described, **{field: nothing})  # type: ignore[type-var]
    monkeypatch.setitem(ARCHITECTURES, checkpoint.architecture, without)
    for kind in KINDS:
        try:
            site = anatomy_of(checkpoint).sites((kind,))[0]
            locked = sample_gauges(checkpoint, (kind,), largest_legal_group(site), KEY.generator)
            proof = prove(checkpoint, locked)
        except BadInput:
            continue
        assert proof.holds == (network(name).change(locked) < 1e-8), kind


class Sometimes(nn.Module):
    """Uses one of its two maps only where it is given a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"always": nn.Linear(3, 3), "sometimes": nn.Linear(3, 3)})])

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        found = self.layers[0]["always"](first)
        return found if second is None else found + self.layers[0]["sometimes"](second)


def test_what_no_operation_took_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    built = Sometimes().double()
    monkeypatch.setattr(Checkpoint, "module", lambda *_: built)
    inputs = {"first": torch.ones(2, 3), "second": torch.ones(2, 3)}
    both, one = (
        run_network(Checkpoint.of({}, {}), [{k: inputs[k] for k in names}], torch.float64)
        for names in (("first", "second"), ("first",))
    )
    assert both.unread == ()
    assert set(one.unread) == {"layers.0.sometimes.weight", "layers.0.sometimes.bias"}
