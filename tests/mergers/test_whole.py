"""Mergers that keep every expert whole, against their papers' and releases' formulas written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, Whole
from redteam.errors import Inapplicable
from redteam.key import Key
from redteam.plugins.registry import MERGERS
from redteam.testing import toy_architectures, toy_scenario
from redteam.views import MergerView
from tests.mergers.whole_oracles import emr_release, smile_layer

NO_LINEAR: tuple[str, ...] = ()
"""Toys without a linear layer that an expert has changed."""
View = Callable[..., MergerView]
Experts = Mapping[str, Checkpoint]


def whole(text: str, view: MergerView) -> Whole:
    made: Whole = MERGERS.load(text)(view)
    return made


def close(made: Checkpoint, wanted: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        torch.testing.assert_close(made[name].double(), wanted[name], rtol=1e-6, atol=1e-6)


def vectors(base: Checkpoint, experts: Experts) -> list[dict[str, Tensor]]:
    return [{name: e[name].double() - base[name].double() for name in base} for e in experts.values()]


class TestSmile:
    @pytest.mark.parametrize(("gate", "k", "top"), [(2, 3, 1), (4, 6, 1), (2, 4, 2), (1, 1, 3)])
    def test_a_layer_is_what_the_release_computes(self, view: View, gate: int, k: int, top: int) -> None:
        torch.manual_seed(0)
        with torch.no_grad():
            layers = {task: torch.nn.Linear(8, 6).double() for task in ("base", "left", "right", "victim")}
            base, *tuned = (Checkpoint.of({"w": layer.weight, "b": layer.bias}, {}) for layer in layers.values())
            experts = dict(zip(("left", "right", "victim"), tuned, strict=True))
            made = whole(f"smile:gate={gate},rank={k},top={top}", view(experts, base=base))
            network = torch.nn.Sequential(layers["base"])
            assert made.rewire is not None
            made.rewire(network, {"w": "0.weight", "b": "0.bias"})
            inputs = torch.randn(5, 7, 8).double()
            wanted = smile_layer(
                layers["base"], [(e["w"], e["b"]) for e in tuned], inputs.reshape(-1, 8), gate=gate, k=k, top=top
            )
            torch.testing.assert_close(network(inputs), wanted.reshape(5, 7, 6), rtol=1e-6, atol=1e-9)

    def test_of_one_expert_it_is_the_expert_but_for_what_is_no_linear_layer(self) -> None:
        scenario = toy_scenario("vit")
        view = MergerView({"left": scenario.experts["left"]}, scenario.base, Key(bytes(32)))
        made = whole("smile:rank=64", view)
        expert = scenario.experts["left"]
        linear = [n for n in expert if expert[n].ndim == 2 or n.endswith("bias")]
        same = [n for n in linear if n in scenario.base and "norm" not in n and "embeddings" not in n]
        wanted = scenario.dressed(scenario.base.replace(expert.only(same)), "left").module()
        inputs = scenario.tasks["left"].inputs_of("test")
        with torch.inference_mode():
            found = made.network(scenario.dressed(made.of("left"), "left"))(**inputs).logits
            torch.testing.assert_close(found, wanted(**inputs).logits, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("architecture", toy_architectures())
    def test_it_runs_in_every_architecture_or_says_why_not(self, architecture: str) -> None:
        scenario = toy_scenario(architecture)
        made = whole("smile", MergerView(scenario.experts, scenario.base, Key(bytes(32))))
        inputs = dict(scenario.tasks["left"].inputs_of("test"))
        if architecture in NO_LINEAR:
            with pytest.raises(Inapplicable, match="finds no linear layer"):
                made.network(scenario.dressed(made.of("left"), "left"))
            return
        network = made.network(scenario.dressed(made.of("left"), "left"))
        with torch.inference_mode():
            assert network(**inputs).logits.isfinite().all()
        assert any(type(module).__name__ == "Routed" for module in network.modules())

    def test_an_expert_of_low_rank_is_routed_by_what_it_has(self, view: View) -> None:
        """The release scores it by directions that its change does not have."""
        draws = torch.Generator().manual_seed(0)
        start, one = (torch.randn(6, 8, generator=draws).double() for _ in range(2))
        thin = torch.outer(torch.randn(6, generator=draws), torch.randn(8, generator=draws)).double()
        base = Checkpoint.of({"w": start}, {})
        experts = {"left": Checkpoint.of({"w": start + one}, {}), "right": Checkpoint.of({"w": start + thin}, {})}
        layer = torch.nn.Linear(8, 6, bias=False).double()
        network = torch.nn.Sequential(layer)
        made = whole("smile", view(experts, base=base))
        assert made.rewire is not None
        made.rewire(network, {"w": "0.weight"})
        assert [len(gate) for gate in network[0].gates] == [4, 1]


class TestEmr:
    @pytest.mark.parametrize(("text", "flat"), [("emr", True), ("emr:rescale=tensor", False)])
    def test_it_is_what_the_release_computes(
        self, view: View, base: Checkpoint, experts: Experts, text: str, flat: bool
    ) -> None:
        made = whole(text, view(experts))
        wanted = emr_release(vectors(base, experts), flat=flat)
        for task, vector in zip(experts, wanted, strict=True):
            close(made.of(task), {name: base[name].double() + vector[name] for name in base}, sorted(base))

    def test_a_task_without_an_expert_runs_on_the_elected_vector(
        self, view: View, base: Checkpoint, experts: Experts
    ) -> None:
        deltas = [torch.stack([one[name] for one in vectors(base, experts)]) for name in sorted(base)]
        made = whole("emr", view(experts)).of("nobody's")
        for name, delta in zip(sorted(base), deltas, strict=True):
            sign = delta.sum(0).sign()
            elected = sign * (delta * sign).clamp_min(0).amax(0)
            close(made, {name: base[name].double() + elected}, [name])

    def test_an_expert_that_has_not_moved_is_the_base(self, view: View, base: Checkpoint, experts: Experts) -> None:
        made = whole("emr", view({**experts, "left": base})).of("left")
        assert all(torch.equal(made[name], base[name]) for name in base)

    def test_a_tensor_that_an_expert_lacks_is_elected_by_the_others(
        self, view: View, base: Checkpoint, experts: Experts
    ) -> None:
        given = {**experts, "left": experts["left"].only([name for name in experts["left"] if name != "b"])}
        left, nobody = (whole("emr", view(given)).of(task) for task in ("left", "nobody's"))
        assert torch.equal(left["b"], nobody["b"])
        assert not torch.equal(left["a"], nobody["a"])

    def test_the_infinities_of_a_mask_leave_the_factors_alone(
        self, view: View, base: Checkpoint, experts: Experts
    ) -> None:
        mask = {"mask": torch.full((2, 2), -torch.inf).triu(1)}
        plain = whole("emr", view(experts)).of("left")
        masked = whole("emr", view({n: e.replace(mask) for n, e in experts.items()}, base=base.replace(mask))).of(
            "left"
        )
        assert all(torch.equal(masked[name], plain[name]) for name in base)

    def test_what_is_stored_is_two_models_and_a_bit_for_each_entry_and_task(
        self, view: View, base: Checkpoint, experts: Experts
    ) -> None:
        entries = base.weights
        assert base.nbytes == 4 * entries
        assert whole("emr", view(experts)).nbytes == 2 * base.nbytes + 3 * (-(-entries // 8) + 4)
