"""What lies beside a block's maps and moves with them: forgotten, it changes the function."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from redteam.anatomy import ARCHITECTURES, Architecture, Network, find_sites
from redteam.errors import BadInput
from tests.anatomy.test_catalogue import trial


def without(name: str, field: str) -> Any:
    """A description of the catalogue, a field of it forgotten in every stack."""
    described = ARCHITECTURES[name]
    if isinstance(described, Architecture):
        return replace(described, **{field: ()})  # type: ignore[arg-type]
    assert isinstance(described, Network)
    return replace(described, stacks=tuple(replace(stack, **{field: ()}) for stack in described.stacks))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "field", "kind"),
    [
        ("convnextv2", "with_neurons", "mlp"),  # gains and shifts of all places, [1, 1, 1, neurons]
        ("segformer", "with_neurons", "mlp"),  # a convolution of each neuron, and its biases
        ("swin", "with_heads", "heads"),  # a table of scores by distance, [distances, heads]
        ("swinv2", "with_heads", "heads"),  # a map onto such scores, [heads, width], and scales, [heads, 1, 1]
        ("beit", "with_heads", "heads"),
        ("videomae", "biases", "vo"),
        pytest.param("jamba", "attention_writes", "residual", marks=pytest.mark.slow),
    ],
)
def test_what_is_forgotten_changes_the_function(name: str, field: str, kind: str) -> None:
    case = trial(name)
    assert case.kept(ARCHITECTURES[name], kind, 1) <= 1e-9
    assert case.kept(without(name, field), kind, 1) > 1e-6


def test_numbers_of_another_count_are_refused() -> None:
    described = ARCHITECTURES["beit"]
    assert isinstance(described, Architecture)
    wrong = replace(described, with_heads=("encoder.layer.{layer}.layernorm_before.weight",))
    with pytest.raises(BadInput, match="expected 4 rows or columns"):
        find_sites(wrong, trial("beit").checkpoint)


def test_biases_apart_from_their_maps_come_with_them() -> None:
    case = trial("videomae")
    site = find_sites(ARCHITECTURES["videomae"], case.checkpoint).sites(("qk",))[0]
    assert site.left.linear.bias == "videomae.encoder.layer.0.attention.attention.q_bias"
    left, right = site.read(case.checkpoint)
    assert left.bias is not None
    assert right.bias is None, "keys have none"
    assert left.bias.equal(case.checkpoint[site.left.linear.bias])


def test_a_bias_apart_from_a_fused_map_is_whole() -> None:
    """DeBERTa's queries, keys and values lie in one tensor, and the biases of two of them in one each."""
    case = trial("deberta")
    site = find_sites(ARCHITECTURES["deberta"], case.checkpoint).sites(("vo",))[0]
    value, _ = site.read(case.checkpoint)
    assert value.weight.shape == (64, 64)
    assert value.bias is not None
    assert value.bias.shape == (64,)
    changed = site.left.linear.write(case.checkpoint, replace(value, bias=2 * value.bias))
    assert changed[site.left.linear.bias].equal(2 * case.checkpoint[site.left.linear.bias])
