import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redteam.anatomy import ARCHITECTURES, Affine, Linear, Side, anatomy_of, find_sites
from redteam.checkpoint.tensors import Tensors
from redteam.errors import BadInput, IllegalGauge
from redteam.symmetry import GeneralLinear, MatrixGauge, MonomialGauge, Orthogonal, Permutation
from tools.catalogue import trial_of


@settings(deadline=None, max_examples=40)
@given(
    heads=st.integers(1, 3),
    share=st.integers(1, 3),
    width=st.integers(1, 4),
    other=st.integers(1, 5),
    columns=st.booleans(),
    bias=st.booleans(),
)
def test_unstack_is_the_reverse_of_stack(heads, share, width, other, columns, bias):
    side = Side(Linear("w", "b" if bias else None), share, columns)
    cut = heads * share * width
    weight = torch.randn((other, cut) if columns else (cut, other), dtype=torch.float64)
    affine = Affine(weight, torch.randn(len(weight), dtype=torch.float64) if bias else None)
    stack = side.stack(affine, heads)
    assert stack.shape == (heads, width, share * (other + (bias and not columns)))
    back = side.unstack(stack, affine)
    assert torch.equal(back.weight, affine.weight)
    assert (back.bias is None) if not bias else torch.equal(back.bias, affine.bias)


def test_head_h_belongs_to_group_h_over_r():
    side = Side(Linear("w", None), share=2)
    weight = torch.arange(8.0, dtype=torch.float64)[:, None]  # four heads of two rows, in two groups
    stack = side.stack(Affine(weight, None), heads=2)
    assert stack[0].tolist() == [[0, 2], [1, 3]]
    assert stack[1].tolist() == [[4, 6], [5, 7]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_identity_gives_every_tensor_back_in_its_dtype(grouped, dtype):
    checkpoint = grouped.checkpoint.to(dtype)
    for site in anatomy_of(checkpoint).sites():
        tensors = site.apply(checkpoint, MonomialGauge(torch.arange(site.width).repeat(site.heads, 1)))
        assert set(tensors) == set(site.names)
        for name, tensor in tensors.items():
            assert tensor.dtype == dtype
            assert torch.equal(tensor, checkpoint[name])


def test_apply_moves_the_stacks(grouped):
    for site in anatomy_of(grouped.checkpoint).sites(("qk", "vo")):
        gauge = GeneralLinear().sample(site.heads, site.width, np.random.default_rng(0))
        moved = site.stacks(grouped.checkpoint.replace(site.apply(grouped.checkpoint, gauge)))
        expected = site.stacks(grouped.checkpoint).moved(gauge)
        assert torch.allclose(moved.left, expected.left, rtol=1e-12, atol=0)
        assert torch.allclose(moved.right, expected.right, rtol=1e-12, atol=0)


def test_apply_leaves_the_checkpoint_alone(grouped):
    before = grouped.checkpoint.digest()
    for site in anatomy_of(grouped.checkpoint).sites():
        site.apply(grouped.checkpoint, Permutation().sample(site.heads, site.width, np.random.default_rng(0)))
    assert grouped.checkpoint.digest() == before


@pytest.mark.parametrize("name", ["granitemoe", "gpt_oss", "llama4_text"])
def test_experts_in_one_tensor_are_moved_and_compared_one_by_one(name):
    """What reads one expert at a time gives what all at once would, without a float64 copy of the whole tensor."""
    checkpoint = trial_of(name).checkpoint
    site = next(site for site in find_sites(ARCHITECTURES[name], checkpoint).sites(("mlp",)) if site.heads > 1)
    assert [member.width for member in site.members] == [site.width] * site.heads
    assert all(member.members == () for member in site.members)
    whole = site.stacks(checkpoint)
    for place, member in enumerate(site.members):
        alone = member.stacks(checkpoint)
        assert torch.equal(alone.left[0], whole.left[place])
        assert torch.equal(alone.right[0], whole.right[place])
        assert torch.equal(alone.carried[0], whole.carried[place])
    gauge = Permutation().sample(site.heads, site.width, np.random.default_rng(0))
    moved = checkpoint.transform([site], lambda _: gauge)
    assert site.stacks(moved).distance(whole.moved(gauge)) == 0
    reads = Reads(moved.cast(torch.float64))
    site.members[1].stacks(reads)
    assert set(reads.whole) <= {name for name in moved if len(moved.shape(name)) == 1}


class Reads(Tensors):
    """Notes which tensors are read whole."""

    def __init__(self, below):
        self.below, self.whole, self.config = below, [], below.config

    def __getitem__(self, name):
        self.whole.append(name)
        return self.below[name]

    def __iter__(self):
        return iter(self.below)

    def __len__(self):
        return len(self.below)

    def shape(self, name):
        return self.below.shape(name)

    def dtype(self, name):
        return self.below.dtype(name)

    def part(self, name, place):
        return self.below.part(name, place)


def test_illegal_gauges_are_refused(vit):
    qk, _, mlp = anatomy_of(vit.checkpoint).sites()[:3]
    draws = np.random.default_rng(0)
    with pytest.raises(IllegalGauge, match="mlp/0"):
        mlp.apply(vit.checkpoint, Orthogonal().sample(1, 20, draws))
    for heads, width in ((1, 8), (3, 4)):
        with pytest.raises(IllegalGauge, match="qk/0"):
            qk.apply(vit.checkpoint, MatrixGauge(torch.eye(width, dtype=torch.float64).repeat(heads, 1, 1)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_named(vit, value):
    site = anatomy_of(vit.checkpoint).sites()[0]
    name = site.names[0]
    spoiled = vit.checkpoint.replace({name: torch.full(vit.checkpoint.shape(name), value)})
    with pytest.raises(BadInput, match=r"query\.weight"):
        site.stacks(spoiled)


# What would happen if a detail were forgotten: the property tests of locks must be able to notice it.


class _Interleaved(Side):
    """Head h in group h mod G: grouping forgotten."""

    def stack(self, affine, heads):
        return super().stack(_reordered(affine, self, heads, forth=True), heads)

    def unstack(self, stack, affine):
        heads = len(stack)
        return _reordered(super().unstack(stack, _reordered(affine, self, heads, True)), self, heads, forth=False)


def _reordered(affine, side, heads, forth):
    dim = 1 if side.columns else 0
    shape = (side.share, heads) if forth else (heads, side.share)

    def turn(x, dim):
        return x.unflatten(dim, (*shape, -1)).transpose(dim, dim + 1).flatten(dim, dim + 2)

    bias = affine.bias if side.columns or affine.bias is None else turn(affine.bias, 0)
    return Affine(turn(affine.weight, dim), bias)


def _side(site, which, **changes):
    return dataclasses.replace(site, **{which: dataclasses.replace(getattr(site, which), **changes)})


def _linear(site, which, **changes):
    return _side(site, which, linear=dataclasses.replace(getattr(site, which).linear, **changes))


def _ungroup(site, which):
    side = getattr(site, which)
    return dataclasses.replace(site, **{which: _Interleaved(side.linear, side.share, side.columns)})


BROKEN = {
    "grouping of queries": ("qk", lambda s: _ungroup(s, "left")),
    "grouping of outputs": ("vo", lambda s: _ungroup(s, "right")),
    "query bias": ("qk", lambda s: _linear(s, "left", bias=None)),
    "value bias": ("vo", lambda s: _linear(s, "left", bias=None)),
    "up bias": ("mlp", lambda s: _linear(s, "left", bias=None)),
    "columns of the output": ("vo", lambda s: _side(s, "right", columns=False)),
    "transposed output": ("vo", lambda s: _linear(s, "right", transposed=not s.right.linear.transposed)),
    "rows of a fused weight": (
        "qk",
        lambda s: (
            _linear(s, "left", rows=dataclasses.replace(s.left.linear.rows, start=6)) if s.left.linear.rows else None
        ),
    ),
}


@pytest.mark.parametrize("forgotten", BROKEN)
def test_forgetting_a_detail_changes_the_function(grouped, forgotten):
    kind, spoil = BROKEN[forgotten]
    group = Permutation() if kind == "mlp" else GeneralLinear(scale=(0.5, 2.0))
    for site in anatomy_of(grouped.checkpoint).sites((kind,)):
        broken = spoil(site)
        if broken is None or ("bias" in forgotten and site.left.linear.bias is None):
            pytest.skip("this layout has no such detail")
        gauge = group.sample(site.heads, site.width, np.random.default_rng(0))
        right = grouped.checkpoint.replace(site.apply(grouped.checkpoint, gauge))
        wrong = grouped.checkpoint.replace(broken.apply(grouped.checkpoint, gauge))
        assert grouped.change(right) < 1e-10
        assert grouped.change(wrong) > 1e-3
