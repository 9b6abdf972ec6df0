from dataclasses import replace

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of, subgroups
from redteam.errors import IllegalGauge
from redteam.key import Key
from redteam.symmetry import (
    GeneralLinear,
    Permutation,
    Planar,
    Scaling,
    fit_gauges,
    random_shifts,
    restore,
    sample_gauges,
)
from redteam.symmetry.shifts import KeyBiasShift, shifts_of

KEY = Key.derive(seed=0, index=0, name="rotary")


def qk(case):
    return anatomy_of(case.checkpoint).sites(("qk",))[0]


def right(case):
    return Planar(layout=qk(case).planes)


def wrong(case):
    return Planar(layout={"half": "interleaved", "interleaved": "half"}[qk(case).planes])


def distance(one, other):
    return max(float((one[n] - other[n]).abs().max() / other[n].abs().max()) for n in other)


def forced(case, gauge, **changes):
    return case.checkpoint.replace(replace(qk(case), **changes).apply(case.checkpoint, gauge))


def test_planar_locks_keep_the_function_and_come_off(rotary):
    locked = sample_gauges(rotary.checkpoint, ("qk",), right(rotary), KEY.generator)
    assert rotary.change(locked) < 1e-10
    assert distance(locked, rotary.checkpoint) > 0.3
    back = fit_gauges(locked, rotary.checkpoint, ("qk",), right(rotary))
    assert distance(back, rotary.checkpoint) < 1e-10


def test_everything_legal_at_once_comes_off(rotary):
    base = rotary.checkpoint
    locked = random_shifts(sample_gauges(base, ("qk",), right(rotary), KEY.generator), np.random.default_rng(0), 3.0)
    locked = sample_gauges(locked, ("vo",), GeneralLinear(), KEY.generator)
    locked = sample_gauges(locked, ("mlp", "heads", "queries"), Permutation(), KEY.child("1").generator)
    locked = sample_gauges(locked, ("norm",), Scaling(), KEY.generator)
    assert rotary.change(locked) < 1e-9
    back = fit_gauges(locked, base, ("heads", "queries", "mlp"), Permutation())
    back = fit_gauges(fit_gauges(back, base, ("qk",), right(rotary)), base, ("vo",), GeneralLinear())
    back = restore(fit_gauges(back, base, ("norm",), Scaling()), base)
    assert rotary.change(back) < 1e-9
    assert distance(back, base) < 1e-8


def test_the_layout_is_that_of_the_network(rotary):
    gauge = wrong(rotary).sample(2, 6, np.random.default_rng(0))
    for ask in (
        lambda: forced(rotary, gauge),
        lambda: sample_gauges(rotary.checkpoint, ("qk",), wrong(rotary), KEY.generator),
        lambda: fit_gauges(rotary.checkpoint, rotary.checkpoint, ("qk",), wrong(rotary)),
    ):
        with pytest.raises(IllegalGauge, match="layout changes the function at qk/0"):
            ask()
    assert rotary.change(forced(rotary, gauge, planes=None)) > 1e-2


def test_nothing_wider_than_planar_is_legal(rotary):
    for group in (GeneralLinear(scale=(0.5, 2.0)), Permutation()):
        with pytest.raises(IllegalGauge, match=r"qk/0, where a rotary .*; legal there: planar"):
            sample_gauges(rotary.checkpoint, ("qk",), group, KEY.generator)
        gauge = group.sample(2, 6, np.random.default_rng(0))
        assert rotary.change(forced(rotary, gauge, planes=None, legal=subgroups("general-linear"))) > 1e-2


def test_one_number_for_each_query_head_is_refused_and_would_change_the_function(rotary):
    with pytest.raises(IllegalGauge, match="expected 2 of 6"):
        forced(rotary, right(rotary).sample(4, 6, np.random.default_rng(0)))
    # The query heads of a group under numbers of their own, the key under the first one's.
    number = right(rotary).sample(4, 6, np.random.default_rng(0))
    site = qk(rotary)
    query, key = site.read(rotary.checkpoint)
    alone = replace(site.left, share=1)
    query = alone.unstack(number.left(alone.stack(query, 4)), query)
    first = replace(number, number=number.number[::2])
    key = site.right.unstack(first.right(site.right.stack(key, 2)), key)
    tensors = site.write(rotary.checkpoint, query, key)
    assert rotary.change(rotary.checkpoint.replace(tensors)) > 1e-2
    shared = replace(number, number=number.number[::2].repeat_interleave(2, 0))
    query = alone.unstack(shared.left(alone.stack(site.read(rotary.checkpoint)[0], 4)), query)
    assert rotary.change(rotary.checkpoint.replace(site.write(rotary.checkpoint, query, key))) < 1e-10


def test_the_key_bias_is_not_free(rotary):
    site = qk(rotary)
    assert KeyBiasShift not in map(type, shifts_of(site))
    name = site.right.linear.bias
    assert rotary.change(rotary.checkpoint.replace({name: rotary.checkpoint[name] + 1.0})) > 1e-2
    assert rotary.change(random_shifts(rotary.checkpoint, np.random.default_rng(0), 10.0)) < 1e-10


def test_a_gauge_acts_as_the_formula_says():
    stack = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 6, 4)))
    for layout, rows in (("half", [(0, 3), (1, 4), (2, 5)]), ("interleaved", [(0, 1), (2, 3), (4, 5)])):
        gauge = Planar(layout=layout).sample(1, 6, np.random.default_rng(1))
        for plane, (p, q) in enumerate(rows):
            a, b = gauge.number[0, plane].real, gauge.number[0, plane].imag
            one, other = a * stack[0, p] - b * stack[0, q], b * stack[0, p] + a * stack[0, q]
            assert torch.allclose(gauge.left(stack)[0, [p, q]], torch.stack([one, other]))
            assert torch.allclose(gauge.right(stack)[0, [p, q]], torch.stack([one, other]) / (a**2 + b**2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_stays(rotary, dtype):
    base = rotary.checkpoint.to(dtype)
    locked = sample_gauges(base, ("qk",), right(rotary), KEY.generator)
    back = fit_gauges(locked, base, ("qk",), right(rotary))
    assert all(x[name].dtype == dtype for x in (locked, back) for name in base)
    assert max(float((back[n].double() - base[n].double()).abs().max()) for n in base) < 30 * torch.finfo(dtype).eps
