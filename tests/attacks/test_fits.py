"""Attacks that fit: what they claim to undo comes off, what they cannot undo stays on, closed forms against learned."""

import dataclasses

import numpy as np
import pytest
import torch
from redteam_attacks.anchor_alignment import anchor_alignment
from redteam_attacks.average_releases import average_releases
from redteam_attacks.balance import balance
from redteam_attacks.companion_anchor import companion_anchor
from redteam_attacks.companions import mean_of
from redteam_attacks.gauge_fit import gauge_fit
from redteam_attacks.head_matching import head_matching
from redteam_attacks.hungarian import hungarian
from redteam_attacks.invariant_space import invariant_space
from redteam_attacks.learned import LearnedLinear, LearnedRotation, fit_learned
from redteam_attacks.learned_linear import learned_linear
from redteam_attacks.learned_rotation import learned_rotation
from redteam_attacks.optimal_transport import optimal_transport
from redteam_attacks.procrustes import procrustes
from redteam_attacks.residual_alignment import residual_alignment
from redteam_attacks.transport import Transport
from redteam_attacks.untied import align_untied

from redteam.anatomy import anatomy_of
from redteam.errors import BadInput, IllegalGauge, Inapplicable
from redteam.key import Key
from redteam.plugins.contracts import spec_of
from redteam.symmetry import (
    GeneralLinear,
    Orthogonal,
    Permutation,
    Scaling,
    ShiftLock,
    Stacks,
    fit_gauges,
    sample_gauges,
    tied_cost,
)
from redteam.testing.norms import fold_norms
from redteam.threat import threat_model
from redteam.views import AttackerView
from tests.zoo import Network, network

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
ATTENTION = ("qk", "vo")
ATTACKS = [gauge_fit, hungarian, procrustes, optimal_transport, anchor_alignment, learned_rotation, learned_linear]
NARROW = [head_matching, residual_alignment, invariant_space, balance]
CLAIMS = [
    pytest.param(attack, kind, group, id=f"{spec_of(attack).name}-{kind}-{group.name}")
    for attack in [*ATTACKS, *NARROW]
    for kind, group in sorted(spec_of(attack).breaks, key=lambda claim: (claim[0], claim[1].name))
    if attack is not learned_linear or group is GeneralLinear  # the others it contains, and each takes a second
]


def run(attack, protected, anchor, **settings):
    return attack(AttackerView.by_hand(protected, anchor=anchor), **settings)


def expert(base, size=0.05, seed=7):
    """A fine-tune: every tensor moved by `size` times its own deviation, norms by a twentieth of that."""
    draws = np.random.default_rng(seed)
    return base.replace(
        {
            n: t + size * (0.05 if "orm" in n else 1.0) * t.std() * torch.from_numpy(draws.standard_normal(t.shape))
            for n, t in base.items()
        }
    )


def norm(one, other=None):
    return sum(float((one[n] - (0 if other is None else other[n])).square().sum()) for n in one) ** 0.5


def where_it_is_legal(kind, group):
    """A network that allows a group at a kind of site, the smallest first."""
    for name in ("vit", "llama", "t5", "qwen3", "mixtral", "folded"):
        found = network("llama" if name == "folded" else name)
        if name == "folded":
            found = Network("llama", fold_norms(found.checkpoint))
        sites = anatomy_of(found.checkpoint).sites((kind,))
        if sites and all(group.name in site.legal for site in sites):
            return found
    raise AssertionError(f"no network allows {group.name} at {kind}")


@pytest.mark.parametrize(("attack", "kind", "group"), CLAIMS)
def test_what_is_claimed_comes_off(attack, kind, group):
    case = where_it_is_legal(kind, group)
    base = case.checkpoint
    victim = expert(base)
    locked, twin = sample_gauges(victim, (kind,), group(), KEY.generator), victim
    back, plain = (run(attack, x, base) for x in (locked, twin))
    kinds = (kind,)
    assert tied_cost(locked, base, kinds) > 2 * tied_cost(plain, base, kinds)
    assert tied_cost(back, base, kinds) <= 1.005 * tied_cost(plain, base, kinds)
    if spec_of(attack).keeps_function:
        assert Network(case.name, victim).change(back) <= 1e-8


@pytest.mark.parametrize(
    ("attack", "group", "left"),
    [
        (hungarian, Orthogonal(), 0.2),
        (optimal_transport, Orthogonal(), 0.2),
        (procrustes, Scaling(), 0.2),
        (learned_rotation, Scaling(), 0.2),
        (learned_rotation, GeneralLinear(), 0.2),
        (procrustes, GeneralLinear(), 0.2),
        (residual_alignment, Orthogonal(), 0.2),
    ],
)
def test_what_is_not_claimed_stays_on_and_the_function_with_it(vit, attack, group, left):
    locked = sample_gauges(vit.checkpoint, ATTENTION, group, KEY.generator)
    back = run(attack, locked, vit.checkpoint)
    assert vit.change(back) <= 1e-9
    assert norm(back, vit.checkpoint) > left * norm(vit.checkpoint)


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_gauge_fit_takes_everything_off_at_once(request, name):
    case = request.getfixturevalue(name)
    base = case.checkpoint
    locked = sample_gauges(base, ("heads", "mlp"), Permutation(), KEY.generator)
    locked = sample_gauges(locked, ATTENTION, GeneralLinear(), KEY.generator)
    if anatomy_of(base).sites(("norm",)):
        locked = sample_gauges(locked, ("norm",), Scaling((0.5, 2.0)), KEY.generator)
    locked = ShiftLock(10.0, KEY.generator).put_on(locked)
    assert case.change(locked) <= 1e-9
    back = run(gauge_fit, locked, base)
    assert case.change(back) <= 1e-7
    assert norm(back, base) <= 1e-6 * norm(base)


def test_gauge_fit_on_grouped_heads(grouped):
    base = grouped.checkpoint
    locked = sample_gauges(base, ("heads", "queries", "mlp"), Permutation(), KEY.generator)
    locked = sample_gauges(locked, ATTENTION, GeneralLinear(), KEY.generator)
    assert norm(run(gauge_fit, locked, base), base) <= 1e-7 * norm(base)


def test_heads_are_matched_under_and_over_what_lies_inside_of_them(grouped):
    base = grouped.checkpoint
    victim = expert(base)
    plain = run(head_matching, victim, base)
    for first, second in ((("heads", "queries"), ATTENTION), (ATTENTION, ("heads", "queries"))):
        locked = victim
        for kinds in (first, second):
            group = Permutation() if "heads" in kinds else GeneralLinear()
            locked = sample_gauges(locked, kinds, group, KEY.generator)
        back = run(head_matching, locked, base)
        assert norm(back, plain) <= 1e-6 * norm(victim, base)


class TestCompanionAnchor:
    def view(self, protected, companions):
        threat = threat_model("no-base")
        names = {str(place): one for place, one in enumerate(companions)}
        return AttackerView(protected, threat, KEY, needs=spec_of(companion_anchor).needs, _companions=names)

    def test_a_mean_of_companions_comes_nearer_than_one_and_the_lock_says_nothing(self, vit):
        base = vit.checkpoint
        victim, companions = expert(base), [expert(base, seed=seed) for seed in (1, 2, 3, 4)]
        locked = sample_gauges(victim, ATTENTION, GeneralLinear(), KEY.generator)
        locked = sample_gauges(locked, ("heads", "mlp"), Permutation(), KEY.generator)
        first, mean = (companion_anchor(self.view(locked, companions), anchor=how) for how in ("first", "mean"))
        costs = [tied_cost(x, base, ATTENTION) for x in (first, mean, run(gauge_fit, locked, base), locked)]
        assert costs[2] <= costs[1] < costs[0] < 0.01 * costs[3]
        plain = companion_anchor(self.view(victim, companions))
        assert norm(mean, plain) <= 1e-6 * norm(victim, base)
        assert norm(mean, victim) < norm(victim, base)

    def test_what_companions_do_not_share_is_left_out_of_the_mean(self, vit):
        base = vit.checkpoint
        one = expert(base).replace({"classifier.weight": torch.zeros(7, 24, dtype=torch.float64)})
        other = expert(base, seed=3)
        found = mean_of([other, one])
        assert torch.equal(found["classifier.weight"], other["classifier.weight"])
        name = "vit.layernorm.weight"
        assert torch.allclose(found[name], (one[name] + other[name]) / 2)

    def test_without_companions_it_says_so(self, vit):
        with pytest.raises(Inapplicable, match="no companion"):
            companion_anchor(self.view(vit.checkpoint, []))


def test_gauge_fit_where_only_planes_may_turn(rotary):
    base = rotary.checkpoint
    site = anatomy_of(base).sites(("qk",))[0]
    from redteam.symmetry import Planar

    locked = sample_gauges(base, ("qk",), Planar(layout=site.planes), KEY.generator)
    locked = sample_gauges(locked, ("vo",), GeneralLinear(), KEY.generator)
    assert norm(run(gauge_fit, locked, base), base) <= 1e-7 * norm(base)


class TestLearned:
    @pytest.mark.parametrize("chart", ["exponential", "cayley"])
    def test_a_rotation_costs_what_procrustes_costs(self, vit, chart):
        victim = expert(vit.checkpoint, 0.3)
        locked = sample_gauges(victim, ATTENTION, Orthogonal(), KEY.generator)
        learned = fit_learned(locked, vit.checkpoint, ATTENTION, LearnedRotation(chart=chart), range)
        closed = fit_gauges(locked, vit.checkpoint, ATTENTION, Orthogonal())
        assert tied_cost(learned, vit.checkpoint, ATTENTION) == pytest.approx(
            tied_cost(closed, vit.checkpoint, ATTENTION), rel=1e-5
        )

    @pytest.mark.parametrize(("parametrisation", "slack"), [("free", 1e-3), ("lu", 2e-2)])
    def test_a_linear_map_costs_what_the_closed_form_costs(self, vit, parametrisation, slack):
        victim = expert(vit.checkpoint, 0.3)
        locked = sample_gauges(victim, ATTENTION, GeneralLinear(), KEY.generator)
        learner = LearnedLinear(parametrisation=parametrisation)
        learned = fit_learned(locked, vit.checkpoint, ATTENTION, learner, range)
        closed = tied_cost(fit_gauges(locked, vit.checkpoint, ATTENTION, GeneralLinear()), vit.checkpoint, ATTENTION)
        found = tied_cost(learned, vit.checkpoint, ATTENTION)
        assert (1 - 1e-6) * closed <= found <= (1 + slack) * closed
        start = fit_learned(locked, vit.checkpoint, ATTENTION, dataclasses.replace(learner, steps=1), range)
        assert found < tied_cost(start, vit.checkpoint, ATTENTION)

    def test_reflections_are_found(self):
        draws = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 5, 30)))
        turns = Orthogonal().sample(4, 5, np.random.default_rng(1)).matrix
        assert {round(float(d)) for d in torch.linalg.det(turns)} == {-1, 1}
        moving = Stacks(draws[..., :20], draws[..., 20:])
        target = Stacks(turns @ moving.left, turns @ moving.right)
        found = LearnedRotation().matrices(moving, target, range)
        assert float((found - turns).abs().max()) < 1e-3
        assert float((found @ found.mT - torch.eye(5, dtype=torch.float64)).abs().max()) < 1e-10

    def test_steps_are_counted_once_for_all_heads_of_a_kind(self, vit):
        view = AttackerView.by_hand(vit.checkpoint, anchor=vit.checkpoint)
        learned_rotation(view, steps=20)
        assert view.meter.steps == 40
        learned_linear(view, steps=10, sites=("vo",))
        assert view.meter.steps == 50

    def test_an_illegal_kind_is_refused_at_once(self, vit):
        for attack in (learned_rotation, learned_linear):
            with pytest.raises(IllegalGauge, match="mlp/0"):
                run(attack, vit.checkpoint, vit.checkpoint, sites=("mlp",))

    def test_gradients_are_on_whatever_the_caller_does(self, vit):
        with torch.no_grad():
            off = run(learned_linear, vit.checkpoint, expert(vit.checkpoint), steps=10)
        on = run(learned_linear, vit.checkpoint, expert(vit.checkpoint), steps=10)
        assert all(torch.equal(off[n], on[n]) for n in on)


class TestAnchorAlignment:
    def test_every_matrix_becomes_the_anchors_on_its_own_row_space(self, vit):
        """Head by head and matrix by matrix, by the pseudo-inverse."""
        base, victim = vit.checkpoint, expert(vit.checkpoint)
        locked = sample_gauges(victim, ATTENTION, GeneralLinear(), KEY.generator)
        aligned = align_untied(locked, base, ATTENTION)
        stem = "vit.encoder.layer.1.attention."
        for head in (slice(0, 8), slice(8, 16), slice(16, 24)):
            for role in ("query", "key", "value"):
                weight, bias = (f"{stem}attention.{role}.{part}" for part in ("weight", "bias"))
                factor = base[weight][head] @ torch.linalg.pinv(locked[weight][head])
                assert torch.allclose(aligned[weight][head], factor @ locked[weight][head], atol=1e-9)
                assert torch.allclose(aligned[bias][head], factor @ locked[bias][head], atol=1e-9)
                rows = victim[weight][head]  # whose row space the lock has not changed
                projected = base[weight][head] @ torch.linalg.pinv(rows) @ rows
                assert torch.allclose(aligned[weight][head], projected, atol=1e-9)
            name = f"{stem}output.dense.weight"
            factor = torch.linalg.pinv(locked[name][:, head]) @ base[name][:, head]
            assert torch.allclose(aligned[name][:, head], locked[name][:, head] @ factor, atol=1e-9)
        assert torch.equal(aligned[f"{stem}output.dense.bias"], locked[f"{stem}output.dense.bias"])

    def test_the_function_stays_only_roughly_and_the_key_has_no_bearing(self, vit):
        victim = expert(vit.checkpoint)
        found = [
            run(anchor_alignment, sample_gauges(victim, ATTENTION, GeneralLinear(), key.generator), vit.checkpoint)
            for key in (KEY, OTHER)
        ]
        assert norm(*found) <= 1e-7 * norm(found[0])
        change = float((vit.outputs(found[0]) - vit.outputs(victim)).abs().max())
        assert 1e-4 < change < 0.5 * float(vit.outputs(victim).abs().max())

    def test_grouped_heads(self, grouped):
        locked = sample_gauges(grouped.checkpoint, ATTENTION, GeneralLinear(), KEY.generator)
        back = run(anchor_alignment, locked, grouped.checkpoint)
        assert norm(back, grouped.checkpoint) <= 1e-8 * norm(grouped.checkpoint)

    def test_shifts_hide_a_lock_unless_they_are_settled_first(self, case):
        locked = sample_gauges(case.checkpoint, ATTENTION, GeneralLinear(), KEY.generator)
        locked = ShiftLock(10.0, KEY.generator, ATTENTION).put_on(locked)
        kept, settled = (run(anchor_alignment, locked, case.checkpoint, shifts=x) for x in ("kept", "settled"))
        assert norm(settled, case.checkpoint) <= 1e-7 * norm(case.checkpoint)
        assert norm(kept, case.checkpoint) > 0.1 * norm(case.checkpoint)

    def test_a_head_of_zeros(self, vit):
        name = "vit.encoder.layer.0.attention.attention.query.weight"
        dead = vit.checkpoint.replace({name: vit.checkpoint[name].index_fill(0, torch.arange(8), 0.0)})
        back = run(anchor_alignment, dead, vit.checkpoint)
        assert all(bool(torch.isfinite(back[n]).all()) for n in back)
        assert float(back[name][:8].abs().max()) == 0.0


class TestTransport:
    def test_the_exact_plan_is_the_assignment(self, vit):
        victim = expert(vit.checkpoint, 0.5)
        locked = sample_gauges(victim, (*ATTENTION, "mlp"), Permutation(), KEY.generator)
        exact = run(optimal_transport, locked, vit.checkpoint, method="emd")
        assigned = run(hungarian, locked, vit.checkpoint)
        assert all(torch.equal(exact[n], assigned[n]) for n in exact)

    def test_the_entropic_plan_is_a_fixed_point(self):
        """Rows and columns sum to one, and the plan is a Gibbs kernel scaled by rows and columns."""
        draws = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 7, 12)))
        moving, target = Stacks(draws[:1, :, :8], draws[:1, :, 8:]), Stacks(draws[1:, :, :8], draws[1:, :, 8:])
        plan = Transport("sinkhorn", 0.2).plan(moving, target)[0]
        assert torch.allclose(plan.sum(0), torch.ones(7, dtype=torch.float64), atol=1e-6)
        assert torch.allclose(plan.sum(1), torch.ones(7, dtype=torch.float64), atol=1e-12)
        stacks = (target.left, moving.left, target.right, moving.right)
        unit = [torch.nn.functional.normalize(x[0], dim=1) for x in stacks]
        cost = torch.cdist(unit[0], unit[1]).square() + torch.cdist(unit[2], unit[3]).square()
        left = plan.log() + cost / (0.2 * cost.mean())
        # u_i + v_j: every 2 × 2 minor of differences vanishes.
        assert float((left - left[:1] - left[:, :1] + left[0, 0]).abs().max()) < 1e-5

    def test_softer_is_further_from_a_permutation(self, vit):
        victim = expert(vit.checkpoint, 0.5)
        hard = run(optimal_transport, victim, vit.checkpoint, sites=("mlp",))
        found = [
            norm(run(optimal_transport, victim, vit.checkpoint, mapping="soft", reg=reg, sites=("mlp",)), hard)
            for reg in (0.005, 0.05, 0.5)
        ]
        assert found == sorted(found)
        assert found[0] < 1e-3 * norm(victim) < found[2]

    def test_soft_maps_take_permutations_off_and_keep_the_function_roughly(self, case):
        base = case.checkpoint
        locked = sample_gauges(base, (*ATTENTION, "mlp"), Permutation(), KEY.generator)
        back = run(optimal_transport, locked, base, mapping="soft", reg=0.02)
        assert norm(back, base) < 0.01 * norm(base)
        assert case.change(back) < 0.05


class TestAverageReleases:
    def view(self, releases, anchor):
        view = AttackerView(releases[0], threat_model("two-releases"), KEY, _anchor=anchor, _releases=releases[1:])
        return dataclasses.replace(view, needs=spec_of(average_releases).needs)

    def test_noise_shrinks_by_the_root_of_the_number(self, vit):
        base = vit.checkpoint
        victim = expert(base)
        noisy = [expert(victim, 0.05, seed) for seed in range(4)]
        found = average_releases(self.view(noisy, base), sites=())
        assert norm(found, victim) == pytest.approx(norm(noisy[0], victim) / 2, rel=0.05)

    def test_releases_in_unlike_bases_are_brought_together(self, vit):
        base = vit.checkpoint
        victim = expert(base)
        locked = [sample_gauges(victim, ATTENTION, GeneralLinear(), key.generator) for key in (KEY, OTHER)]
        found = average_releases(self.view(locked, base))
        assert norm(found, run(gauge_fit, locked[0], base)) <= 1e-7 * norm(victim, base)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_anchor_of_another_size_is_refused_in_a_sentence(vit, attack):
    for name in ("intermediate.dense.weight", "attention.attention.query.weight", "attention.attention.value.weight"):
        stem = f"vit.encoder.layer.0.{name}"
        anchor = vit.checkpoint.replace({stem: torch.zeros(25, 24, dtype=torch.float64)})
        kind = {"i": "mlp"}.get(name[0], "vo" if "value" in name else "qk")
        legal = {claim for claim, _ in spec_of(attack).breaks}
        if kind in legal:
            with pytest.raises(BadInput, match="has another shape"):
                dict(run(attack, vit.checkpoint, anchor, sites=(kind,)))
