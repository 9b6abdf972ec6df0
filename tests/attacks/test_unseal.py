"""`unseal` on sealed checkpoints: the form of each matrix is told, undone, and nothing is made of what has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from redteam_attacks.unsealing import AS_IT_IS, TWINNED, form_of, found_forms, in_random_bases
from torch import Tensor

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.testing import toy_scenario
from redteam.testing.toys import in_dtype
from redteam.views import AttackerView

Seal = Callable[[Tensor, torch.Generator], Tensor]


def rotation(count: int, draws: torch.Generator) -> Tensor:
    found: Tensor = torch.linalg.qr(torch.randn(count, count, generator=draws, dtype=torch.float64))[0]
    return found


def order(count: int, draws: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=draws)


def uniform(low: float, high: float, count: int, draws: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=draws, dtype=torch.float64)


def product(weight: Tensor, draws: torch.Generator) -> Tensor:
    left, right = (torch.randn(count, 4, generator=draws, dtype=torch.float64) for count in weight.shape)
    return weight + left @ right.T * weight.norm() / (left @ right.T).norm()


def mask(weight: Tensor, draws: torch.Generator) -> Tensor:
    rows, columns = weight.shape
    added = torch.outer(uniform(0.5, 1.5, rows, draws), torch.randn(columns, generator=draws, dtype=torch.float64))
    return (1.5 * weight + added)[order(rows, draws)]


def groups(weight: Tensor, draws: torch.Generator) -> Tensor:
    sealed = weight.clone()
    for rows in order(len(weight), draws).split(2):
        sealed[rows] = torch.randn(len(rows), len(rows), generator=draws, dtype=torch.float64) @ weight[rows]
    return sealed[:, order(weight.shape[1], draws)]


SEALS: dict[str, Seal] = {
    AS_IT_IS: lambda w, _: w,
    "a scalar": lambda w, _: 3 * w,
    "columns in another order": lambda w, d: w[:, order(w.shape[1], d)],
    "rows in another order": lambda w, d: w[order(len(w), d)],
    "columns scaled, in another order": lambda w, d: (w * uniform(1, 6, w.shape[1], d))[:, order(w.shape[1], d)],
    "rows scaled, in another order": lambda w, d: (w * uniform(1, 6, len(w), d)[:, None])[order(len(w), d)],
    "columns rotated": lambda w, d: w @ rotation(w.shape[1], d),
    "rows rotated": lambda w, d: rotation(len(w), d) @ w,
    "a product of low rank added": product,
    "a mask added to rows in another order": mask,
    "rows mixed in groups, columns in another order": groups,
}


def drawn(rows: int, columns: int, length: float, seed: int = 0) -> tuple[Tensor, Tensor, torch.Generator]:
    draws = torch.Generator().manual_seed(seed)
    base, change = (torch.randn(rows, columns, generator=draws, dtype=torch.float64) for _ in range(2))
    return base, base + change * (length * base.norm() / change.norm()), draws


def form(sealed: Tensor, base: Tensor, drift: float = 0.5) -> Any:
    return form_of(sealed[None], base[None], np.random.default_rng(0), drift=drift, rounding=1e-7)


def view(protected: Checkpoint, base: Checkpoint) -> AttackerView:
    return AttackerView.by_hand(protected, anchor=base)


def unsealed(protected: Checkpoint, base: Checkpoint, text: str = "unseal") -> Checkpoint:
    found: Checkpoint = ATTACKS.load(text)(view(protected, base))
    return found


def forms(protected: Checkpoint, base: Checkpoint) -> dict[str, str]:
    found = found_forms(protected, base, Key.derive(seed=0, index=0, name="unseal").generator, drift=0.5)
    return {place.label: one.form for place, one in found.items()}


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (48, 96)], ids=str)
@pytest.mark.parametrize("name", SEALS)
def test_every_form_is_told_from_all_others(name: str, size: tuple[int, int]) -> None:
    base, weight, draws = drawn(*size, 0.1)
    found = form(SEALS[name](weight, draws), base)
    assert found.form == name
    assert found.left <= 0.11


@pytest.mark.parametrize(("size", "seed"), [((48, 48), 0), ((64, 32), 1), ((32, 64), 2)], ids=str)
def test_what_has_nothing_to_do_with_the_base_stays(size: tuple[int, int], seed: int) -> None:
    base, weight, draws = drawn(*size, 0.1, seed)
    other = torch.randn(*size, generator=draws, dtype=torch.float64)
    both_sides = rotation(size[0], draws) @ weight @ rotation(size[1], draws)
    # Alike in spectrum, as two networks of one architecture are.
    u, s, vh = torch.linalg.svd(base, full_matrices=False)
    steep = u * s.square() @ vh
    rotated = rotation(size[0], draws) @ steep @ rotation(size[1], draws)
    for sealed, there in ((other, base), (both_sides, base), (rotated, steep)):
        found = form(sealed, there)
        assert (found.form, found.unsealed) == (AS_IT_IS, None)


@pytest.mark.parametrize("rank", [1, 4])
def test_a_task_vector_of_low_rank_is_not_taken_off(rank: int) -> None:
    base, _, draws = drawn(64, 48, 0.1)
    change = torch.randn(64, rank, generator=draws, dtype=torch.float64) @ torch.randn(
        rank, 48, generator=draws, dtype=torch.float64
    )
    assert form(base + 0.4 * change * base.norm() / change.norm(), base).form == AS_IT_IS


def test_what_chance_is_measured_on_has_the_same_singular_values_and_no_other_likeness() -> None:
    _, weight, _ = drawn(64, 48, 0.1)
    other = in_random_bases(weight[None], np.random.default_rng(0))[0]
    assert torch.allclose(torch.linalg.svdvals(other), torch.linalg.svdvals(weight))
    assert abs(float((other * weight).sum() / weight.square().sum())) < 0.1


@pytest.mark.parametrize("architecture", ["vit", "bert", "llama"])
def test_an_unlocked_victim_comes_back_bit_for_bit(architecture: str) -> None:
    scenario = toy_scenario(architecture)
    victim = scenario.experts["victim"]
    assert unsealed(victim, scenario.base).digest() == victim.digest()
    assert unsealed(scenario.base, scenario.base).digest() == scenario.base.digest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_matrix_of_a_model_in_its_own_way(dtype: torch.dtype) -> None:
    scenario = in_dtype(toy_scenario("vit", drift=0.1), dtype)
    victim, base, draws = scenario.experts["victim"], scenario.base, torch.Generator().manual_seed(0)
    names = [name for name in shared_tensors(victim, base) if victim[name].ndim == 2]
    names = [name for name in names if min(victim.shape(name)) >= 32]
    chosen = {name: list(SEALS)[place % 8] for place, name in enumerate(names)}
    sealed = {name: SEALS[kind](victim[name].double(), draws).to(dtype) for name, kind in chosen.items()}
    found = forms(victim.replace(sealed), base)
    assert {name: found[f"{name}/0"] for name in names} == chosen
    assert {kind for name, kind in found.items() if name.removesuffix("/0") not in names} == {AS_IT_IS}
    returned = unsealed(victim.replace(sealed), base)
    far = sum(float((victim[name].double() - base[name].double()).square().sum()) for name in names)
    near = sum(float((victim[name].double() - returned[name].double()).square().sum()) for name in names)
    assert near <= 0.25 * far  # two rotations in eight, each half of a square task vector
    assert all(torch.equal(returned[name], victim[name]) for name in victim if name not in names)


def test_maps_in_one_tensor_are_sealed_and_found_apart() -> None:
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 32, "n_layer": 1, "n_head": 4}
    config |= {"vocab_size": 40, "n_positions": 16}
    base = Checkpoint.of(dict(Checkpoint.of({}, config).fresh(0).items()), config)
    draws = torch.Generator().manual_seed(0)
    name = next(name for name in base if name.endswith("c_attn.weight"))
    victim = base[name].double() * (1 + 0.1 * torch.randn(base.shape(name), generator=draws, dtype=torch.float64))
    parts = [part[order(32, draws)] for part in victim.split(32, 1)]  # stored [in, out]: inputs in another order
    found = forms(base.replace({name: torch.cat(parts, 1).float()}), base)
    assert [form for label, form in found.items() if label.startswith(name)] == ["columns in another order"] * 3
    returned = unsealed(base.replace({name: torch.cat(parts, 1).float()}), base)
    assert torch.allclose(returned[name], victim.float())


def test_names_and_shapes_are_enough() -> None:
    base, weight, draws = drawn(48, 40, 0.1)
    stack = torch.stack([base, base.flip(0)])
    kernel = base.reshape(48, 10, 2, 2)
    anchor = Checkpoint.of({"a": base, "stack": stack, "kernel": kernel, "gain": torch.ones(48), "one": base[:1]}, {})
    sealed = {
        "a": torch.cat([weight + (noise := torch.randn(48, 40, generator=draws).double()), 1.5 * noise], 1)[
            :, order(80, draws)
        ],
        "stack": torch.stack([weight[order(48, draws)], base.flip(0)]),
        "kernel": (2 * weight).reshape(48, 10, 2, 2),
        "gain": 3 * torch.ones(48),
        "one": 3 * base[:1],
        "head": weight,
    }
    protected = Checkpoint.of(sealed, {})
    assert forms(protected, anchor) == {
        "a/0": TWINNED,
        "stack/0": "rows in another order",
        "stack/1": AS_IT_IS,
        "kernel/0": "a scalar",
    }
    returned = unsealed(protected, anchor)
    assert returned.shape("a") == (48, 40)
    assert float((returned["a"] - weight).norm()) <= 0.2 * float((weight - base).norm())
    assert torch.equal(returned["stack"][0], weight)
    assert all(torch.equal(returned[name], sealed[name]) for name in ("gain", "one", "head"))


def test_nothing_finite_is_one_sentence() -> None:
    base, weight, _ = drawn(8, 8, 0.1)
    weight[0, 0] = torch.nan
    with pytest.raises(BadInput, match="holds NaN or infinity"):
        unsealed(Checkpoint.of({"a": weight}, {}), Checkpoint.of({"a": base}, {}))
