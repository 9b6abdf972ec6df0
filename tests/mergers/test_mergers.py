"""Mergers against their formulas written out entry by entry, and what each says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import ThreatModelViolation
from redteam.key import Key
from redteam.plugins.registry import MERGERS
from redteam.symmetry.neurons import Split
from redteam.testing import toy_scenario
from redteam.views import MergerView

View = Callable[..., MergerView]
Experts = Mapping[str, Checkpoint]
EACH = (
    "linear",
    "linear:weights=[[left,3.0]]",
    "ties",
    "ties:variant=mergekit,density=0.5,weights=[[left,3.0]]",
    "ties:variant=peft,density=0.5,weights=[[left,3.0]]",
    "dare",
    "dare:variant=mergekit",
    "dare:elect=true",
    "dare:elect=true,variant=mergekit",
)


def merge(text: str, view: MergerView) -> Checkpoint:
    merged: Checkpoint = MERGERS.load(text)(view)
    return merged


def needs_base(text: str) -> bool:
    return not text.startswith("linear")


def close(merged: Checkpoint, wanted: Mapping[str, Any], *, rtol: float = 1e-6) -> None:
    for name, tensor in wanted.items():
        torch.testing.assert_close(merged[name].double(), torch.as_tensor(tensor).double(), rtol=rtol, atol=1e-6)


def vectors(base: Checkpoint, experts: Experts) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Task → tensor → τ in float64, flat."""
    return {
        task: {name: (e[name].double() - base[name].double()).numpy().ravel() for name in base}
        for task, e in experts.items()
    }


class TestAll:
    @pytest.mark.parametrize("text", EACH)
    def test_order_of_experts_is_irrelevant_to_the_bit(self, text: str, view: View, experts: Experts) -> None:
        there, back = (
            merge(text, view(e, needs_base=needs_base(text))) for e in (experts, dict(reversed(experts.items())))
        )
        assert there.digest() == back.digest()

    @pytest.mark.parametrize("text", EACH)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_dtype_is_kept(self, text: str, dtype: torch.dtype, view: View, base: Checkpoint, experts: Experts) -> None:
        rounded = {task: e.to(dtype) for task, e in experts.items()}
        merged = merge(text, view(rounded, base=base.to(dtype), needs_base=needs_base(text)))
        assert {merged.dtype(name) for name in base} == {dtype}
        exact = merge(
            text,
            view(
                {task: e.to(torch.float64) for task, e in rounded.items()},
                base=base.to(dtype).to(torch.float64),
                needs_base=needs_base(text),
            ),
        )
        for name in base:
            assert torch.equal(merged[name], exact[name].to(dtype)), "sums are rounded once"

    @pytest.mark.parametrize("text", EACH)
    def test_who_has_another_shape_sits_out(self, text: str, view: View, experts: Experts) -> None:
        other = experts["victim"].replace({"a": torch.zeros(3, 5)})
        merged = merge(text, view({**experts, "victim": other}, needs_base=needs_base(text)))
        whole = merge(text, view(experts, needs_base=needs_base(text)))
        without = {task: e for task, e in experts.items() if task != "victim"}
        alone = merge(text, view(without, needs_base=needs_base(text)))
        assert torch.equal(merged["a"], alone["a"])
        if text != "ties":  # which trims over the whole vector, of which it sees less
            assert torch.equal(merged["b"], whole["b"])

    @pytest.mark.parametrize("text", EACH)
    def test_what_nobody_has_is_left_as_it_was(self, text: str, view: View, base: Checkpoint, experts: Experts) -> None:
        odd = {task: e.replace({"a": torch.zeros(7)}) for task, e in experts.items()}
        merged = merge(text, view(odd, needs_base=needs_base(text)))
        assert "a" not in merged if text.startswith("linear") else torch.equal(merged["a"], base["a"])

    @pytest.mark.parametrize("text", ["linear", "ties", "dare"])
    def test_a_victim_of_wider_mlps_merges_and_runs(self, text: str) -> None:
        scenario = toy_scenario("vit")
        key = Key.derive(seed=0, index=0, name="split")
        wide = Split(0.5, key.generator).put_on(scenario.experts["victim"])
        assert wide.config["intermediate_size"] == 72
        merged = merge(text, MergerView({**scenario.experts, "victim": wide}, scenario.base, key, needs_base(text)))
        worn = scenario.dressed(scenario.base.replace({n: merged[n] for n in merged if n in scenario.base}), "victim")
        assert np.isfinite(scenario.tasks["victim"].scores(worn.module())).all()
        name = "vit.encoder.layer.0.intermediate.dense.weight"
        pair = {task: scenario.experts[task] for task in ("left", "right")}
        assert torch.equal(merged[name], merge(text, MergerView(pair, scenario.base, key, needs_base(text)))[name])


class TestLinear:
    def test_is_the_weighted_mean(self, view: View, base: Checkpoint, experts: Experts) -> None:
        merged = merge("linear:weights=[[victim,0.5],[left,3.0]]", view(experts, needs_base=False))
        w = {"victim": 0.5, "left": 3.0, "right": 1.0}
        close(merged, {n: sum(w[t] * e[n].double() for t, e in experts.items()) / 4.5 for n in base})

    def test_by_default_is_task_arithmetic_with_one_over_their_number(self, view: View, experts: Experts) -> None:
        close(
            merge("linear", view(experts, needs_base=False)),
            dict(merge(f"task-arithmetic:coefficient={1 / 3}", view(experts))),
        )

    def test_identical_experts_give_the_expert(self, view: View, base: Checkpoint, experts: Experts) -> None:
        same = dict.fromkeys(("one", "two", "three"), experts["left"])
        merged = merge("linear", view(same, needs_base=False))
        assert set(merged) == set(base)
        assert all(torch.equal(merged[name], experts["left"][name]) for name in base)

    def test_weights_of_who_is_not_there_go_for_nothing(self, view: View, experts: Experts) -> None:
        pair = {task: experts[task] for task in ("left", "right")}
        text = "linear:weights=[[left,2.0],[victim,5.0]]"
        one, other = (merge(t, view(pair, needs_base=False)) for t in (text, "linear:weights=[[left,2.0]]"))
        assert one.digest() == other.digest()

    def test_asks_for_no_base(self, view: View, experts: Experts) -> None:
        assert not MERGERS.load("linear").spec.needs_base
        with pytest.raises(ThreatModelViolation):
            merge("ties", view(experts, needs_base=False))


class TestTies:
    @pytest.mark.parametrize("variant", ["paper", "mergekit", "peft"])
    @pytest.mark.parametrize("density", [0.2, 0.5, 0.75, 1.0])
    def test_is_its_formula(self, variant: str, density: float, view: View, base: Checkpoint, experts: Experts) -> None:
        w = {"victim": 0.5, "left": 3.0, "right": 1.0}
        text = f"ties:variant={variant},density={density},coefficient=0.7,weights=[[victim,0.5],[left,3.0]]"
        close(merge(text, view(experts)), written_out(variant, density, 0.7, w, base, experts))

    def test_variants_differ_as_they_say(self, view: View, experts: Experts) -> None:
        paper, mergekit, peft = (
            merge(f"ties:variant={v},density=0.5", view(experts)) for v in ("paper", "mergekit", "peft")
        )
        assert mergekit.digest() == peft.digest() != paper.digest()
        weighed = [
            merge(f"ties:variant={v},density=0.5,weights=[[left,3.0]]", view(experts)) for v in ("mergekit", "peft")
        ]
        assert weighed[0].digest() != weighed[1].digest()

    def test_trims_over_the_whole_model_or_tensor_by_tensor(self, view: View) -> None:
        base = Checkpoint.of({"a": torch.zeros(3, 4), "b": torch.zeros(5), "c": torch.zeros(12)}, {})
        size = {"a": 1.0, "b": 2.0, "c": 0.5}
        one = {"one": Checkpoint.of({name: base[name] + size[name] for name in base}, {})}
        whole = merge("ties:density=0.18", view(one, base=base))
        assert [bool(whole[name].any()) for name in "abc"] == [False, True, False]
        each = merge("ties:variant=mergekit,density=0.18", view(one, base=base))
        assert all(bool(each[name].all()) for name in "abc"), "of entries of one size all are kept"

    @pytest.mark.parametrize("variant", ["paper", "mergekit", "peft"])
    def test_identical_experts_give_the_trimmed_vector(
        self, variant: str, view: View, base: Checkpoint, experts: Experts
    ) -> None:
        text = f"ties:variant={variant},density=0.3,coefficient=0.5"
        same = merge(text, view(dict.fromkeys(("one", "two", "three"), experts["left"])))
        close(same, dict(merge(text, view({"one": experts["left"]}))))
        moved = sum(int((same[name] != base[name]).sum()) for name in base)
        assert moved == (8 if variant == "paper" else 3 + 1 + 3)
        whole = merge(f"ties:variant={variant},density=1.0", view({"one": experts["left"]}))
        close(whole, {name: experts["left"][name] for name in base})


class TestDare:
    def test_at_density_1_is_task_arithmetic(self, view: View, experts: Experts) -> None:
        wanted = dict(merge("task-arithmetic:coefficient=0.4", view(experts)))
        for variant in ("paper", "mergekit"):
            close(merge(f"dare:variant={variant},density=1.0,coefficient=0.4", view(experts)), wanted)

    def test_at_density_1_elected_is_ties_untrimmed(self, view: View, base: Checkpoint, experts: Experts) -> None:
        ties = merge("ties:density=1.0,coefficient=0.4", view(experts))
        close(merge("dare:elect=true,density=1.0,coefficient=0.4", view(experts)), dict(ties))
        summed = merge("dare:elect=true,variant=mergekit,density=1.0,coefficient=1.0", view(experts))
        delta = vectors(base, experts)
        for name in base:
            for i, got in enumerate((summed[name].double() - base[name].double()).flatten().tolist()):
                entries = [delta[task][name][i] for task in experts]
                side = 1 if sum(entries) >= 0 else -1
                assert got == pytest.approx(sum(e for e in entries if e * side > 0), abs=1e-6)

    def test_entries_are_dropped_or_made_larger(self, view: View, base: Checkpoint, experts: Experts) -> None:
        one = {"left": experts["left"]}
        merged = merge("dare:density=0.25,coefficient=1.0", view(one))
        for name in base:
            delta = experts["left"][name] - base[name]
            kept = merged[name] != base[name]
            torch.testing.assert_close(merged[name] - base[name], delta * kept / 0.25, rtol=1e-4, atol=1e-5)
        l1 = merge("dare:variant=mergekit,density=0.5,coefficient=1.0", view(one))
        for name in base:
            got, wanted = ((e[name].double() - base[name].double()).abs().sum() for e in (l1, experts["left"]))
            assert float(got) == pytest.approx(float(wanted), rel=1e-5)

    def test_on_average_is_task_arithmetic(self, view: View, base: Checkpoint, experts: Experts) -> None:
        draws, dare = 400, MERGERS.load("dare:density=0.5,coefficient=1.0")
        merges = [dare(view(experts, stream=stream)) for stream in range(draws)]
        wanted = merge("task-arithmetic:coefficient=1.0", view(experts))
        off = []
        for name in base:
            mean = torch.stack([m[name].double() for m in merges]).mean(0)
            # Each τ comes out as 0 or 2 τ, so that its deviation is |τ|.
            deviation = sum((e[name].double() - base[name].double()).square() for e in experts.values()) ** 0.5
            off.append(((mean - wanted[name].double()) / (deviation / draws**0.5)).flatten())
        z = torch.cat(off)
        assert z.abs().max() < 4.5
        assert 0.6 < float(z.std()) < 1.4, "the noise is what independent draws make"

    def test_the_same_is_drawn_in_every_run_and_in_a_merge_of_fewer(
        self, view: View, base: Checkpoint, experts: Experts
    ) -> None:
        text = "dare:density=0.5,coefficient=1.0"
        assert merge(text, view(experts)).digest() == merge(text, view(experts)).digest()
        assert merge(text, view(experts)).digest() != merge(text, view(experts, stream=1)).digest()
        without = merge(text, view({task: e for task, e in experts.items() if task != "victim"}))
        whole, alone = (merge(text, view(e)) for e in (experts, {"victim": experts["victim"]}))
        close(whole, {n: without[n].double() + alone[n].double() - base[n].double() for n in base})


def written_out(
    variant: str, density: float, coefficient: float, w: Mapping[str, float], base: Checkpoint, experts: Experts
) -> dict[str, torch.Tensor]:
    """TIES, one entry at a time."""
    delta = vectors(base, experts)
    if variant == "paper":
        for parts in delta.values():
            keep_largest(list(parts.values()), density)
    else:
        for parts in delta.values():
            for part in parts.values():
                keep_largest([part], density)
    merged = {}
    for name in base:
        out = base[name].double().numpy().ravel().copy()
        for i in range(len(out)):
            entries = {task: float(delta[task][name][i]) for task in experts}
            vote = sum((w[t] if variant == "mergekit" else 1.0) * x for t, x in entries.items())
            agree = {t: x for t, x in entries.items() if (x > 0 and vote >= 0) or (x < 0 and vote < 0)}
            if agree:
                over = sum(w[t] for t in agree) if variant == "mergekit" else len(agree)
                out[i] += coefficient * sum(w[t] * x for t, x in agree.items()) / over
        merged[name] = torch.from_numpy(out.reshape(base.shape(name)))
    return merged


def keep_largest(parts: list[np.ndarray[Any, Any]], density: float) -> None:
    """Sets all but the largest entries to zero, in place."""
    where = sorted(((abs(x), j, i) for j, part in enumerate(parts) for i, x in enumerate(part)), reverse=True)
    for _, j, i in where[int(density * len(where)) :]:
        parts[j][i] = 0.0
