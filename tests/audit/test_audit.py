"""Whole audits: what is told of a checkpoint against its base, and of two against one another."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.audit import audit, rows
from redteam.errors import BadInput
from redteam.key import Key
from redteam.symmetry import (
    GeneralLinear,
    Orthogonal,
    Permutation,
    Planar,
    PositiveScaling,
    Scaling,
    SignedPermutation,
    random_shifts,
    sample_gauges,
)
from tests.zoo import network

KEY, OTHER = (Key.derive(seed=0, index=index, name="audit") for index in (0, 1))


def found(audited):
    """Kind → what is on its sites, each once."""
    told = {}
    for site in audited.sites:
        told.setdefault(site.kind, set()).add(site.group or site.state)
    return told


def test_an_unlocked_expert_has_no_lock_and_no_shift(digits, experts):
    for expert in experts.values():
        audited = audit(expert, digits.base)
        assert {site.state for site in audited.sites} == {"unlocked"}
        assert not any(site.shifts for site in audited.sites)


def test_every_kind_of_lock_at_once(digits, experts):
    """Heads in another order hide what is on each, and locked heads and neurons hide what is on the norms."""
    locked = experts["digits"].cast(torch.float64)
    for kinds, group in (
        (("heads",), Permutation()),
        (("qk",), GeneralLinear()),
        (("vo",), Orthogonal()),
        (("mlp",), Permutation()),
        (("norm",), Scaling()),
        (("norm-scale",), PositiveScaling(scale=(50.0, 50.0))),
    ):
        locked = sample_gauges(locked, kinds, group, KEY.generator)
    locked = random_shifts(locked, np.random.default_rng(0), 3.0)
    audited = audit(locked, digits.base)
    assert found(audited) == {
        "heads": {"permutation"},
        "qk": {"general-linear"},
        "vo": {"orthogonal"},
        "mlp": {"permutation"},
        "norm": {"scaling"},
        "residual": {"unlocked"},
        "norm-scale": {"positive-scaling"},
    }
    assert any("the scale of the residual stream" in sentence for sentence in audited.summary)
    plain = {site.site: site for site in audit(experts["digits"], digits.base).sites}
    for site in audited.sites:
        if site.part == "final":  # its reader is the task's own, so that what training did to the gain comes off too
            assert site.after <= plain[site.site].after
        else:
            assert site.after == pytest.approx(plain[site.site].after, rel=0.2), "it comes off whole"
        if site.kind in ("qk", "vo", "mlp"):
            assert site.shifts
            assert all(0.5 < shift.size < 200 for shift in site.shifts)
    assert len(rows(audited)) <= 8


def test_locks_are_found_on_some_layers_only(digits, experts):
    locked = sample_gauges(experts["digits"], ("vo",), SignedPermutation(), KEY.generator)
    half = locked.replace({n: experts["digits"][n] for n in locked if ".layer.0." in n or ".layer.1." in n})
    audited = audit(half, digits.base)
    states = {site.layer: site.group for site in audited.sites if site.kind == "vo"}
    assert states == {0: None, 1: None, 2: "signed-permutation", 3: "signed-permutation"}
    assert audited.summary[0].startswith("A lock of the signed-permutation group sits on vo of layers 2–3;")


def test_layouts_grouped_heads_and_biases(grouped, tuned):
    expert = tuned(grouped.checkpoint)
    assert set().union(*found(audit(expert, grouped.checkpoint)).values()) == {"unlocked"}
    locked = sample_gauges(expert, ("qk", "vo"), GeneralLinear(), KEY.generator)
    locked = sample_gauges(locked, ("mlp",), Permutation(), KEY.generator)
    told = found(audit(locked, grouped.checkpoint))
    assert told["qk"] == told["vo"] == {"general-linear"}
    assert told["mlp"] == {"permutation"}


def test_rotary_planes(rotary, tuned):
    expert = tuned(rotary.checkpoint)
    layout = anatomy_of(expert).sites(("qk",))[0].planes
    told = found(audit(sample_gauges(expert, ("qk",), Planar(layout=layout), KEY.generator), rotary.checkpoint))
    assert told["qk"] == {"planar"}
    assert told["vo"] == {"unlocked"}


def test_factors_behind_a_squared_relu(tuned):
    base = network("nemotron").checkpoint
    expert = tuned(base)
    told = found(audit(sample_gauges(expert, ("mlp",), PositiveScaling(), KEY.generator), base))
    assert told["mlp"] == {"positive-scaling"}
    assert told["vo"] == {"unlocked"}


def test_post_norm(bert, tuned):
    expert = tuned(bert.checkpoint)
    told = found(audit(sample_gauges(expert, ("vo",), GeneralLinear(), KEY.generator), bert.checkpoint))
    assert told["vo"] == {"general-linear"}
    assert told["qk"] == told["mlp"] == {"unlocked"}


def test_small_shifts_are_found_and_what_training_did_is_none(digits, experts):
    for size, expected in ((0.5, True), (0.01, False)):
        audited = audit(random_shifts(experts["letters"], np.random.default_rng(1), size), digits.base)
        assert {bool(site.shifts) for site in audited.sites if site.kind in ("qk", "vo", "mlp")} == {expected}
        assert {site.state for site in audited.sites} == {"unlocked"}


def test_an_illegal_change_is_unexplained(digits, experts):
    """Queries turned and keys not: no gauge brings them back."""
    names = [site.left.linear.weight for site in anatomy_of(digits.base).sites(("qk",))]
    audited = audit(turned(experts["digits"], names), digits.base)
    assert found(audited)["qk"] == {"unexplained"}
    assert any("unexplained" in row.found for row in rows(audited))
    assert "a change that does not keep the function" in " ".join(audited.summary)


def turned(checkpoint, names):
    draws, changed = np.random.default_rng(5), {}
    for name in names:
        rotation, _ = torch.linalg.qr(torch.from_numpy(draws.standard_normal(checkpoint.shape(name)[:1] * 2)))
        changed[name] = -(rotation.float() @ checkpoint[name])
    return checkpoint.replace(changed)


def test_tensors(digits, experts):
    base, expert = digits.base, experts["digits"]
    gone, kept, rounded = "vit.encoder.layer.3.output.dense.bias", "vit.layernorm.weight", "vit.layernorm.bias"
    mixed = expert.replace({kept: base[kept], rounded: base[rounded].to(torch.bfloat16), "extra": torch.ones(2)})
    states = {tensor.name: tensor for tensor in audit(mixed, base.replace({"only": torch.ones(1)})).tensors}
    assert states[kept].state == "equal"
    assert states[rounded].state == "rounded"
    assert states["extra"].state == "added"
    assert states["only"].state == "missing"
    assert states["classifier.weight"].state == "reshaped"
    assert states[gone].state == "changed"
    moved = (expert[gone] - base[gone]).double().norm() / base[gone].double().norm()
    assert states[gone].distance == pytest.approx(float(moved), rel=1e-6)


def test_the_base_itself(digits):
    audited = audit(digits.base, digits.base)
    assert {site.state for site in audited.sites} == {"equal"}
    assert {tensor.state for tensor in audited.tensors} == {"equal"}


def locked(expert, key, kinds=("qk", "vo", "mlp")):
    for kind in kinds:
        expert = sample_gauges(expert, (kind,), Permutation() if kind == "mlp" else GeneralLinear(), key.generator)
    return expert


def standings(audited):
    told = {}
    for pair in audited.pairs:
        told.setdefault(pair.kind, set()).add(pair.standing)
    return told


def test_two_models_under_one_key_share_their_gauges(digits, experts):
    told = audit(locked(experts["digits"], KEY), digits.base, locked(experts["letters"], KEY))
    assert standings(told)["qk"] == standings(told)["vo"] == standings(told)["mlp"] == {"shared"}
    assert standings(told)["heads"] == standings(told)["norm"] == {"neither"}


def test_two_keys_are_told_apart(digits, experts):
    told = audit(locked(experts["digits"], KEY), digits.base, locked(experts["letters"], OTHER))
    assert standings(told)["qk"] == standings(told)["vo"] == standings(told)["mlp"] == {"apart"}
    assert all(pair.distance > 1 for pair in told.pairs if pair.standing == "apart")


def test_only_one_is_locked_or_they_share_some(digits, experts):
    told = audit(locked(experts["digits"], KEY), digits.base, locked(experts["letters"], KEY, ("qk",)))
    assert standings(told) == {
        "heads": {"neither"},
        "qk": {"shared"},
        "vo": {"one"},
        "mlp": {"one"},
        "norm": {"neither"},
        "residual": {"neither"},
        "norm-scale": {"neither"},
    }


def test_what_no_fit_explains_can_be_shared_too(digits, experts):
    names = [site.left.linear.weight for site in anatomy_of(digits.base).sites(("qk",))]
    told = audit(turned(experts["digits"], names), digits.base, turned(experts["letters"], names))
    assert standings(told)["qk"] == {"shared"}


def test_another_architecture_another_depth_and_nan(digits, experts, bert):
    with pytest.raises(BadInput, match="expected the base that it was made from"):
        audit(experts["digits"], bert.checkpoint)
    name = "vit.encoder.layer.0.output.dense.weight"
    with pytest.raises(BadInput, match="NaN or infinity"):
        audit(experts["digits"].replace({name: experts["digits"][name] * torch.nan}), digits.base)


def test_json_holds_everything_and_no_nan(digits, experts):
    told = json.loads(audit(experts["digits"], digits.base).model_dump_json(by_alias=True))
    assert told["schema"] == 1
    assert {site["site"] for site in told["sites"]} == {site.label for site in anatomy_of(digits.base).places}
    assert len(told["tensors"]) == len(digits.base)


def test_progress_goes_from_nothing_to_all(digits, experts):
    steps = []
    audit(experts["digits"], digits.base, progress=lambda done, total, what: steps.append((done, total)))
    assert steps[0][0] == 0
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


@pytest.mark.slow
@pytest.mark.parametrize("growth", [4.0, 8.0])
def test_a_victim_that_drifted_far_is_still_told_from_a_locked_one(growth):
    from redteam_scenarios.digits import digits

    scenario = digits(seed=0, growth=growth)
    victim = scenario.experts[scenario.victim]
    assert "locked" not in {site.state for site in audit(victim, scenario.base).sites}
    told = found(audit(locked(victim, KEY), scenario.base))
    assert told["qk"] == told["vo"] == {"general-linear"}
    assert told["mlp"] == {"permutation"}


class TestTokensUnderOtherNumbers:
    """A table whose rows are the base's in another order."""

    def renumbered(self, tuned, share):
        from redteam.checkpoint.numbering import renumbered

        base = network("llama").checkpoint
        victim = tuned(base)
        size = base.shape("model.embed_tokens.weight")[0]
        taken = torch.from_numpy(np.random.default_rng(3).permutation(size)[: round(share * size)])
        return base, victim, renumbered(victim, torch.stack([taken, taken.roll(1)]))

    @pytest.mark.parametrize("share", [1.0, 0.2])
    def test_it_is_said_with_what_takes_it_off(self, tuned, share):
        base, victim, locked = self.renumbered(tuned, share)
        sentence = audit(locked, base).summary[0]
        assert sentence.startswith("The rows of lm_head.weight and model.embed_tokens.weight are the base's in another")
        size = base.shape("model.embed_tokens.weight")[0]
        count = f"{size} tokens" if share == 1 else f"{round(share * size)} of {size} tokens"
        assert f": {count} have other numbers" in sentence
        assert sentence.endswith("That comes off by vocabulary-match or vocabulary-read.")
        assert "another order" not in " ".join(audit(victim, base).summary)

    def test_another_basis_and_another_model_are_not_taken_for_it(self, tuned):
        base, victim, _ = self.renumbered(tuned, 1.0)
        turned = sample_gauges(victim, ("residual",), SignedPermutation(), KEY.generator)
        fresh = base.replace({name: torch.randn_like(base[name]) for name in base})
        for other in (turned, fresh):
            assert "another order" not in " ".join(audit(other, base).summary)
