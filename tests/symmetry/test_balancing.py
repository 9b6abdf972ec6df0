"""Balance: the form that no key has a part in, and what is left between two copies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from redteam_attacks.balance import balance, balance_companions
from redteam_attacks.gauge_fit import gauge_fit
from redteam_attacks.procrustes import procrustes
from torch import Tensor

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, Inapplicable
from redteam.key import Key
from redteam.plugins.contracts import spec_of
from redteam.symmetry import (
    GeneralLinear,
    Orthogonal,
    ShiftLock,
    Stacks,
    largest_legal_group,
    sample_gauges,
    sampled_locks,
    tied_cost,
)
from redteam.symmetry.balancing import PAIRS, balanced, balanced_like, compact, even, factored
from redteam.symmetry.canonicals import canonical
from redteam.symmetry.solvers import general_linear
from redteam.threat import threat_model
from redteam.views import AttackerView
from tests.zoo import Network, network

KEYS = Key(bytes(range(32))), Key(bytes(range(1, 33)))
HEADS = ("qk", "vo")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def expert(base: Checkpoint, size: float = 0.05, seed: int = 7) -> Checkpoint:
    draws = torch.Generator().manual_seed(seed)

    def moved(name: str, tensor: Tensor) -> Tensor:
        small = 0.05 if "norm" in name else 1.0
        return tensor + size * small * tensor.std() * torch.randn(tensor.shape, dtype=tensor.dtype, generator=draws)

    return base.replace({name: moved(name, tensor) for name, tensor in base.items()})


def locked(checkpoint: Checkpoint, key: Key, shift: float = 1.0) -> Checkpoint:
    """Under the largest legal part of a wide general linear lock at every pair of maps, and under shifts."""
    kinds = [kind for kind in PAIRS if anatomy_of(checkpoint).sites((kind,))]
    for lock in sampled_locks(checkpoint, kinds, GeneralLinear((0.1, 10.0)), key.generator, adapts=True):
        checkpoint = lock.put_on(checkpoint)
    return ShiftLock(shift, key.generator).put_on(checkpoint)


def apart(one: Checkpoint, other: Checkpoint) -> float:
    """How far two balanced copies lie apart, over all pairs, once each site's compact part is fitted."""
    far = 0.0
    for kind in PAIRS:
        for site in anatomy_of(one).sites((kind,)):
            here, there = canonical(site, one), canonical(site, other)
            turned = here.moved(compact(largest_legal_group(site), here, there))
            size = float(there.left.square().sum() + there.right.square().sum())
            far = max(far, (turned.distance(there) / size) ** 0.5)
    return far


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 6), extra=st.integers(0, 5), spread=st.floats(0, 3), seed=st.integers(0, 1000))
def test_the_root_is_the_one_positive_matrix_that_makes_both_grams_equal(
    n: int, extra: int, spread: float, seed: int
) -> None:
    stretch = torch.logspace(-spread, spread, n, dtype=torch.float64)[:, None]
    left, right = stretch * drawn(3, n, n + extra, seed=seed), drawn(3, n, n + extra, seed=seed + 1) / stretch
    a, b = left @ left.mT, right @ right.mT
    if max(float(torch.linalg.cond(x).max()) for x in (a, b)) > 1e12:
        return  # the formula below, not the root, would have no digits left
    root = even(left, right)
    back = torch.linalg.inv(root)
    assert torch.equal(root, root.mT) or float((root - root.mT).abs().max() / root.abs().max()) <= 1e-13
    assert bool((torch.linalg.eigvalsh(root) > 0).all())
    here, there = root @ a @ root, back @ b @ back
    assert float((here - there).abs().max() / here.abs().max()) <= 1e-6

    def power(x: Tensor, exponent: float) -> Tensor:
        values, vectors = torch.linalg.eigh(x)
        return vectors @ (values.clamp(min=0)[:, :, None] ** exponent * vectors.mT)

    half, unhalf = power(a, 0.5), power(a, -0.5)
    square = unhalf @ power(half @ b @ half, 0.5) @ unhalf
    assert float((root @ root - square).abs().max() / square.abs().max()) <= 1e-4


@pytest.mark.parametrize("name", ["vit", "bert", "llama", "phi", "t5", "mixtral"])
def test_two_releases_under_two_keys_agree_up_to_the_compact_part(name: str) -> None:
    case = network(name)
    victim = expert(case.checkpoint)
    one, other = (balanced(locked(victim, key)) for key in KEYS)
    assert apart(one, other) <= 1e-10
    assert apart(one, balanced(locked(case.checkpoint, KEYS[0]))) >= 1e-3, "another model does not agree"
    assert Network(name, victim).change(one) <= 1e-9


def test_the_key_leaves_a_rotation_of_general_linear_heads_and_nothing_of_their_grams() -> None:
    victim = network("vit").checkpoint
    one, other = (balanced(sample_gauges(victim, HEADS, GeneralLinear(), key.generator), HEADS) for key in KEYS)
    for site in anatomy_of(victim).sites(HEADS):
        here, there = (site.stacks(x) for x in (one, other))
        turn = Orthogonal().fit(here, there).matrix
        eye = torch.eye(site.width, dtype=torch.float64)
        assert float((turn - eye).abs().max()) > 0.1
        assert float((here.left @ here.left.mT - here.right @ here.right.mT).abs().max()) <= 1e-9
        assert here.moved(Orthogonal().fit(here, there)).distance(there) <= 1e-20 * there.left.square().sum()


@pytest.mark.parametrize("rows", [[5], [0, 1, 2, 3], list(range(8))])
@pytest.mark.parametrize("part", ["query", "key"])
def test_heads_that_lack_rank_are_factored_anew_and_agree_too(rows: list[int], part: str) -> None:
    case = network("vit")
    stem = f"vit.encoder.layer.0.attention.attention.{part}"
    names = [f"{stem}.weight", f"{stem}.bias"]
    dead = case.checkpoint.replace(
        {name: case.checkpoint[name].index_fill(0, torch.tensor(rows), 0.0) for name in names}
    )
    one, other = (balanced(locked(dead, key)) for key in KEYS)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in one.values())
    assert Network("vit", dead).change(one) <= 1e-9
    assert apart(one, other) <= 1e-7
    back = balanced_like(locked(dead, KEYS[0]), case.checkpoint)
    assert Network("vit", dead).change(back) <= 1e-9


def test_factors_have_the_product_its_order_and_zeros_beyond_its_rank() -> None:
    left, right = drawn(2, 5, 3), drawn(2, 5, 9, seed=1)
    one, other, sizes = factored(left, right)
    product = left.mT @ right
    assert float((one.mT @ other - product).norm() / product.norm()) <= 1e-13
    assert float((one @ one.mT - torch.diag_embed(sizes)).abs().max()) <= 1e-12
    assert float((other @ other.mT - torch.diag_embed(sizes)).abs().max()) <= 1e-12
    assert (sizes[:, :2] >= sizes[:, 1:3]).all()
    assert not sizes[:, 3:].any()


def test_between_balanced_models_it_is_the_tied_fit_to_first_order() -> None:
    left, right = drawn(3, 6, 20), drawn(3, 6, 15, seed=1)
    root = even(left, right)
    base = Stacks(root @ left, torch.linalg.solve(root, right))
    excess = []
    for size in (0.1, 0.01):
        victim = Stacks(base.left + size * drawn(3, 6, 20, seed=2), base.right + size * drawn(3, 6, 15, seed=3))
        gauge = GeneralLinear().sample(3, 6, KEYS[0].generator("lock"))
        moving = victim.moved(gauge)
        mine = even(moving.left, moving.right)
        eased = Stacks(mine @ moving.left, torch.linalg.solve(mine, moving.right))
        found = eased.moved(Orthogonal().fit(eased, base)).distance(base)
        best = float(general_linear(moving.left, moving.right, base.left, base.right).cost.sum())
        assert found < victim.distance(base)
        excess.append(found / best - 1)
    assert -1e-9 <= excess[1] < 0.02 * excess[0] + 1e-9, "quadratic in the task vector"


def _run(attack, protected: Checkpoint, anchor: Checkpoint, **options) -> Checkpoint:  # type: ignore[no-untyped-def]
    found: Checkpoint = attack(AttackerView.by_hand(protected, anchor=anchor), **options)
    return found


@pytest.mark.parametrize("name", ["vit", "llama", "t5"])
def test_no_key_tells_in_what_comes_back_and_it_lies_near_the_tied_fit(name: str) -> None:
    base = network(name).checkpoint
    victim = expert(base)
    found = [_run(balance, locked(victim, key), base) for key in KEYS]
    far = sum(float((found[0][n] - found[1][n]).square().sum()) for n in base) ** 0.5
    assert far <= 1e-8 * sum(float((victim[n] - base[n]).square().sum()) for n in base) ** 0.5
    assert Network(name, victim).change(found[0]) <= 1e-9
    kinds = [kind for kind in PAIRS if anatomy_of(base).sites((kind,))]
    tied, here, unlocked = (tied_cost(x, base, kinds) for x in (_run(gauge_fit, victim, base), found[0], victim))
    assert tied <= here <= unlocked


def test_a_rotation_method_after_it_reaches_what_it_cannot_reach_alone() -> None:
    base = network("vit").checkpoint
    victim = expert(base)
    lock = sample_gauges(victim, HEADS, GeneralLinear((0.1, 10.0)), KEYS[0].generator)
    alone, first = _run(procrustes, lock, base), _run(balance, lock, base)
    costs = [tied_cost(x, base, HEADS) for x in (_run(procrustes, first, base), first, victim, alone)]
    assert costs[0] <= costs[1] <= costs[2] < 0.01 * costs[3]


def test_principal_axes_take_a_lock_off_the_same_model_and_depend_on_no_key() -> None:
    base = network("vit").checkpoint
    victim = expert(base)
    for one, close in ((base, 1e-9), (victim, 1e-6)):
        found = [_run(balance, locked(one, key), base, turn="axes", sites=HEADS) for key in KEYS]
        sites = anatomy_of(base).sites(HEADS)
        gap = sum(canonical(site, found[0]).distance(canonical(site, found[1])) for site in sites)
        assert gap <= close**2 * sum(canonical(site, base).left.square().sum() for site in sites)
    back = _run(balance, locked(base, KEYS[0]), base, turn="axes", sites=HEADS)
    assert tied_cost(back, base, HEADS) <= 1e-12 * tied_cost(locked(base, KEYS[0]), base, HEADS)


def test_companions_stand_in_for_the_base_and_their_mean_is_nearer_than_one() -> None:
    base = network("vit").checkpoint
    lock = locked(expert(base), KEYS[0])
    companions = {str(seed): expert(base, seed=seed) for seed in (1, 2, 3, 4)}

    def view(some: dict[str, Checkpoint]) -> AttackerView:
        needs = spec_of(balance_companions).needs
        return AttackerView(lock, threat_model("no-base"), KEYS[0], needs=needs, _companions=some)

    mean, one = (balance_companions(view(x)) for x in (companions, {"1": companions["1"]}))
    assert tied_cost(mean, base, HEADS) < tied_cost(one, base, HEADS) < 0.01 * tied_cost(lock, base, HEADS)
    with pytest.raises(Inapplicable, match="no companion"):
        balance_companions(view({}))


def test_what_it_cannot_work_with_is_one_sentence() -> None:
    base = network("vit").checkpoint
    name = "vit.encoder.layer.0.attention.attention.value.weight"
    with pytest.raises(BadInput, match="NaN or infinity"):
        dict(balanced(base.replace({name: base[name] * torch.nan})))
    with pytest.raises(Inapplicable, match="another shape"):
        _run(balance, base, base.replace({name: base[name][:-1]}))
