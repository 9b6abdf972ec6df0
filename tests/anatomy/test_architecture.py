import dataclasses

import pytest
import torch

from redteam.anatomy import ARCHITECTURES, GROUPS, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, UnknownName


def test_a_vit_has_three_sites_a_layer(vit):
    sites = anatomy_of(vit.checkpoint).sites()
    assert [site.label for site in sites] == ["qk/0", "vo/0", "mlp/0", "qk/1", "vo/1", "mlp/1"]
    assert [(site.heads, site.width) for site in sites[:3]] == [(3, 8), (3, 8), (1, 20)]
    assert all(name in vit.checkpoint for site in sites for name in site.names)
    assert sites[0].legal == sites[1].legal == set(GROUPS)
    assert sites[2].legal == {"permutation"}


def test_sites_are_chosen_by_kind_in_the_order_of_layers(vit):
    anatomy = anatomy_of(vit.checkpoint)
    assert [site.label for site in anatomy.sites(("mlp", "qk"))] == ["qk/0", "mlp/0", "qk/1", "mlp/1"]
    with pytest.raises(UnknownName, match="did you mean 'qk'"):
        anatomy.sites(("qj",))


def test_every_encoder_matrix_belongs_to_exactly_one_site(vit):
    names = [name for site in anatomy_of(vit.checkpoint).sites() for name in site.names]
    assert len(names) == len(set(names))
    matrices = {n for n in vit.checkpoint if "encoder" in n and n.endswith("weight") and "norm" not in n}
    assert matrices <= set(names)


def test_a_backbone_without_the_prefix_is_found(vit):
    bare = Checkpoint.of({name.removeprefix("vit."): t for name, t in vit.checkpoint.items()}, vit.checkpoint.config)
    assert [site.label for site in anatomy_of(bare).sites()] == [s.label for s in anatomy_of(vit.checkpoint).sites()]


def test_layouts_are_read_off_the_checkpoint(grouped):
    qk, vo, mlp = anatomy_of(grouped.checkpoint).sites()[:3]
    bias = int(qk.left.linear.bias is not None)
    stacks = qk.stacks(grouped.checkpoint)
    assert stacks.left.shape == (2, 6, 2 * (24 + bias))
    assert stacks.right.shape == (2, 6, 24 + bias)
    stacks = vo.stacks(grouped.checkpoint)
    assert stacks.left.shape == (2, 6, 24 + bias)
    assert stacks.right.shape == (2, 6, 2 * 24)
    stacks = mlp.stacks(grouped.checkpoint)
    assert stacks.left.shape == (1, 15, 24 + bias)
    assert stacks.right.shape == (1, 15, 24)
    assert all(x.dtype == torch.float64 for x in (stacks.left, stacks.right))


def _without(checkpoint, *missing, **config):
    tensors = {name: tensor for name, tensor in checkpoint.items() if not name.endswith(missing or ("\0",))}
    return Checkpoint.of(tensors, {**checkpoint.config, **config})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: Checkpoint.of(c, {}), "no config"),
        (lambda c: Checkpoint.of(c, {"model_type": "squid"}), "squid"),
        (lambda c: _without(c, "attention.key.weight"), "key.weight"),
        (lambda c: _without(c, "layernorm_before.weight"), "layernorm_before.weight"),
        (lambda c: _without(c, "query.weight"), "query.weight"),
        (lambda c: _without(c, num_attention_heads=None), "num_attention_heads"),
        (lambda c: _without(c, num_attention_heads="3"), "num_attention_heads"),
        (lambda c: _without(c, num_key_value_heads=2), "groups"),
        (lambda c: _without(c, intermediate_size=21), "shape"),
        (lambda c: _without(c, num_hidden_layers=3), "layer.2"),
    ],
)
def test_what_does_not_fit_is_said(vit, spoil, says):
    with pytest.raises(BadInput, match=says):
        anatomy_of(spoil(vit.checkpoint))


def test_an_architecture_may_allow_less(vit, monkeypatch):
    less = {"qk": "permutation", "vo": "orthogonal", "mlp": "permutation"}
    monkeypatch.setitem(ARCHITECTURES, "vit", dataclasses.replace(ARCHITECTURES["vit"], legal=less))
    qk, vo, _ = anatomy_of(vit.checkpoint).sites()[:3]
    assert qk.legal == {"permutation"}
    assert vo.legal == {"permutation", "signed-permutation", "orthogonal"}
