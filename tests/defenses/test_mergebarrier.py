"""MergeBarrier against the formulas written out, and networks of polynomials as checkpoints that are saved and run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from redteam_attacks.gauge_fit import gauge_fit
from redteam_defenses.expanded import ExpandedLinear, Polynomial, expanded, taylor
from redteam_defenses.mergebarrier import Reflection, mergebarrier
from torch import Tensor

from redteam.anatomy import Site, anatomy_of
from redteam.anatomy.auto import architecture_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.known import NETWORK
from redteam.checkpoint.modules import activation_of, layer_paths
from redteam.errors import BadInput, IllegalGauge, Inapplicable, NotACheckpoint
from redteam.key import Key
from redteam.testing import toy_scenario
from redteam.views import AttackerView, DefenderView, unlocked
from tests.zoo import network

KEY = Key(bytes(range(32)))
NAMES = ["vit", "bert", "gpt2"]
gelu = torch.nn.functional.gelu


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def protect(checkpoint: Checkpoint, **settings: Any) -> Checkpoint:
    return mergebarrier(DefenderView(checkpoint, None, KEY), **settings)


def only_heads(view: DefenderView) -> Checkpoint:
    return mergebarrier(view, parts=("attention",))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class TestThePolynomial:
    def test_the_coefficients_of_gelu_are_those_in_closed_form(self) -> None:
        middle = torch.linspace(-4, 4, 33, dtype=torch.float64)
        found = taylor(gelu, middle, 3)
        for row, x in zip(found.tolist(), middle.tolist(), strict=True):
            normal_below = (1 + math.erf(x / math.sqrt(2))) / 2
            density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
            wanted = [
                x * normal_below,
                normal_below + x * density,
                density * (2 - x * x) / 2,
                density * (x**3 - 4 * x) / 6,
            ]
            assert row == pytest.approx(wanted, abs=1e-12)

    @pytest.mark.parametrize("order", [1, 2, 5, 12])
    def test_it_runs_as_the_sum_written_out(self, order: int) -> None:
        weight, bias, middle, inputs = normal(4, 5), normal(4, seed=1), normal(4, seed=2), normal(7, 5, seed=3)
        made = Polynomial.of(weight, bias, middle, order, gelu)
        found = ExpandedLinear(made.direction, made.offset, made.coefficients)(inputs).detach()
        coefficients = taylor(gelu, middle, order)
        for i in range(7):
            for k in range(4):
                before = sum(float(weight[k, j] * inputs[i, j]) for j in range(5)) + float(bias[k])
                powers = [float(coefficients[k, n]) * (before - float(middle[k])) ** n for n in range(order + 1)]
                assert float(found[i, k]) == pytest.approx(sum(powers), rel=1e-9, abs=1e-10)

    def test_the_projection_is_not_there_to_be_read(self) -> None:
        made = Polynomial.of(normal(4, 5), normal(4, seed=1), normal(4, seed=2), 3, gelu)
        assert torch.allclose(made.direction.norm(dim=1), torch.ones(4, dtype=torch.float64))

    def test_a_neuron_without_weight_is_its_constant(self) -> None:
        bias = torch.tensor([0.7, -0.2], dtype=torch.float64)
        made = Polynomial.of(torch.zeros(2, 5, dtype=torch.float64), bias, bias, 6, gelu)
        found = ExpandedLinear(made.direction, made.offset, made.coefficients)(normal(3, 5))
        assert torch.allclose(found, gelu(bias).expand(3, 2))

    @pytest.mark.parametrize(
        ("activation", "wanted"),
        [
            (torch.relu, [[0.0, 0.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0]]),
            (torch.ones_like, [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]),
            (lambda x: x * x, [[9.0, -6.0, 1.0, 0.0], [4.0, 4.0, 1.0, 0.0]]),
        ],
    )
    def test_what_has_few_derivatives_ends_early(
        self, activation: Callable[[Tensor], Tensor], wanted: list[list[float]]
    ) -> None:
        assert taylor(activation, torch.tensor([-3.0, 2.0]), 3).tolist() == wanted

    def test_the_error_near_the_middle_falls_with_the_order(self) -> None:
        weight, bias, inputs = normal(6, 5), normal(6, seed=1), 0.2 * normal(50, 5, seed=2)
        errors = []
        for order in (1, 2, 3, 4, 6, 8):
            made = Polynomial.of(weight, bias, bias, order, gelu)
            found = ExpandedLinear(made.direction, made.offset, made.coefficients)(inputs).detach()
            errors.append(float((found - gelu(inputs @ weight.T + bias)).abs().mean()))
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-2 * errors[0]


class TestTheReflection:
    @pytest.mark.parametrize("name", [*NAMES, "t5", "clip", "open-clip"])
    @pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
    def test_the_function_stays_and_the_key_needs_no_secret(self, name: str, share: float) -> None:
        there = network(name)
        locked = Reflection(share).put_on(there.checkpoint)
        assert there.change(locked) <= 1e-10
        moved = [n for n in locked if not torch.allclose(locked[n], there.checkpoint[n])]
        assert moved
        again = Reflection(share).put_on(locked)
        assert all(torch.allclose(again[n], there.checkpoint[n], atol=1e-9) for n in locked)

    def test_grouped_heads_too(self, grouped: Any) -> None:
        locked = protect(grouped.checkpoint, parts=("attention",))
        assert grouped.change(locked) <= 1e-10
        assert any(not torch.allclose(locked[n], grouped.checkpoint[n]) for n in locked)

    def test_what_was_put_on_comes_off(self, case: Any) -> None:
        back = unlocked(protect(case.checkpoint, parts=("attention",)), only_heads, None, Key(bytes(32)))
        assert all(torch.allclose(back[n], case.checkpoint[n], atol=1e-9) for n in case.checkpoint)

    @pytest.mark.parametrize("count", [1, 4, 7, 8])
    def test_it_is_minus_one_on_the_main_directions(self, vit: Any, count: int) -> None:
        """By numpy from the config's numbers: 3 heads of 8 dimensions."""
        width, layer = 8, "vit.encoder.layer.1.attention.attention"
        site = next(site for site in anatomy_of(vit.checkpoint).sites(("qk",)) if site.layer == 1)
        found = Reflection(count / width).gauge(site, vit.checkpoint).matrix.numpy()
        for head in range(3):
            rows = slice(head * width, (head + 1) * width)
            total = np.zeros((width, width))
            for name in ("query", "key"):
                weight = vit.checkpoint[f"{layer}.{name}.weight"].numpy()[rows]
                bias = vit.checkpoint[f"{layer}.{name}.bias"].numpy()[rows]
                total += weight @ weight.T + np.outer(bias, bias)
            values, vectors = np.linalg.eigh(total)
            signs = np.ones(width)
            signs[np.argsort(values)[-min(count, width - 1) :]] = -1
            wanted = vectors @ np.diag(signs) @ vectors.T
            np.testing.assert_allclose(found[head], wanted, atol=1e-9)
            np.testing.assert_allclose(found[head], found[head].T, atol=1e-12)
            np.testing.assert_allclose(found[head] @ found[head].T, np.eye(width), atol=1e-9)
            assert 0 < (signs < 0).sum() < width, "neither I nor −I"
            locked = Reflection(count / width).put_on(vit.checkpoint)
            for name in ("query", "key"):
                for part in ("weight", "bias"):
                    here, there = (c[f"{layer}.{name}.{part}"].numpy()[rows] for c in (locked, vit.checkpoint))
                    np.testing.assert_allclose(here, wanted @ there, atol=1e-9)

    def test_where_positions_are_rotated_it_is_refused(self, rotary: Any) -> None:
        with pytest.raises(IllegalGauge, match="rotary embedding turns queries and keys"):
            protect(rotary.checkpoint)
        with pytest.raises(IllegalGauge, match="rotary embedding turns queries and keys"):
            protect(network("llama").checkpoint)

    def test_a_network_without_heads_is_refused(self) -> None:
        with pytest.raises(BadInput, match="no queries and keys to reflect"):
            protect(network("resnet").checkpoint)


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest) -> tuple[Any, Checkpoint]:
    there = network(request.param)
    return there, protect(there.checkpoint)


class TestTheNetwork:
    def test_it_computes_what_its_polynomials_say(self, made: tuple[Any, Checkpoint]) -> None:
        """A plain network with each activation exchanged, by a hook, for the sum written out about its middle."""
        there, _ = made
        middles: dict[str, Tensor] = {}

        def given(site: Site) -> Polynomial:
            up = site.left.linear.read(there.checkpoint)
            middles[site.left.linear.weight] = 0.1 * normal(site.width, seed=site.layer)
            middle = middles[site.left.linear.weight]
            return Polynomial.of(up.weight, up.bias, middle, 4, activation_of(there.checkpoint))

        found = there.computed(expanded(there.checkpoint, given))
        plain = there.checkpoint.module(torch.float64)
        for name, path in layer_paths(there.checkpoint, middles).items():
            middle = middles[name]
            coefficients = taylor(activation_of(there.checkpoint), middle, 4)
            block = plain.get_submodule(path.rpartition(".")[0])
            act = next(part for part in ("intermediate_act_fn", "act", "activation_fn") if hasattr(block, part))

            def run(x: Tensor, middle: Tensor = middle, coefficients: Tensor = coefficients) -> Tensor:
                return sum((coefficients[:, n] * (x - middle) ** n for n in range(5)), torch.zeros_like(x))

            delattr(block, act)
            setattr(block, act, run)
        with torch.no_grad():
            wanted = plain(**there.inputs).logits
        assert float((found[0] - wanted).abs().max() / wanted.abs().max()) < 1e-9

    def test_more_orders_about_the_same_middle_come_closer(self) -> None:
        there = network("bert")
        changes = [there.change(protect(there.checkpoint, parts=("mlp",), order=order)) for order in (2, 6, 12)]
        assert changes == sorted(changes, reverse=True)
        assert changes[-1] < 0.2 * changes[0]

    def test_saved_and_opened_it_is_the_same(self, made: tuple[Any, Checkpoint], tmp_path: Path) -> None:
        there, locked = made
        locked.save(tmp_path / "model")
        opened = Checkpoint.open(tmp_path / "model")
        assert opened.config[NETWORK] == "expanded-mlp"
        assert opened.digest() == locked.digest()
        assert all(torch.equal(*pair) for pair in zip(there.computed(opened), there.computed(locked), strict=True))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_it_runs_in_other_dtypes(self, made: tuple[Any, Checkpoint], dtype: torch.dtype) -> None:
        there, locked = made
        rounded = locked.to(dtype).configured({"dtype": str(dtype).removeprefix("torch.")})
        module = rounded.module()
        assert {p.dtype for p in module.parameters()} == {dtype}
        inputs = {n: t.to(dtype) if t.is_floating_point() else t for n, t in there.inputs.items()}
        with torch.no_grad():
            found, wanted = module(**inputs).logits.double(), there.computed(locked)[0]
        assert torch.isfinite(found).all()
        bound = 1e-4 if dtype == torch.float32 else 0.2
        assert float((found - wanted).norm() / wanted.norm()) < bound

    def test_all_of_it_is_in_one_dtype_whatever_the_config_says(self, made: tuple[Any, Checkpoint]) -> None:
        there, locked = made
        module = locked.to(torch.bfloat16).configured({"dtype": "float32"}).module()
        assert len({p.dtype for p in module.parameters()}) == 1
        inputs = {n: t.float() if t.is_floating_point() else t for n, t in there.inputs.items()}
        with torch.no_grad():
            assert torch.isfinite(module(**inputs).logits).all()

    def test_names_of_the_projection_are_gone_and_all_else_is_there(self, made: tuple[Any, Checkpoint]) -> None:
        there, locked = made
        up = {name for site in anatomy_of(there.checkpoint).sites(("mlp",)) for name in site.left.linear.names}
        stems = {name.rpartition(".")[0] for name in up}
        parts = {f"{stem}.{part}" for stem in stems for part in ("direction", "offset", "coefficients")}
        assert set(locked) == (set(there.checkpoint) - up) | parts
        assert all(locked.dtype(name) == torch.float64 for name in parts)

    def test_only_heads_have_sites_and_a_fit_runs_there(self, made: tuple[Any, Checkpoint]) -> None:
        there, locked = made
        assert architecture_of(locked)[0] == "expanded-mlp"
        assert {site.kind for site in anatomy_of(locked).inner} == {"qk", "vo", "heads"}
        assert not anatomy_of(locked).sites(("mlp", "residual", "norm"))
        fitted = gauge_fit(AttackerView.by_hand(locked, anchor=there.checkpoint))
        kept = [name for name in there.checkpoint if name in fitted]
        assert all(torch.allclose(fitted[n], there.checkpoint[n], atol=1e-8) for n in kept), "the reflection is off"
        close = zip(there.computed(fitted), there.computed(locked), strict=True)
        assert all(torch.allclose(here, before, rtol=1e-7, atol=1e-7) for here, before in close)

    def test_it_can_be_neither_trained_nor_started_anew(self, made: tuple[Any, Checkpoint]) -> None:
        _, locked = made
        with pytest.raises(Inapplicable, match=r"bring it back to the base's form"):
            locked.trained(locked.module())
        with pytest.raises(Inapplicable, match=r"bring it back to the base's form"):
            locked.fresh(0)

    def test_expanding_it_again_is_refused(self, made: tuple[Any, Checkpoint]) -> None:
        with pytest.raises(BadInput, match="no MLPs that could be expanded"):
            protect(made[1])

    @pytest.mark.parametrize("part", ["direction", "offset", "coefficients"])
    def test_a_missing_tensor_is_one_sentence(self, made: tuple[Any, Checkpoint], part: str) -> None:
        _, locked = made
        gone = next(name for name in locked if name.endswith(part))
        with pytest.raises(NotACheckpoint, match=f"{part}' is missing") as caught:
            locked.only([name for name in locked if name != gone]).module()
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("part", ["direction", "offset", "coefficients"])
    def test_a_tensor_of_another_shape_is_one_sentence(self, made: tuple[Any, Checkpoint], part: str) -> None:
        _, locked = made
        name = next(name for name in locked if name.endswith(part))
        with pytest.raises(NotACheckpoint, match="must belong together"):
            locked.replace({name: locked[name][:-1]}).module()

    @pytest.mark.parametrize("lie", [None, "text", {}, {"nowhere.weight": [3, 4]}, "wider", "fewer"])
    def test_a_config_that_lies_is_one_sentence(self, made: tuple[Any, Checkpoint], lie: Any) -> None:
        _, locked = made
        told = dict(locked.config["expanded"])
        if lie == "wider":
            lie = {name: [size + 1 for size in shape] for name, shape in told.items()}
        elif lie == "fewer":
            lie = dict(list(told.items())[len(told) // 2 :])
        with pytest.raises(NotACheckpoint) as caught:
            locked.configured({"expanded": lie}).module()
        assert "\n" not in str(caught.value)

    def test_a_network_that_nobody_builds_is_not_run(self, made: tuple[Any, Checkpoint]) -> None:
        other = made[1].configured({NETWORK: "no-such-form"})
        with pytest.raises(NotACheckpoint, match=r"'no-such-form'.*which no installed package builds"):
            other.module()
        with pytest.raises(BadInput, match="no-such-form"):
            anatomy_of(other)


@pytest.mark.parametrize("name", ["llama", "phi3", "flan-t5"])
def test_gates_and_fused_projections_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="has a gate or lies in a tensor with others"):
        protect(network(name).checkpoint, parts=("mlp",))


@pytest.mark.parametrize("name", ["clip", "open-clip"])
def test_a_config_that_names_no_activation_is_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(BadInput, match="no activation that is known"):
        protect(network(name).checkpoint, parts=("mlp",))


def test_an_activation_that_the_config_leaves_out_is_the_architectures() -> None:
    full, config = network("vit").checkpoint, network("vit").checkpoint.config
    bare = Checkpoint.of(dict(full.items()), {k: v for k, v in config.items() if k != "hidden_act"})
    assert torch.equal(activation_of(bare)(normal(9)), gelu(normal(9)))
    assert torch.equal(activation_of(full.configured({"hidden_act": "relu"}))(normal(9)), torch.relu(normal(9)))
    with pytest.raises(BadInput, match="'nothing-known'"):
        activation_of(full.configured({"hidden_act": "nothing-known"}))


def test_features_are_observed_on_training_data_where_there_are_some() -> None:
    scenario = toy_scenario()
    victim, task = scenario.experts["victim"], scenario.tasks["victim"]
    views = [DefenderView(victim, None, KEY, given) for given in (task, task, None)]
    first, second, without = (mergebarrier(view) for view in views)
    assert first.digest() == second.digest()
    assert first.digest() != without.digest()
    mean = mergebarrier(DefenderView(victim, None, KEY, task), middle="mean")
    offsets = [name for name in first if name.endswith("offset")]
    assert offsets
    assert all(not torch.equal(first[name], mean[name]) for name in offsets)
