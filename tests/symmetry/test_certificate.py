import json
import math

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.key import Key
from redteam.symmetry import GeneralLinear, Orthogonal, Permutation, Scaling, certify, random_shifts, sample_gauges
from redteam.symmetry.certificate import LIMITS
from redteam.symmetry.fitting import moved, sites_by_kind
from redteam.symmetry.groups import largest_legal_group
from redteam.symmetry.inputs import random_inputs
from redteam.symmetry.running import run_network
from tests.zoo import NETWORKS as ZOO
from tests.zoo import network

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


def test_without_inputs_they_are_made_up_and_the_same_seed_gives_the_same(vit):
    locked = sample_gauges(vit.checkpoint, ("vo",), GeneralLinear(scale=(0.1, 10.0)), KEY.generator)
    found = certify(vit.checkpoint, locked, seed=1)
    assert found.change < 1e-10
    assert found == certify(vit.checkpoint, locked, seed=1)
    assert found.stored != certify(vit.checkpoint, locked, seed=2).stored


def test_a_calm_lock_exceeds_nothing_and_a_wild_one_is_told_in_sentences(vit):
    def conditioned(scale):
        locked = sample_gauges(vit.checkpoint, ("qk", "vo"), GeneralLinear(scale=scale), KEY.generator)
        return sample_gauges(locked, ("qk", "vo"), Orthogonal(), KEY.child("2").generator)

    calm, wild = (certify(vit.checkpoint, conditioned(scale)) for scale in ((1.0, 1.0), (1e-2, 1e2)))
    assert not calm.exceeds(), calm.losses()
    assert wild.exceeds()
    assert any(sentence.startswith("In bfloat16") for sentence in wild.losses())
    assert all(sentence in str(wild) for sentence in wild.losses())
    assert all(" float32 " not in sentence for sentence in wild.losses(["bfloat16"]))
    assert wild.exceeds(["bfloat16"])
    assert not wild.losses([]), "exact, so that float64 has nothing to complain of"


def test_another_function_exceeds_the_bound_in_float64(vit):
    name = "vit.encoder.layer.0.attention.attention.query.weight"
    found = certify(vit.checkpoint, vit.checkpoint.replace({name: 1.01 * vit.checkpoint[name]}))
    assert found.change > found.limit
    assert found.losses()[0].startswith("In float64")


def test_what_was_stored_in_bfloat16_is_measured_by_that(vit):
    original = vit.checkpoint.to(torch.bfloat16)
    locked = sample_gauges(original.to(torch.float64), ("vo",), GeneralLinear(scale=(1.0, 1.0)), KEY.generator)
    released = certify(original, locked.to(torch.bfloat16))
    assert released.dtype == "bfloat16"
    assert released.limit == pytest.approx(LIMITS["bfloat16"] * released.rounding["bfloat16"])
    assert not released.exceeds(), released.losses()
    exact = certify(original, original.replace({name: locked[name] for name in locked}))
    assert exact.dtype == "float64"
    assert exact.change < 1e-10


def test_a_certificate_can_be_written_as_json(vit):
    name = "vit.encoder.layer.0.attention.attention.query.bias"
    large = vit.checkpoint.replace({name: torch.full((24,), 1e6, dtype=torch.float64)})
    told = json.loads(json.dumps(certify(vit.checkpoint, large).as_dict(), allow_nan=False))
    assert told["stored"]["float16"] is None
    assert told["losses"]


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
SEEING = {**TINY, "image_size": 8, "patch_size": 4}
READING = {**TINY, "vocab_size": 30, "max_position_embeddings": 12}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 12, "num_layers": 1, "num_heads": 2, "vocab_size": 30}
NETWORKS = {
    "roberta": ("RobertaForMaskedLM", READING, {"input_ids"}),
    "llama": ("LlamaForCausalLM", READING, {"input_ids"}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30}, {"input_ids"}),
    "t5": ("T5ForConditionalGeneration", T5, {"input_ids", "decoder_input_ids"}),
    "clip": ("CLIPModel", {"text_config": READING, "vision_config": SEEING}, {"input_ids", "pixel_values"}),
    "siglip": ("SiglipModel", {"text_config": READING, "vision_config": SEEING}, {"input_ids", "pixel_values"}),
    "bert": ("BertModel", READING, {"input_ids"}),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_inputs_are_made_up_for_every_kind_of_network(kind, tmp_path):
    import transformers

    name, settings, wanted = NETWORKS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(transformers, name)(transformers.AutoConfig.for_model(kind, **settings)).eval()
    network.save_pretrained(tmp_path / "net")
    checkpoint = Checkpoint.open(tmp_path / "net")
    drawn = random_inputs(checkpoint, seed=3)
    assert set(drawn) == wanted
    assert all(torch.equal(drawn[key], value) for key, value in random_inputs(checkpoint, seed=3).items())
    found = run_network(checkpoint, [drawn], torch.float64)
    assert found.outputs
    assert all(bool(x.isfinite().all()) for x in found.outputs)
    if kind == "clip":
        assert [tuple(x.shape) for x in found.outputs] == [(4, 4), (4, 4)], "both tables of logits, and nothing else"
    other = checkpoint.replace(
        {n: t + t.abs() * t.roll(1, 0).sign() for n, t in checkpoint.items() if t.is_floating_point() and t.ndim == 2}
    )
    assert run_network(other, [drawn], torch.float64).change(found) > 1e-6


def test_a_config_that_says_nothing_asks_for_inputs(vit):
    with pytest.raises(BadInput, match="pass some"):
        random_inputs(Checkpoint.of({}, {"model_type": "unheard of"}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_a_legal_lock_is_certified_on_every_architecture(name):
    """With the norms' casts lifted it is exact to float64, and no site is mistaken for something else."""
    before = network(name).checkpoint
    locked = before
    for sites in sites_by_kind(before, ("vo" if name != "resnet" else "mlp",), None):
        locked = moved(
            locked,
            sites,
            lambda site: largest_legal_group(site).sample(site.heads, site.width, KEY.generator(site.label)),
        )
    found = certify(before, locked)
    assert found.change < 1e-10
    assert found.conditions
    assert not any(math.isnan(condition) for condition in found.conditions.values())


@pytest.mark.parametrize("size", [[None], "many", {"rows": 3}, float("nan")])
def test_sizes_that_are_no_numbers_are_named_in_a_sentence(size):
    with pytest.raises(BadInput, match=r"No inputs can be made up from the sizes that the config gives"):
        random_inputs(Checkpoint.of({}, {"model_type": "bert", "vocab_size": size}))
