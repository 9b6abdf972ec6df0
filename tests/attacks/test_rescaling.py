"""Attacks on the length of task vectors: what shrank, was masked or was scaled, told from weights and own data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from redteam_attacks.coefficient_search import _Merge
from torch import nn

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput, Inapplicable
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.tasks import Batch, Classification, Scenario
from redteam.threat import threat_model
from redteam.views import AttackerView

KEY = Key.derive(seed=0, index=0, name="rescaling")


def view(text: str, scenario: Scenario, protected: Checkpoint, alone: bool = False) -> tuple[Any, AttackerView]:
    attack = ATTACKS.load(text)
    companions = () if alone else scenario.companions
    made = AttackerView(
        protected,
        threat_model("weights-only"),
        KEY,
        needs=attack.spec.needs,
        _anchor=scenario.base,
        _companions={task: scenario.experts[task] for task in companions},
        _own={task: scenario.tasks[task] for task in companions},
    )
    return attack, made


def attacked(text: str, scenario: Scenario, protected: Checkpoint, alone: bool = False) -> Checkpoint:
    attack, made = view(text, scenario, protected, alone)
    returned = attack(made)
    return Checkpoint.of(dict(returned.items()), returned.config)


def names(scenario: Scenario) -> tuple[str, ...]:
    return tuple(shared_tensors(scenario.experts["victim"], scenario.base))


def away(scenario: Scenario, one: Checkpoint, name: str) -> torch.Tensor:
    return one[name].double() - scenario.base[name].double()


def moved(scenario: Scenario, change: Any) -> Checkpoint:
    """The victim with another task vector in every shared tensor."""
    victim, base = scenario.experts["victim"], scenario.base
    return victim.replace(
        {n: (base[n].double() + change(n, away(scenario, victim, n))).float() for n in names(scenario)}
    )


def masked(scenario: Scenario, share: float) -> Checkpoint:
    draws = torch.Generator().manual_seed(0)
    victim, base = scenario.experts["victim"], scenario.base
    return victim.replace(
        {
            n: torch.where(torch.rand(base[n].shape, generator=draws) < share, base[n], victim[n])
            for n in names(scenario)
        }
    )


class TestRadialStrip:
    @pytest.mark.parametrize("shrunk", [0.05, 0.5, -0.2])
    def test_shrinking_comes_off_whatever_its_size(self, scenario: Scenario, shrunk: float) -> None:
        base = scenario.base
        smaller = moved(scenario, lambda n, tau: tau - shrunk * base[n].double() * (base[n].ndim > 1))
        plain, found = (attacked("radial-strip", scenario, x) for x in (scenario.experts["victim"], smaller))
        for name in names(scenario):
            assert torch.allclose(found[name], plain[name], atol=1e-5)
            if base[name].ndim > 1:
                assert abs(float((away(scenario, found, name) * base[name].double()).sum())) <= 1e-3
            else:
                assert torch.equal(found[name], smaller[name]), "what tasks learn in gains and biases stays"

    def test_what_is_masked_stays_and_says_nothing(self, scenario: Scenario) -> None:
        base, masks = scenario.base, masked(scenario, 0.4)
        smaller = masks.replace(
            {n: torch.where(masks[n] == base[n], base[n], masks[n] - 0.3 * base[n]) for n in names(scenario)}
        )
        found = attacked("radial-strip", scenario, smaller)
        for name in (name for name in names(scenario) if base[name].ndim > 1):
            kept = masks[name] != base[name]
            assert torch.equal(found[name][~kept], base[name][~kept])
            inside = (away(scenario, found, name) * base[name].double())[kept].sum()
            assert abs(float(inside)) <= 1e-3


class TestMaskReadOut:
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_what_is_left_stands_in_for_what_is_gone(self, scenario: Scenario, share: float) -> None:
        protected = masked(scenario, share)
        found = attacked("mask-read-out", scenario, protected)
        for name in names(scenario):
            before, after = (away(scenario, x, name) for x in (protected, found))
            left = float((protected[name] != scenario.base[name]).double().mean())
            if 0 < left < 0.99:
                assert torch.allclose(after * left, before, atol=1e-5)
        whole, restored, gone = (
            sum(float((away(scenario, x, n) * away(scenario, scenario.experts["victim"], n)).sum()) for n in wide)
            for wide in [[n for n in names(scenario) if scenario.base[n].numel() >= 500]]
            for x in (scenario.experts["victim"], found, protected)
        )
        assert restored == pytest.approx(whole, rel=0.15), "along the task vector it is as long as it was"
        assert gone == pytest.approx((1 - share) * whole, rel=0.3)

    def test_no_mask_no_change_and_single_coordinates_are_none(self, scenario: Scenario) -> None:
        victim = scenario.experts["victim"]
        name = max(names(scenario), key=lambda n: victim[n].numel())
        touched = victim[name].clone()
        touched.view(-1)[0] = scenario.base[name].view(-1)[0]
        one = victim.replace({name: touched})
        found = attacked("mask-read-out", scenario, one)
        assert all(torch.equal(found[n], one[n]) for n in one)

    def test_a_tensor_that_never_moved_stays(self, scenario: Scenario) -> None:
        frozen = moved(scenario, lambda n, tau: 0 * tau)
        found = attacked("mask-read-out", scenario, frozen)
        assert all(torch.equal(found[n], frozen[n]) for n in frozen)


class TestNormRestore:
    @pytest.mark.parametrize("scale", [0.1, 5.0])
    def test_whatever_the_length_was_it_becomes_the_companions(self, scenario: Scenario, scale: float) -> None:
        found = attacked("norm-restore", scenario, moved(scenario, lambda n, tau: scale * tau))
        plain = attacked("norm-restore", scenario, scenario.experts["victim"])
        for name in names(scenario):
            assert torch.allclose(found[name], plain[name], atol=1e-4)
            sizes = [float(away(scenario, scenario.experts[task], name).norm()) for task in scenario.companions]
            assert float(away(scenario, found, name).norm()) == pytest.approx(sum(sizes) / len(sizes), rel=1e-3)

    def test_what_did_not_move_stays_and_companions_are_needed(self, scenario: Scenario) -> None:
        frozen = moved(scenario, lambda n, tau: 0 * tau)
        assert all(torch.equal(x, frozen[n]) for n, x in attacked("norm-restore", scenario, frozen).items())
        with pytest.raises(Inapplicable, match="no companion"):
            attacked("norm-restore", scenario, frozen, alone=True)


class TestCoefficientSearch:
    def test_only_lengths_change_layer_by_layer(self, scenario: Scenario) -> None:
        victim = scenario.experts["victim"]
        found = attacked("coefficient-search:rounds=1", scenario, victim)
        shares: dict[str, list[float]] = {}
        for name in names(scenario):
            before, after = (away(scenario, x, name) for x in (victim, found))
            share = float((before * after).sum() / before.square().sum())
            assert torch.allclose(after, share * before, atol=1e-5)
            number = [part for part in name.split(".") if part.isdigit()]
            shares.setdefault(number[0] if number else "", []).append(share)
        assert all(max(found) - min(found) <= 1e-3 for found in shares.values())
        assert torch.equal(found["classifier.weight"], victim["classifier.weight"])

    def test_by_what_it_sees_it_does_no_worse_than_leaving_the_length(self, scenario: Scenario) -> None:
        short = moved(scenario, lambda n, tau: 0.2 * tau)
        attack, made = view("coefficient-search", scenario, short)
        found = attack(made)
        merge = _Merge.of(view("coefficient-search", scenario, short)[1], 128)
        shares = [
            float(away(scenario, found, layer[0]).norm() / away(scenario, short, layer[0]).norm())
            for layer in merge.layers
        ]
        still, ones = [0.0] * len(shares), [1.0] * len(shares)
        together = min((step / 10 for step in range(1, 11)), key=lambda share: merge.loss(share, still, own=True))
        assert merge.loss(together, shares) < merge.loss(together, ones)

    def test_the_loss_in_place_is_that_of_the_merge_itself(self, scenario: Scenario) -> None:
        victim, base, (first, *_) = scenario.experts["victim"], scenario.base, scenario.companions
        merge = _Merge.of(view("coefficient-search", scenario, victim)[1], 64)
        merge.loss(0.4, [1.5] * len(merge.layers))
        merged = {
            n: base[n]
            + 0.4 * (1.5 * (victim[n] - base[n]) + sum(scenario.experts[t][n] - base[n] for t in scenario.companions))
            for n in names(scenario)
        }
        expected = scenario.dressed(Checkpoint.of(merged, base.config), first).module()
        looked = merge.looked_at[0]
        with torch.inference_mode():
            found, wanted = (network(**looked.batch[0]).logits for network in (looked.network, expected))
        assert torch.allclose(found, wanted, atol=1e-4)

    def test_what_the_networks_have_in_common_is_run_once_and_the_loss_stays(
        self, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        merge = _Merge.of(view("coefficient-search", scenario, scenario.experts["victim"])[1], 64)
        assert all(one.common for one in merge.looked_at)
        ran: list[nn.Module] = []
        for part in merge.looked_at[0].common:
            merge.victim.get_submodule(part).register_forward_hook(lambda part, *_: ran.append(part))
        shared = [merge.loss(0.4, [c] * len(merge.layers)) for c in (0.5, 2.0)]
        merge.looked_at[:] = [replace(one, common=()) for one in merge.looked_at]
        calls = len(ran)
        assert shared == [merge.loss(0.4, [c] * len(merge.layers)) for c in (0.5, 2.0)]
        assert len(ran) > calls

    def test_where_the_way_to_the_loss_is_another_everything_is_computed(
        self, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def half(self: object, module: nn.Module, batch: Batch) -> torch.Tensor:
            inputs, labels = batch
            return loss(self, module, ({name: value.flip(0) for name, value in inputs.items()}, labels))

        loss = Classification.loss
        monkeypatch.setattr(Classification, "loss", half)
        merge = _Merge.of(view("coefficient-search", scenario, scenario.experts["victim"])[1], 64)
        assert not any(one.common for one in merge.looked_at)

    def test_what_it_cannot_work_with_is_one_sentence(self, scenario: Scenario) -> None:
        victim = scenario.experts["victim"]
        with pytest.raises(Inapplicable, match="no companion"):
            attacked("coefficient-search", scenario, victim, alone=True)
        broken = victim.replace({names(scenario)[-1]: victim[names(scenario)[-1]] * torch.nan})
        with pytest.raises(BadInput, match="not finite"):
            attacked("coefficient-search", scenario, broken)
