"""PaRaMS against its formulas written out, the function it keeps, and what its key's holder gets back."""

import numpy as np
import pytest
import torch
from redteam_defenses.composed import Composed, UniformScaling
from redteam_defenses.params import params
from scipy.optimize import linear_sum_assignment

from redteam.anatomy import anatomy_of
from redteam.errors import BadSetting, IllegalGauge
from redteam.key import Key
from redteam.testing import toy_scenario
from redteam.views import DefenderView, unlocked
from tests.zoo import network

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
ZOO = ("bert", "gpt2", "vit", "clip", "llama", "qwen2", "phi3", "t5", "flan-t5", "gpt-neox")
FORMS = ("diagonal", "symmetric", "nonsymmetric")
LAYER = "vit.encoder.layer.{}.attention"


def expert(base, size=0.05):
    draws = np.random.default_rng(7)
    return base.replace(
        {n: t + size * t.std() * torch.from_numpy(draws.standard_normal(tuple(t.shape))) for n, t in base.items()}
    )


def protected(victim, base, key=KEY, **settings):
    view = DefenderView(victim, base, key)
    return params(view, **settings), view


def heads(weight, count):
    return weight.reshape(count, -1, weight.shape[-1])


@pytest.mark.parametrize("form", FORMS)
def test_attention_is_the_formula_with_one_matrix_for_both_pairs(vit, form):
    base = vit.checkpoint
    victim = expert(base)
    locked, view = protected(victim, base, form=form, sites=("qk", "vo"))
    site = anatomy_of(base).sites(("qk",))[0]
    count, n = site.heads, site.width
    (lock, *_) = view.locks
    eye = torch.eye(n, dtype=torch.float64).expand(count, n, n)
    A = lock.gauge(site).left(eye)
    inside = LAYER.format(site.layer)
    q, k, v = (f"{inside}.attention.{name}" for name in ("query", "key", "value"))
    back = torch.linalg.inv(A)
    for name, factor in ((q, A), (k, back.mT), (v, A)):
        torch.testing.assert_close(
            heads(locked[f"{name}.weight"], count), factor @ heads(victim[f"{name}.weight"], count)
        )
        bias = factor @ victim[f"{name}.bias"].reshape(count, n, 1)
        torch.testing.assert_close(locked[f"{name}.bias"].reshape(count, n, 1), bias)
    out = f"{inside}.output.dense.weight"
    wanted = torch.cat([part @ back[h] for h, part in enumerate(victim[out].split(n, dim=1))], dim=1)
    torch.testing.assert_close(locked[out], wanted)
    torch.testing.assert_close(locked[f"{inside}.output.dense.bias"], victim[f"{inside}.output.dense.bias"])


def test_forms_are_drawn_as_the_release_draws_them():
    draws = np.random.default_rng(0)
    alpha = UniformScaling(scale=(0.05, 20.0)).sample(500, 8, draws).scale
    assert float(alpha.min()) >= 0.05
    assert float(alpha.max()) <= 20
    assert float(alpha.mean()) == pytest.approx(10.025, rel=0.03)
    symmetric = Composed(scale=(0.05, 20.0), form="symmetric").sample(300, 6, draws).matrix
    torch.testing.assert_close(symmetric, symmetric.mT)
    values = torch.linalg.eigvalsh(symmetric).log()
    assert float(values.mean()) == pytest.approx(0.0, abs=0.1)
    assert float(values.exp().min()) >= 0.05 - 1e-9
    assert float(values.exp().max()) <= 20 + 1e-9
    again = np.random.default_rng(3)
    found = Composed(scale=(0.1, 15.0)).sample(2, 5, np.random.default_rng(3)).matrix.numpy()
    normal = again.standard_normal((2, 5, 5)) + 1e-3 * np.eye(5)
    wanted = normal * np.exp(again.uniform(np.log(0.1), np.log(15.0), (2, 1, 5)))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_neurons_go_as_far_from_the_base_as_they_can(vit):
    base = vit.checkpoint
    victim = expert(base)
    locked, _ = protected(victim, base, sites=("mlp",))
    up, down = "vit.encoder.layer.0.intermediate.dense", "vit.encoder.layer.0.output.dense.weight"

    def joined(checkpoint):
        bias = checkpoint[f"{up}.bias"][:, None]
        return torch.cat([checkpoint[f"{up}.weight"], bias, checkpoint[down].T], dim=1).numpy()

    alike = joined(base) @ joined(victim).T
    rows, columns = linear_sum_assignment(alike)  # which minimises
    np.testing.assert_allclose(joined(locked), joined(victim)[columns])
    assert float((joined(locked) * joined(base)).sum()) == pytest.approx(float(alike[rows, columns].sum()))
    draws = np.random.default_rng(1)
    for _ in range(20):
        order = draws.permutation(len(alike))
        assert float((joined(victim)[order] * joined(base)).sum()) > float(alike[rows, columns].sum())


@pytest.mark.parametrize("form", FORMS)
def test_the_function_stays_where_the_form_is_legal(case, form):
    base = case.checkpoint
    rotary = any(site.planes for site in anatomy_of(base).sites(("qk",)))
    victim = expert(base)
    if form == "diagonal" and rotary:
        with pytest.raises(IllegalGauge, match="positive-scaling"):
            protected(victim, base, form=form)
        return
    locked, _ = protected(base, base, form=form)
    assert case.change(locked) <= 1e-9


def test_the_keys_holder_takes_it_off_and_nobody_else(case):
    base = case.checkpoint
    victim = expert(base)
    locked, view = protected(victim, base)
    assert distance(unlocked(locked, params, base, KEY), victim) <= 1e-9
    assert distance(unlocked(locked, params, base, OTHER), victim) > 0.3
    assert {type(lock).__name__ for lock in view.locks} >= {"Lock", "FarPermutation"}


def test_a_published_seed_gives_two_models_one_gauge_and_anybody_the_way_back(vit):
    base = vit.checkpoint
    victim = expert(base)
    one, other = (protected(victim, base, key, seed=0)[0] for key in (KEY, OTHER))
    assert distance(one, other) == 0

    def guess(key):
        return unlocked(one, lambda view: params(view, seed=0), base, key, guessed=True)

    assert distance(guess(Key.of_seed(0)), victim) <= 1e-9
    assert distance(guess(Key.of_seed(1)), victim) > 0.3


def test_pruning_drops_a_share_of_the_mlps_task_vector_and_rescales_the_rest(vit):
    base = vit.checkpoint
    victim = expert(base)
    _, view = protected(victim, base, prune=0.25, sites=("mlp",))
    pruned = view.locks[0].take_off(params(DefenderView(victim, base, KEY), prune=0.25, sites=("mlp",)))
    name = "vit.encoder.layer.0.intermediate.dense.weight"
    ratio = (pruned[name] - base[name]) / (victim[name] - base[name])
    dropped = ratio.abs() < 1e-9
    assert float(dropped.double().mean()) == pytest.approx(0.25, abs=0.06)
    torch.testing.assert_close(ratio[~dropped], torch.full_like(ratio[~dropped], 4 / 3))
    attention = LAYER.format(0) + ".attention.query.weight"
    assert torch.equal(pruned[attention], victim[attention])


@pytest.mark.parametrize("name", ZOO)
def test_the_function_stays_in_the_zoo(name):
    """Gates, grouped heads and fused projections included; rotary queries and keys take what is legal there."""
    case = network(name)
    locked, view = protected(case.checkpoint, case.checkpoint)
    assert case.change(locked) <= 1e-9
    turned = {site.planes is not None for site in anatomy_of(case.checkpoint).sites(("qk",))}
    assert bool(view.adaptations()) == (True in turned)
    moved = {n for n in case.checkpoint if not torch.equal(locked[n], case.checkpoint[n])}
    (site, *_) = anatomy_of(case.checkpoint).sites(("mlp",))
    assert moved >= {site.left.linear.weight, site.right.linear.weight}


def test_pruning_changes_the_function(vit):
    victim = expert(vit.checkpoint, size=0.5)
    plain, pruned = (protected(victim, vit.checkpoint, prune=prune)[0] for prune in (0.0, 0.5))
    there = vit.outputs(victim)
    away = [float((vit.outputs(locked) - there).abs().max() / there.abs().max()) for locked in (plain, pruned)]
    assert away[0] <= 1e-9
    assert away[1] > 1e-3


def test_other_sites_are_refused():
    scenario = toy_scenario("vit")
    with pytest.raises(BadSetting, match="norm"):
        protected(scenario.experts["victim"], scenario.base, sites=("norm",))


def distance(one, two):
    """The largest relative change of a tensor."""
    return max(float((one[n].double() - two[n].double()).norm() / two[n].double().norm()) for n in two)
