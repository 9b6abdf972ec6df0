import math

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.key import Key
from redteam.symmetry import GeneralLinear, Permutation, Scaling, certify, random_shifts, sample_gauges

KEY = Key.derive(seed=0, index=0, name="test")


@pytest.fixture(scope="module")
def inputs():
    return {"pixel_values": torch.from_numpy(np.random.default_rng(1).standard_normal((4, 3, 12, 12))).float()}


def test_an_exact_lock_is_certified_with_its_condition(vit, inputs):
    locked = sample_gauges(vit.checkpoint, ("vo",), GeneralLinear(scale=(0.1, 10.0)), KEY.generator)
    locked = sample_gauges(locked, ("mlp",), Permutation(), KEY.generator)
    found = certify(vit.checkpoint, locked, inputs)
    assert found.change < 1e-10
    assert set(found.conditions) == {"vo/0", "vo/1", "mlp/0", "mlp/1"}
    assert found.conditions["mlp/0"] == 1.0
    for site in anatomy_of(vit.checkpoint).sites(("vo",)):
        gauge = GeneralLinear(scale=(0.1, 10.0)).sample(site.heads, site.width, KEY.generator(site.label))
        assert found.conditions[site.label] == pytest.approx(float(gauge.condition().max()), rel=1e-6)


def test_storage_costs_more_the_worse_the_condition(vit, inputs):
    calm, wild = (
        certify(
            vit.checkpoint, sample_gauges(vit.checkpoint, ("qk", "vo"), GeneralLinear(scale=s), KEY.generator), inputs
        )
        for s in ((1.0, 1.0), (1e-6, 1e6))
    )
    assert calm.rounding == wild.rounding
    assert calm.stored["float32"] < calm.stored["float16"] < calm.stored["bfloat16"] < 0.5
    assert 0 < calm.rounding["float32"] < 1e-5
    assert wild.stored["float16"] > 5 * calm.stored["float16"]


def test_a_change_of_function_is_seen(vit, inputs):
    name = "vit.encoder.layer.0.attention.attention.query.weight"
    draws = torch.from_numpy(np.random.default_rng(0).standard_normal((24, 24)))
    found = certify(vit.checkpoint, vit.checkpoint.replace({name: vit.checkpoint[name] + draws}), inputs)
    assert found.change > 1e-3
    assert list(found.conditions) == ["qk/0"]
    assert math.isnan(found.conditions["qk/0"])


def test_nothing_changed_nothing_listed(vit, inputs):
    found = certify(vit.checkpoint, vit.checkpoint, inputs)
    assert found.change == 0
    assert found.conditions == {}
    assert found.stored == found.rounding


def test_shifts_alone_are_well_conditioned(vit, inputs):
    found = certify(vit.checkpoint, random_shifts(vit.checkpoint, np.random.default_rng(0), 3.0), inputs)
    assert found.change < 1e-10
    assert found.conditions["qk/0"] == pytest.approx(1.0, abs=1e-6)


def test_overflow_in_half_precision_is_infinite_and_raises_nothing(vit, inputs):
    name = "vit.encoder.layer.0.attention.attention.query.bias"
    large = vit.checkpoint.replace({name: torch.full((24,), 1e6, dtype=torch.float64)})
    assert certify(large, large, inputs).stored["float16"] == math.inf


def test_a_bert_is_certified(bert):
    inputs = {"input_ids": torch.from_numpy(np.random.default_rng(1).integers(0, 13, (3, 6)))}
    locked = sample_gauges(bert.checkpoint, ("qk", "vo"), GeneralLinear(scale=(0.1, 10.0)), KEY.generator)
    locked = random_shifts(locked, np.random.default_rng(0), 3.0)
    found = certify(bert.checkpoint, locked, inputs)
    assert found.change < 1e-10
    gauge = GeneralLinear(scale=(0.1, 10.0)).sample(3, 8, KEY.generator("qk/1"))
    assert found.conditions["qk/1"] == pytest.approx(float(gauge.condition().max()), rel=1e-6)


def test_a_norm_lock_changes_no_basis_and_a_shuffle_of_heads_is_none(vit, inputs):
    scaled = sample_gauges(vit.checkpoint, ("norm",), Scaling(), KEY.generator)
    found = certify(vit.checkpoint, scaled, inputs)
    assert found.change < 1e-10
    assert all(condition == pytest.approx(1.0, abs=1e-6) for condition in found.conditions.values())
    shuffled = sample_gauges(vit.checkpoint, ("heads",), Permutation(), KEY.child("2").generator)
    found = certify(vit.checkpoint, shuffled, inputs)
    assert found.change < 1e-10
    assert found.conditions
    assert all(math.isnan(condition) for condition in found.conditions.values())


def test_neurons_that_changed_otherwise_than_by_order_are_no_change_of_basis(vit, inputs):
    name = "vit.encoder.layer.0.intermediate.dense.weight"
    found = certify(vit.checkpoint, vit.checkpoint.replace({name: 2 * vit.checkpoint[name]}), inputs)
    assert math.isnan(found.conditions["mlp/0"])
