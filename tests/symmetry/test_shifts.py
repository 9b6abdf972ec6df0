from dataclasses import replace

import numpy as np
import pytest
import torch

from redteam.anatomy import Norm, anatomy_of
from redteam.errors import BadInput
from redteam.symmetry import GeneralLinear, Stacks, canonical, random_shifts, restore
from redteam.symmetry.shifts import ExchangeShift, KeyBiasShift, ReadShift, SiteMaps, WriteShift, shifts_of


def distance(one, other):
    return max(float((one[n].double() - other[n].double()).abs().max() / other[n].double().abs().max()) for n in other)


def shifted(checkpoint, site, shift, size):
    parts = SiteMaps.read(site, checkpoint)
    draws = torch.from_numpy(np.random.default_rng(0).standard_normal(tuple(shift.unit(parts).shape)))
    parts = shift.move(parts, size * shift.unit(parts) * draws)
    return checkpoint.replace(site.write(checkpoint, parts.left, parts.right))


def test_a_vit_has_every_freedom(vit):
    kinds = [[type(s) for s in shifts_of(site)] for site in anatomy_of(vit.checkpoint).sites()[:3]]
    assert kinds == [
        [ReadShift, ReadShift, KeyBiasShift],
        [ReadShift, ExchangeShift, WriteShift],
        [ReadShift, WriteShift],
    ]


def test_each_shift_alone_keeps_the_function(case):
    for site in anatomy_of(case.checkpoint).sites():
        for shift in shifts_of(site):
            other = shifted(case.checkpoint, site, shift, 10.0)
            assert distance(other, case.checkpoint) > 1.0
            assert case.change(other) < 1e-10


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_all_shifts_together_keep_the_function_and_the_canonical_stacks(case, size):
    other = random_shifts(case.checkpoint, np.random.default_rng(0), size)
    assert case.change(other) < 1e-10
    assert distance(other, case.checkpoint) > 0.3 * size
    for site in anatomy_of(case.checkpoint).sites():
        here, there = canonical(site, case.checkpoint), canonical(site, other)
        assert here.distance(there) < 1e-20 * here.distance(Stacks(0 * here.left, 0 * here.right))
        plain = site.stacks(case.checkpoint).distance(site.stacks(other))
        assert plain > 0.1 * size**2 or not shifts_of(site)


def test_restoring_takes_shifts_off(case):
    back = restore(random_shifts(case.checkpoint, np.random.default_rng(0), 10.0), case.checkpoint)
    assert distance(back, case.checkpoint) < 1e-11


def test_restoring_keeps_the_function_and_approaches_the_anchor(grouped):
    draws = np.random.default_rng(0)
    anchor = grouped.checkpoint.replace(
        {n: t + 0.1 * torch.from_numpy(draws.standard_normal(t.shape)) for n, t in grouped.checkpoint.items()}
    )
    for size in (0.0, 10.0):
        protected = random_shifts(grouped.checkpoint, draws, size)
        back = restore(protected, anchor)
        assert grouped.change(back) < 1e-10
        # However far the shifts went, what comes back is the same.
        assert distance(back, restore(grouped.checkpoint, anchor)) < 1e-11
        assert distance(restore(back, anchor), back) < 1e-11


def test_gauges_act_on_canonical_stacks_as_on_plain_ones(case):
    for site in anatomy_of(case.checkpoint).sites(("qk", "vo")):
        gauge = GeneralLinear().sample(site.heads, site.width, np.random.default_rng(0))
        moved = canonical(site, case.checkpoint.replace(site.apply(case.checkpoint, gauge)))
        expected = canonical(site, case.checkpoint).moved(gauge)
        assert torch.allclose(moved.left, expected.left, rtol=1e-9, atol=1e-12)
        assert torch.allclose(moved.right, expected.right, rtol=1e-9, atol=1e-12)


def test_an_exchanged_norm_gain_does_not_show(vit):
    stem, scale = "vit.encoder.layer.0.", torch.linspace(0.3, 3.0, 24, dtype=torch.float64)
    tensors = {
        stem + f"layernorm_before.{x}": vit.checkpoint[stem + f"layernorm_before.{x}"] * scale
        for x in ("weight", "bias")
    }
    for role in ("query", "key", "value"):
        name = stem + f"attention.attention.{role}.weight"
        tensors[name] = vit.checkpoint[name] / scale
    other = vit.checkpoint.replace(tensors)
    assert vit.change(other) < 1e-10
    for site in anatomy_of(other).sites()[:2]:
        assert canonical(site, other).distance(canonical(site, vit.checkpoint)) < 1e-20


def test_a_vanishing_gain_forbids_its_shift_and_harms_nothing(vit):
    name = "vit.encoder.layer.0.layernorm_before.weight"
    gain = vit.checkpoint[name].clone()
    gain[3] = 0.0
    spoiled = vit.checkpoint.replace({name: gain})
    here = vit.outputs(spoiled)
    for other in (random_shifts(spoiled, np.random.default_rng(0), 10.0), restore(spoiled, vit.checkpoint)):
        assert all(tensor.isfinite().all() for tensor in other.values())
        assert float((vit.outputs(other) - here).abs().max() / here.abs().max()) < 1e-10


def test_shifts_are_lazy_and_do_not_depend_on_the_order_of_reading(vit):
    one, two = (random_shifts(vit.checkpoint, np.random.default_rng(4), 3.0) for _ in range(2))
    names = list(vit.checkpoint)
    forth = {name: one[name] for name in names}
    back = {name: two[name] for name in reversed(names)}
    assert all(torch.equal(forth[name], back[name]) for name in names)
    other = random_shifts(vit.checkpoint, np.random.default_rng(5), 3.0)
    assert not torch.equal(other[names_of(vit)], one[names_of(vit)])


def names_of(case):
    return anatomy_of(case.checkpoint).sites()[0].names[0]


def test_only_the_kinds_that_are_asked_for_are_touched(vit):
    other = random_shifts(vit.checkpoint, np.random.default_rng(0), 3.0, kinds=("mlp",))
    changed = {name for name in other if not torch.equal(other[name], vit.checkpoint[name])}
    assert changed
    assert all("intermediate" in name or name.split(".")[4] == "output" for name in changed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_stays(vit, dtype):
    small = vit.checkpoint.to(dtype)
    other = restore(random_shifts(small, np.random.default_rng(0), 1.0), small)
    assert all(other[name].dtype == dtype for name in other)
    assert distance(other, small) < 20 * torch.finfo(dtype).eps


def test_nan_is_refused(vit):
    name = "vit.encoder.layer.0.layernorm_before.bias"
    spoiled = vit.checkpoint.replace({name: torch.full((24,), float("nan"))})
    with pytest.raises(BadInput, match=r"layernorm_before\.bias"):
        canonical(anatomy_of(spoiled).sites()[0], spoiled)


@pytest.mark.parametrize(
    ("kind", "layer", "instead"),
    [
        ("qk", 0, "encoder.layer.0.output.LayerNorm"),
        ("qk", 1, "encoder.layer.1.output.LayerNorm"),
        ("mlp", 1, "encoder.layer.0.output.LayerNorm"),
    ],
)
def test_a_bert_is_shifted_along_the_norm_before_it_and_no_other(bert, kind, layer, instead):
    site = anatomy_of(bert.checkpoint).sites((kind,))[layer]
    shift = ReadShift("left", site.left.linear)
    assert bert.change(shifted(bert.checkpoint, site, shift, 10.0)) < 1e-10
    norm = Norm(f"bert.{instead}.weight", f"bert.{instead}.bias")
    other = replace(site, left=replace(site.left, linear=replace(site.left.linear, norm=norm)))
    assert bert.change(shifted(bert.checkpoint, other, shift, 10.0)) > 1e-2
