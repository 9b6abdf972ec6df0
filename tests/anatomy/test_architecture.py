import dataclasses

import pytest
import torch

from redteam.anatomy import ARCHITECTURES, GROUPS, anatomy_of, subgroups
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
    assert vo.legal == subgroups("orthogonal")


def test_every_kind_of_site(vit, bert, grouped):
    heads = ["heads/0", "norm/0/attention", "norm/0/mlp"]
    assert [site.label for site in anatomy_of(vit.checkpoint).sites(("norm", "heads"))][:3] == heads
    assert [site.label for site in anatomy_of(bert.checkpoint).sites(("norm", "heads", "queries"))] == [
        "heads/0",
        "heads/1",
    ]
    heads, queries, attention, mlp = anatomy_of(grouped.checkpoint).sites(("heads", "queries", "norm"))[:4]
    assert [(site.heads, site.width) for site in (heads, queries, attention, mlp)] == [(1, 2), (2, 2), (1, 24), (1, 24)]
    assert heads.legal == queries.legal == {"permutation"}
    assert attention.legal == subgroups("scaling")
    for site in (heads, queries, attention, mlp):
        stacks = site.stacks(grouped.checkpoint)
        assert stacks.left.shape[:2] == stacks.right.shape[:2] == (site.heads, site.width)
        rows = sum(grouped.checkpoint[name].numel() for name in site.names)
        assert stacks.left.numel() + stacks.right.numel() <= rows


def test_a_bert_reads_the_norm_that_was_written_before_it(bert):
    (qk, _, mlp), (later, *_) = (anatomy_of(bert.checkpoint).sites()[i : i + 3] for i in (0, 3))
    assert qk.left.linear.norm.weight == "bert.embeddings.LayerNorm.weight"
    assert mlp.left.linear.norm.bias == "bert.encoder.layer.0.attention.output.LayerNorm.bias"
    assert later.left.linear.norm.weight == "bert.encoder.layer.0.output.LayerNorm.weight"
    bare = Checkpoint.of({n.removeprefix("bert."): t for n, t in bert.checkpoint.items()}, bert.checkpoint.config)
    assert anatomy_of(bare).sites()[3].left.linear.norm.weight == "encoder.layer.0.output.LayerNorm.weight"


def test_every_encoder_matrix_of_a_bert_belongs_to_exactly_one_site(bert):
    names = [name for site in anatomy_of(bert.checkpoint).sites() for name in site.names]
    assert len(names) == len(set(names))
    matrices = {n for n in bert.checkpoint if "encoder" in n and n.endswith("weight") and "LayerNorm" not in n}
    assert matrices <= set(names)


def test_rotary_embeddings_leave_planar_gauges_of_their_layout(rotary):
    qk, vo = anatomy_of(rotary.checkpoint).sites()[:2]
    assert qk.legal == subgroups("planar")
    assert qk.planes in ("half", "interleaved")
    assert vo.legal == set(GROUPS)
    assert not qk.right.linear.bias_free


def test_a_norm_that_a_whole_block_reads_is_one_site(grouped, monkeypatch):
    parallel = dataclasses.replace(ARCHITECTURES["toy"], mlp_norm=ARCHITECTURES["toy"].attention_norm)
    monkeypatch.setitem(ARCHITECTURES, "toy", parallel)
    site, *_ = anatomy_of(grouped.checkpoint).sites(("norm",))
    assert site.label == "norm/0/block"
    assert len((site.right, *site.right_too)) == 4


def test_a_kind_that_is_left_out_has_no_sites(vit, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "vit", dataclasses.replace(ARCHITECTURES["vit"], legal={"vo": "orthogonal"}))
    assert {site.kind for site in anatomy_of(vit.checkpoint).sites(("qk", "vo", "mlp", "heads", "norm"))} == {"vo"}
