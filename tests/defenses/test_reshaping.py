"""Locks that change shapes: exact, undone by their key, folded back by anybody who looks; and what they refuse."""

import math

import numpy as np
import pytest
import torch
from redteam_attacks.folding import fold_neurons, narrow_heads
from redteam_attacks.gauge_fit import gauge_fit
from redteam_attacks.hungarian import hungarian
from redteam_defenses.mergelock import mergelock
from redteam_defenses.null_shift import null_shift
from redteam_defenses.padded_heads import padded_heads
from redteam_defenses.split_neurons import split_neurons

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput, NotACheckpoint
from redteam.symmetry import GeneralLinear, Permutation, fit_gauges, tied_cost
from redteam.views import AttackerView, unlocked
from tests.defenses.shaped import KEY, OTHER, distance, protect, restored, shapes

BOTH = [split_neurons, padded_heads]


@pytest.mark.parametrize("defend", BOTH)
def test_the_function_stays_and_the_shapes_do_not(vit, defend):
    locked = protect(vit.checkpoint, defend)
    assert vit.change(locked) <= 1e-10
    moved = set(locked) - set(shared_tensors(locked, vit.checkpoint))
    assert moved
    assert all("intermediate" in n or "output.dense.weight" in n or "attention" in n for n in moved)
    assert set(locked) == set(vit.checkpoint)


def test_split_neurons_keep_the_function_in_every_layout_but_fused_attention_is_no_obstacle(case):
    locked = protect(case.checkpoint, split_neurons)
    assert case.change(locked) <= 1e-10
    (before, after) = (anatomy_of(x).sites(("mlp",))[0].width for x in (case.checkpoint, locked))
    assert after == before + math.ceil(before / 4)
    assert distance(unlocked(locked, split_neurons, case.checkpoint, KEY), case.checkpoint) <= 1e-12


def test_padded_heads_keep_every_product_where_heads_are_grouped(grouped):
    base = grouped.checkpoint
    if any(site.left.linear.rows for site in anatomy_of(base).sites()):
        with pytest.raises(BadInput, match="holds several projections"):
            protect(base, padded_heads)
        return
    locked = protect(base, padded_heads)
    for old, new in zip(*(anatomy_of(x).sites(("qk", "vo")) for x in (base, locked)), strict=True):
        assert new.width == old.width + 4
        before, after = old.stacks(base), new.stacks(locked)
        factor = math.sqrt(new.width / old.width) if old.kind == "qk" else 1.0
        product = before.left.mT @ before.right * factor
        assert float((after.left.mT @ after.right - product).abs().max()) <= 1e-12 * float(product.abs().max())
        # None of the dimensions is seen to be padding: both stacks fill the whole head.
        assert float(torch.linalg.cond(after.left.mT).max()) > 1.0
        assert all(float(x.square().mean(-1).min()) > 1e-3 for x in (after.left, after.right))
    assert distance(unlocked(locked, padded_heads, base, KEY), base) <= 1e-12
    back = fit_gauges(narrow_heads(locked, old.width, tolerance=1e-9), base, ("qk", "vo"), GeneralLinear())
    assert tied_cost(back, base, ("qk", "vo")) <= 1e-18 * tied_cost(_halved(base), base, ("qk", "vo"))


def _halved(checkpoint):
    return checkpoint.replace({name: tensor / 2 for name, tensor in checkpoint.items()})


@pytest.mark.parametrize("defend", BOTH)
def test_its_key_takes_it_off_and_no_other_does(vit, defend):
    locked = protect(vit.checkpoint, defend)
    assert distance(unlocked(locked, defend, vit.checkpoint, KEY), vit.checkpoint) <= 1e-12
    assert distance(unlocked(locked, defend, vit.checkpoint, OTHER), vit.checkpoint) > 0.1
    assert shapes(unlocked(locked, defend, vit.checkpoint, OTHER)) == shapes(vit.checkpoint)


@pytest.mark.parametrize(
    "defenses",
    [
        [split_neurons],
        [padded_heads],
        [split_neurons, split_neurons],
        [mergelock, padded_heads],
        [padded_heads, mergelock],
        [padded_heads, null_shift, split_neurons],
    ],
    ids=lambda chain: "+".join(f.__name__ for f in chain),
)
def test_restoring_gives_the_shapes_back_and_a_fit_after_it_the_weights(vit, defenses):
    locked = protect(vit.checkpoint, *defenses)
    back = restored(locked, vit.checkpoint)
    assert shapes(back) == shapes(vit.checkpoint)
    assert vit.change(back) <= 1e-7
    weights = gauge_fit(AttackerView.by_hand(back, anchor=vit.checkpoint))
    assert distance(weights, vit.checkpoint) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restoring_what_was_stored(vit, dtype):
    base = vit.checkpoint.to(dtype)
    back = restored(protect(base, split_neurons), base)
    back = fit_gauges(back, base, ("mlp",), Permutation())
    assert distance(back, base) <= 4 * torch.finfo(dtype).eps


def test_restoring_leaves_a_model_of_the_right_shapes_alone(case):
    assert restored(case.checkpoint, case.checkpoint) is case.checkpoint


def test_restoring_says_what_it_cannot_fold(vit):
    locked = protect(vit.checkpoint, split_neurons)
    name = "vit.encoder.layer.1.intermediate.dense.weight"
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(locked.shape(name)))
    with pytest.raises(BadInput, match=r"of 5 surplus neurons at mlp/1 have a twin"):
        restored(locked.replace({name: locked[name] + 0.3 * noise}), vit.checkpoint)
    padded = protect(vit.checkpoint, padded_heads)
    name = "vit.encoder.layer.0.attention.attention.key.weight"
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(padded.shape(name)))
    noisy = padded.replace({name: padded[name] + 0.3 * noise})
    with pytest.raises(BadInput, match=r"heads at .*/0 have more than 8 dimensions that count"):
        restored(noisy, vit.checkpoint)
    with pytest.raises(BadInput, match="base 25; expected no fewer"):
        restored(vit.checkpoint, locked)


def test_silent_neurons_are_dropped(vit):
    site = anatomy_of(vit.checkpoint).sites(("mlp",))[0]
    name = site.right.linear.weight
    weight = vit.checkpoint[name].clone()
    weight[:, [3, 7]] = 0.0
    quiet = vit.checkpoint.replace({name: weight})
    with pytest.raises(BadInput, match="0 of 2 surplus neurons at mlp/1"):
        fold_neurons(quiet, 18, tolerance=1e-6)
    other = anatomy_of(quiet).sites(("mlp",))[1].right.linear.weight
    silent = quiet.replace({other: quiet[other].index_fill(1, torch.tensor([0, 1]), 0.0)})
    folded = fold_neurons(silent, 18, tolerance=1e-6)
    assert float((vit.outputs(folded) - vit.outputs(silent)).abs().max()) <= 1e-12


@pytest.mark.parametrize("defend", BOTH)
@pytest.mark.parametrize("fit", [gauge_fit, hungarian])
def test_fits_refuse_other_shapes_in_a_sentence(vit, defend, fit):
    with pytest.raises(BadInput, match="has another shape; expected an anchor of the same architecture and size"):
        dict(fit(AttackerView.by_hand(protect(vit.checkpoint, defend), anchor=vit.checkpoint)))


def test_a_network_whose_config_knows_no_head_width_cannot_be_built(bert):
    with pytest.raises(BadInput, match="'bert' has heads of hidden size / heads and no others"):
        protect(bert.checkpoint, padded_heads)


def test_what_does_not_fit_the_config_is_named(vit):
    locked = protect(vit.checkpoint, padded_heads)
    with pytest.raises(NotACheckpoint, match=r"do not fit .*mismatched keys"):
        Checkpoint.of(dict(locked), vit.checkpoint.config).module()
