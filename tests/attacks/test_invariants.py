"""The nearest factors of a product: exact, the same whatever lay on them, as near as a fitted gauge, at any rank."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from redteam_attacks.invariants import Factors, nearest_factors, to_anchor
from torch import Tensor

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, Inapplicable
from redteam.key import Key
from redteam.symmetry import GROUPS, GeneralLinear, fit_gauges, random_shifts, sample_gauges, tied_cost
from redteam.symmetry.solvers import general_linear
from redteam.testing import toy_scenario
from redteam.testing.toys import in_dtype
from tests.zoo import network

KEY = Key.derive(seed=0, index=0, name="invariants")
Pair = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def drawn(shape: tuple[int, int, int, int], far: float) -> tuple[Pair, Pair]:
    """An anchor, and a victim `far` away from it."""
    draws = torch.Generator().manual_seed(0)
    b, n, a, c = shape
    stacks = [torch.randn(b, n, k, generator=draws, dtype=torch.float64) for k in (a, c, a, c)]
    anchor = stacks[0], stacks[1]
    return anchor, (anchor[0] + far * stacks[2], anchor[1] + far * stacks[3])


def locked(pair: Pair, spread: float = 1.0) -> Pair:
    draws = torch.Generator().manual_seed(1)
    b, n, _ = pair[0].shape
    gauge = torch.randn(b, n, n, generator=draws, dtype=torch.float64)
    gauge = gauge * torch.logspace(-spread, spread, n, dtype=torch.float64)
    return gauge @ pair[0], torch.linalg.inv(gauge).mT @ pair[1]


def away(found: Factors | Pair, anchor: Pair) -> float:
    left, right = (found.left, found.right) if isinstance(found, Factors) else found
    return float((left - anchor[0]).square().sum() + (right - anchor[1]).square().sum())


SHAPES = [(2, 8, 33, 33), (3, 8, 97, 33), (1, 4, 4, 6), (2, 1, 9, 9), (1, 8, 5, 5)]


@pytest.mark.parametrize("far", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_met_and_no_gauge_comes_nearer(shape: tuple[int, int, int, int], far: float) -> None:
    anchor, victim = drawn(shape, far)
    near = nearest_factors(*locked(victim), *anchor)
    product = victim[0].mT @ victim[1]
    assert float((near.left.mT @ near.right - product).norm() / product.norm()) <= 1e-9
    assert float(near.missed.max()) <= 1e-9
    assert away(near, anchor) <= away(victim, anchor)
    if shape[1] < min(shape[2:]):
        fitted = float(general_linear(*locked(victim), *anchor).cost.sum())
        assert away(near, anchor) == pytest.approx(fitted, rel=1e-3)


def test_what_lies_on_the_factors_says_nothing() -> None:
    anchor, victim = drawn((2, 8, 33, 33), 0.1)
    plain, gentle, harsh = (nearest_factors(*pair, *anchor) for pair in (victim, locked(victim), locked(victim, 4.0)))
    for found, close in ((gentle, 1e-10), (harsh, 1e-6)):
        assert float((found.left - plain.left).norm() / plain.left.norm()) <= close


@pytest.mark.parametrize("where", ["victim", "anchor", "both"])
def test_heads_that_lack_rank(where: str) -> None:
    anchor, victim = drawn((2, 8, 33, 33), 0.1)
    if where != "anchor":
        victim[0][:, 7] = 0
    if where != "victim":
        anchor[0][:, 7] = 0
    near = nearest_factors(*locked(victim), *anchor)
    product = victim[0].mT @ victim[1]
    assert float((near.left.mT @ near.right - product).norm() / product.norm()) <= 1e-8
    assert away(near, anchor) <= away(victim, anchor) * (1 + 1e-9)


def test_zeros_and_what_is_not_finite() -> None:
    nothing = torch.zeros(1, 4, 9, dtype=torch.float64)
    found = nearest_factors(nothing, nothing, nothing, nothing)
    assert not found.left.any()
    assert not found.right.any()
    with pytest.raises(BadInput, match="NaN or infinity"):
        nearest_factors(nothing * torch.nan, nothing, nothing, nothing)


@pytest.mark.parametrize("architecture", ["vit", "bert"])
class TestCheckpoints:
    @pytest.mark.parametrize("group", ["orthogonal", "scaling", "general-linear", "signed-permutation"])
    def test_every_group_comes_off_as_if_there_had_been_none(self, architecture: str, group: str) -> None:
        scenario = in_dtype(toy_scenario(architecture), torch.float64)
        victim, base = scenario.experts["victim"], scenario.base
        lock = sample_gauges(victim, ("qk", "vo"), GROUPS[group](), KEY.generator)
        plain, found = (to_anchor(one, base, ("qk", "vo")) for one in (victim, lock))
        assert max(float((found[n] - plain[n]).norm() / plain[n].norm().clamp_min(1e-9)) for n in plain) <= 1e-7
        assert change(found, victim, scenario.tasks["victim"].inputs_of("test")) <= 1e-9

    def test_it_is_as_near_as_the_tied_fit_and_sees_through_shifts(self, architecture: str) -> None:
        scenario = in_dtype(toy_scenario(architecture), torch.float64)
        victim, base = scenario.experts["victim"], scenario.base
        lock = sample_gauges(victim, ("qk", "vo"), GeneralLinear(), KEY.generator)
        lock = random_shifts(lock, KEY.generator("shift"), 1.0, ("qk", "vo"))
        near, fitted = to_anchor(lock, base, ("qk", "vo")), fit_gauges(lock, base, ("qk", "vo"), None)
        costs = [tied_cost(one, base, ("qk", "vo")) for one in (near, fitted)]
        assert costs[0] == pytest.approx(costs[1], rel=0.05), "one weighs inputs by the norm's gain, the other does not"
        assert change(near, victim, scenario.tasks["victim"].inputs_of("test")) <= 1e-9

    def test_a_tensor_that_is_not_finite_is_one_sentence(self, architecture: str) -> None:
        scenario = toy_scenario(architecture)
        name = next(n for n in scenario.base if n.endswith("query.weight"))
        broken = scenario.experts["victim"].replace({name: scenario.base[name] * torch.nan})
        with pytest.raises(BadInput, match="NaN or infinity"):
            to_anchor(broken, scenario.base, ("qk",))[name]


def change(found: Checkpoint, victim: Checkpoint, inputs: dict[str, Tensor]) -> float:
    given = {n: x.double() if x.is_floating_point() else x for n, x in inputs.items()}
    with torch.inference_mode():
        ours, theirs = (x.module()(**given).logits for x in (found, victim))
    return float((ours - theirs).norm() / theirs.norm())


def test_rotary_queries_and_keys_have_no_invariant_product_and_their_grouped_values_have() -> None:
    llama = network("llama").checkpoint
    anchor = Checkpoint.of({n: t + 0.01 * t.std() * torch.sign(t) for n, t in llama.items()}, llama.config)
    with pytest.raises(Inapplicable, match="rotary embedding"):
        to_anchor(llama, anchor, ("qk", "vo"))
    sites = anatomy_of(llama).sites(("vo",))
    assert sites[0].right.share > 1, "several query heads to a value head"
    lock = sample_gauges(llama, ("vo",), GeneralLinear(), KEY.generator)
    plain, found = (to_anchor(one, anchor, ("vo",)) for one in (llama, lock))
    assert tied_cost(found, anchor, ("vo",)) == pytest.approx(tied_cost(plain, anchor, ("vo",)), rel=1e-6)
    for site in sites:
        one, other = (site.stacks(x) for x in (found, llama))
        product = other.left.mT @ other.right
        assert float((one.left.mT @ one.right - product).norm() / product.norm()) <= 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_where_steps_do_not_end_the_alternation_still_meets_the_product(shape: tuple[int, int, int, int]) -> None:
    anchor, victim = drawn(shape, 0.3)
    near = nearest_factors(*locked(victim), *anchor, limit=1)
    product = victim[0].mT @ victim[1]
    assert float((near.left.mT @ near.right - product).norm() / product.norm()) <= 1e-9
    assert away(near, anchor) <= 2 * away(victim, anchor)
