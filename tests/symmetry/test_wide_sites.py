"""Sites where several maps move together: heads, query heads of a group, norm gains."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of, subgroups
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, IllegalGauge
from redteam.key import Key
from redteam.symmetry import (
    GeneralLinear,
    Monomial,
    MonomialGauge,
    Permutation,
    Scaling,
    Stacks,
    canonical,
    fit_gauges,
    random_shifts,
    restore,
    sample_gauges,
    tied_cost,
)
from redteam.symmetry.head_matching import Heads
from redteam.views import DefenderView, unlocked

KEY = Key.derive(seed=0, index=0, name="wide")
WIDE = {"heads": Permutation(), "queries": Permutation(), "norm": Scaling()}
kinds = pytest.mark.parametrize("kind", WIDE)


def size(checkpoint):
    return sum(float(t.double().square().sum()) for t in checkpoint.values()) ** 0.5


def distance(one, other):
    return sum(float((one[n].double() - other[n].double()).square().sum()) for n in other) ** 0.5


def expert(base, amount, seed=7):
    draws, tensors = np.random.default_rng(seed), {}
    for name, tensor in base.items():
        noise = torch.from_numpy(draws.standard_normal(tensor.shape))
        tensors[name] = tensor + amount * tensor.std() * noise * (0.05 if "norm" in name.lower() else 1.0)
    return base.replace(tensors)


def having(case, kind):
    if not anatomy_of(case.checkpoint).sites((kind,)):
        pytest.skip("this network has no such site")
    return case.checkpoint


def locked(checkpoint, kind):
    """Sampled until every site's permutation is one, since two heads have but two orders."""
    for index in range(50):
        found = sample_gauges(checkpoint, (kind,), WIDE[kind], Key.derive(seed=0, index=index, name="wide").generator)
        if all(
            distance(found, checkpoint) > 0 and _moved(site, found, checkpoint) for site in _sites(checkpoint, kind)
        ):
            return found
    raise AssertionError("no sample moved every site")


def _sites(checkpoint, kind):
    return anatomy_of(checkpoint).sites((kind,))


def _moved(site, one, other):
    return any(not torch.equal(one[name], other[name]) for name in site.names)


def shuffled(checkpoint, seed=3):
    """Everything that is legal at once: gauges of every head and of the neurons, their order, norms, shifts."""
    checkpoint = random_shifts(checkpoint, np.random.default_rng(seed), 3.0)
    checkpoint = sample_gauges(checkpoint, ("qk", "vo"), GeneralLinear(scale=(0.1, 10.0)), KEY.generator)
    checkpoint = sample_gauges(checkpoint, ("mlp",), Permutation(), KEY.generator)
    for kind in WIDE:
        if _sites(checkpoint, kind):
            checkpoint = locked(checkpoint, kind)
    return random_shifts(checkpoint, np.random.default_rng(seed + 1), 3.0)


def opened(checkpoint, anchor):
    for kind in ("heads", "queries"):
        if _sites(checkpoint, kind):
            checkpoint = fit_gauges(checkpoint, anchor, (kind,), Permutation())
    checkpoint = fit_gauges(checkpoint, anchor, ("qk", "vo"), GeneralLinear())
    checkpoint = fit_gauges(checkpoint, anchor, ("mlp",), Permutation())
    if _sites(checkpoint, "norm"):
        checkpoint = fit_gauges(checkpoint, anchor, ("norm",), Scaling())
    return restore(checkpoint, anchor)


@kinds
def test_a_lock_keeps_the_function_and_moves_the_weights(case, kind):
    found = locked(having(case, kind), kind)
    assert case.change(found) < 1e-10
    assert distance(found, case.checkpoint) > 0.1 * size(case.checkpoint)


@kinds
def test_sample_then_fit_gives_the_weights_back(case, kind):
    found = locked(having(case, kind), kind)
    back = fit_gauges(found, case.checkpoint, (kind,), WIDE[kind])
    assert case.change(back) < 1e-10
    assert distance(back, case.checkpoint) < 1e-8 * size(case.checkpoint)
    assert tied_cost(back, case.checkpoint, (kind,)) < 1e-16 * tied_cost(found, case.checkpoint, (kind,))


@kinds
def test_the_inverse_gauge_takes_a_lock_off(case, kind):
    checkpoint = having(case, kind)
    for site in _sites(checkpoint, kind):
        gauge = WIDE[kind].sample(site.heads, site.width, np.random.default_rng(5))
        there = checkpoint.replace(site.apply(checkpoint, gauge))
        back = there.replace(site.apply(there, gauge.inverse()))
        assert distance(back, checkpoint) < 1e-12


@pytest.mark.parametrize("amount", [0.0, 0.1])
def test_everything_at_once_comes_off_in_the_right_order(case, amount):
    base = case.checkpoint
    victim = expert(base, amount) if amount else base
    found = shuffled(victim)
    here, there = case.outputs(victim), case.outputs(found)
    assert float((here - there).abs().max() / here.abs().max()) < 1e-9
    assert distance(found, victim) > size(victim)
    back, plain = opened(found, base), opened(victim, base)
    assert float((case.outputs(back) - here).abs().max() / here.abs().max()) < 1e-9
    assert distance(back, plain) < 1e-7 * max(distance(victim, base), size(base) * 0.01)
    if not amount:
        assert distance(back, base) < 1e-8 * size(base)


def test_heads_are_found_under_a_lock_that_hides_their_rows(case):
    base, victim = case.checkpoint, expert(case.checkpoint, 0.3)
    kinds = [kind for kind in ("heads", "queries") if _sites(base, kind)]
    mixed = sample_gauges(victim, ("qk", "vo"), GeneralLinear(), KEY.generator)
    found = mixed
    for kind in kinds:
        found = locked(found, kind)
    for kind in kinds:
        found = fit_gauges(found, base, (kind,), Permutation())
    assert distance(found, mixed) < 1e-12 * size(mixed)


def test_likeness_is_that_of_the_products(grouped):
    site = _sites(grouped.checkpoint, "heads")[0]
    other = expert(grouped.checkpoint, 0.5)
    one, two = Heads.read(site, grouped.checkpoint), Heads.read(site, other)
    for found, (many, single) in zip(one.likeness(two), (("query", "key"), ("output", "value")), strict=True):
        products = [(getattr(x, many).mT @ getattr(x, single)[:, None]).flatten(2).flatten(0, 1) for x in (one, two)]
        products = [x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in products]
        assert torch.allclose(found.flatten(0, 1).flatten(1, 2), (products[0] @ products[1].T).square(), atol=1e-12)


def test_a_norm_lock_does_not_show_in_the_other_sites(case):
    checkpoint = having(case, "norm")
    found = locked(checkpoint, "norm")
    for site in anatomy_of(checkpoint).sites():
        here, there = canonical(site, checkpoint), canonical(site, found)
        assert here.distance(there) < 1e-20 * here.distance(Stacks(0 * here.left, 0 * here.right))
        assert _moved(site, found, checkpoint)


def test_norm_gains_of_either_sign_are_found_under_shifts(case):
    base = having(case, "norm")
    found = random_shifts(locked(base, "norm"), np.random.default_rng(0), 30.0)
    back = fit_gauges(found, base, ("norm",), Scaling())
    for site in _sites(base, "norm"):
        for name in site.left.names:
            assert torch.allclose(back[name], base[name], rtol=1e-8)
    assert distance(restore(back, base), base) < 1e-8 * size(base)


def test_a_norm_site_has_every_projection_that_reads_it(case):
    checkpoint = having(case, "norm")
    attention, mlp = _sites(checkpoint, "norm")[:2]
    assert (attention.label, mlp.label) == ("norm/0/attention", "norm/0/mlp")
    gauge = Scaling().sample(1, 24, np.random.default_rng(0))
    for forgotten in (
        replace(attention, right_too=attention.right_too[1:]),
        replace(attention, right_too=attention.right_too[:1]),
        replace(attention, left=replace(attention.left, linear=replace(attention.left.linear, bias=None))),
    ):
        assert case.change(checkpoint.replace(forgotten.apply(checkpoint, gauge))) > 1e-3
    assert case.change(checkpoint.replace(attention.apply(checkpoint, gauge))) < 1e-10


def test_a_heads_site_has_every_map_of_the_head(grouped):
    site = _sites(grouped.checkpoint, "heads")[0]
    gauge = MonomialGauge(torch.tensor([[1, 0]]))
    for which in (0, 1):
        forgotten = replace(site, left_too=tuple(x for i, x in enumerate(site.left_too) if i != which))
        assert grouped.change(grouped.checkpoint.replace(forgotten.apply(grouped.checkpoint, gauge))) > 1e-2


def test_query_heads_stay_in_their_group(grouped):
    heads, queries = (_sites(grouped.checkpoint, kind)[0] for kind in ("heads", "queries"))
    assert (heads.heads, heads.width) == (1, 2)
    assert (queries.heads, queries.width) == (2, 2)
    across = replace(queries, heads=1, width=4)
    inside, outside = torch.tensor([[1, 0, 3, 2]]), torch.tensor([[2, 1, 0, 3]])
    for order, keeps in ((inside, True), (outside, False)):
        change = grouped.change(grouped.checkpoint.replace(across.apply(grouped.checkpoint, MonomialGauge(order))))
        assert change < 1e-10 if keeps else change > 1e-2


@pytest.mark.parametrize("group", [Scaling(), Monomial()])
def test_heads_are_permuted_and_nothing_else(case, group):
    with pytest.raises(IllegalGauge, match=r"heads/0; legal there: permutation\."):
        sample_gauges(case.checkpoint, ("heads",), group, KEY.generator)


def test_a_permuted_norm_is_refused(vit):
    with pytest.raises(IllegalGauge, match=r"norm/0/attention; legal there: scaling\."):
        fit_gauges(vit.checkpoint, vit.checkpoint, ("norm",), Permutation())


def test_kinds_that_are_not_there_are_refused(vit, bert):
    for case, kind in ((vit, "queries"), (bert, "norm")):
        for ask in (
            lambda c=case, k=kind: sample_gauges(c.checkpoint, (k,), WIDE[k], KEY.generator),
            lambda c=case, k=kind: fit_gauges(c.checkpoint, c.checkpoint, (k,), WIDE[k]),
        ):
            with pytest.raises(IllegalGauge, match=f"no sites of the kind '{kind}'"):
                ask()


@kinds
def test_a_view_locks_and_its_key_unlocks(case, kind):
    def defend(view):
        return view.lock((kind,), WIDE[kind])

    victim = having(case, kind)
    found = defend(DefenderView(victim, victim, KEY))
    assert case.change(found) < 1e-10
    assert distance(unlocked(found, defend, victim, KEY), victim) < 1e-12 * size(victim)
    other = unlocked(found, defend, victim, KEY.child("other"))
    assert case.change(other) < 1e-10


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_stays(case, kind, dtype):
    base = having(case, kind).to(dtype)
    found = locked(base, kind)
    back = fit_gauges(found, base, (kind,), WIDE[kind])
    assert all(x[name].dtype == dtype for x in (found, back) for name in base)
    assert distance(back, base) < 5 * torch.finfo(dtype).eps * size(base)


def test_heads_of_zeros_and_twin_heads_cost_nothing(vit):
    stem, tensors = "vit.encoder.layer.0.attention.", {n: t.clone() for n, t in vit.checkpoint.items()}
    for role in ("query", "key", "value"):
        for part in ("weight", "bias"):
            tensors[stem + f"attention.{role}.{part}"][:8] = 0
            other = tensors[stem.replace("0", "1") + f"attention.{role}.{part}"]
            other[:8] = other[8:16]
    tensors[stem + "output.dense.weight"][:, :8] = 0
    other = tensors[stem.replace("0", "1") + "output.dense.weight"]
    other[:, :8] = other[:, 8:16]
    base = Checkpoint.of(tensors, vit.checkpoint.config)
    back = fit_gauges(locked(base, "heads"), base, ("heads",), Permutation())
    assert distance(back, base) < 1e-12


def test_a_vanishing_gain_harms_nothing(vit):
    name = "vit.encoder.layer.0.layernorm_before.weight"
    gain = vit.checkpoint[name].clone()
    gain[3] = 0.0
    base = vit.checkpoint.replace({name: gain})
    back = fit_gauges(locked(base, "norm"), base, ("norm",), Scaling())
    assert distance(back, base) < 1e-8 * size(base)


@kinds
def test_nan_is_named(grouped, kind):
    site = _sites(grouped.checkpoint, kind)[0]
    for name in site.names:
        spoiled = grouped.checkpoint.replace({name: torch.full(grouped.checkpoint.shape(name), float("nan"))})
        for pair in ((spoiled, grouped.checkpoint), (grouped.checkpoint, spoiled)):
            with pytest.raises(BadInput, match=name):
                fit_gauges(*pair, (kind,), WIDE[kind])[site.names[0]]


# What the architecture does not allow, done nevertheless.


@pytest.mark.parametrize("which", ["vit", "bert"])
def test_signs_and_scales_of_neurons_change_a_gelu(which, request):
    case = request.getfixturevalue(which)
    for group in (Scaling(), Monomial(scale=(1.0, 1.0))):
        with pytest.raises(IllegalGauge, match="mlp/0"):
            sample_gauges(case.checkpoint, ("mlp",), group, KEY.generator)
        forced = case.checkpoint
        for site in _sites(forced, "mlp"):
            site = replace(site, legal=subgroups("general-linear"))
            forced = forced.replace(site.apply(forced, group.sample(1, 20, np.random.default_rng(0))))
        assert case.change(forced) > 1e-2


def test_a_norm_gain_changes_a_post_norm_network(bert, vit):
    site = _sites(vit.checkpoint, "norm")[0]
    names = {
        "vit.encoder.layer.0.layernorm_before": "bert.encoder.layer.0.output.LayerNorm",
        "vit.encoder.layer.0.attention.attention.": "bert.encoder.layer.1.attention.self.",
    }

    def renamed(side):
        weight, bias = side.linear.weight, side.linear.bias
        for old, new in names.items():
            weight, bias = weight.replace(old, new), bias.replace(old, new)
        return replace(side, linear=replace(side.linear, weight=weight, bias=bias))

    forced = replace(
        site, left=renamed(site.left), right=renamed(site.right), right_too=tuple(map(renamed, site.right_too))
    )
    gauge = Scaling(scale=(0.5, 2.0)).sample(1, 24, np.random.default_rng(0))
    assert bert.change(bert.checkpoint.replace(forced.apply(bert.checkpoint, gauge))) > 1e-2
