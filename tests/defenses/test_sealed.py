"""Schemes that seal weights: each is its formula, its key undoes it, and no other does."""

import pytest
import torch
from redteam_defenses.amo import amo
from redteam_defenses.arrowcloak import arrowcloak
from redteam_defenses.groupcover import groupcover
from redteam_defenses.loro import loro
from redteam_defenses.obfuscatune import obfuscatune
from redteam_defenses.shadownet import shadownet
from redteam_defenses.soter import soter
from redteam_defenses.translinkguard import translinkguard

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.views import DefenderView, unlocked
from tests.defenses.shaped import KEY, OTHER, distance
from tests.zoo import network

KEYED = {
    "translinkguard": translinkguard,
    "shadownet": shadownet,
    "obfuscatune": obfuscatune,
    "loro": loro,
    "groupcover": groupcover,
    "arrowcloak": arrowcloak,
}
INSIDE = {"soter": soter, "amo": amo}
"""Those that keep a part of the weights, which no key gives back."""
ZOO = ("vit", "bert", "gpt2", "llama", "phi3", "t5", "clip", "mixtral")


def view_of(checkpoint, key=KEY, base=None):
    return DefenderView(checkpoint, checkpoint if base is None else base, key)


def tuned(base, share=0.05):
    """What fine-tuning may make of a base: every tensor moved by a share of its norm."""
    moved = {}
    for name, tensor in base.items():
        noise = torch.from_numpy(KEY.generator(name).standard_normal(tuple(tensor.shape)))
        moved[name] = tensor + share * tensor.norm() / noise.norm() * noise
    return Checkpoint.of(moved, base.config)


def opened(view, released):
    """As whoever holds the key, and what is kept inside, runs it."""
    for lock in reversed(view.locks):
        released = lock.take_off(released)
    return released


def weights(checkpoint, *, layers=2):
    """The matrices of a Hugging Face ViT by layer, what they are called in formulas first."""
    parts = {
        "q": "attention.attention.query",
        "k": "attention.attention.key",
        "v": "attention.attention.value",
        "o": "attention.output.dense",
        "up": "intermediate.dense",
        "down": "output.dense",
    }
    return [
        {short: checkpoint[f"vit.encoder.layer.{layer}.{name}.weight"] for short, name in parts.items()}
        for layer in range(layers)
    ]


def permutation_matrix(sealed, plain, *, rows=False):
    """P with `plain P = sealed` (or `P plain = sealed`), found entry by entry; it must be one of zeros and ones."""
    one, two = (sealed, plain) if rows else (sealed.T, plain.T)
    same = (one[:, None, :] == two[None, :, :]).all(-1).double()
    assert torch.equal(same.sum(0), torch.ones(len(two)).double())
    assert torch.equal(same.sum(1), torch.ones(len(one)).double())
    return same if rows else same.T


class TestFormulas:
    def test_translinkguard_has_one_order_a_layer_and_its_inverse_on_what_attention_writes(self, vit):
        before, after = weights(vit.checkpoint), weights(translinkguard(view_of(vit.checkpoint)))
        orders = []
        for plain, sealed in zip(before, after, strict=True):
            P = permutation_matrix(sealed["q"], plain["q"])
            for name in ("q", "k", "v", "up"):
                assert torch.equal(plain[name] @ P, sealed[name])
            assert torch.equal(torch.linalg.inv(P) @ plain["o"], sealed["o"])
            assert torch.equal(plain["down"], sealed["down"])
            orders.append(P)
        assert not torch.equal(*orders)

    @pytest.mark.parametrize("axis", ["columns", "rows"])
    def test_shadownet_scales_and_exchanges_in_each_tensor(self, vit, axis):
        before, after = weights(vit.checkpoint), weights(shadownet(view_of(vit.checkpoint), axis=axis))
        orders = []
        for plain, sealed in zip(before, after, strict=True):
            for name, weight in plain.items():
                W, S = (weight, sealed[name]) if axis == "columns" else (weight.T, sealed[name].T)
                cosines = torch.nn.functional.normalize(W, dim=0).T @ torch.nn.functional.normalize(S, dim=0)
                order = cosines.argmax(0)
                scale = S.norm(dim=0) / W[:, order].norm(dim=0)
                assert torch.equal(order.sort().values, torch.arange(W.shape[1]))
                assert bool((scale >= 1).all())
                assert bool((scale <= 6).all())
                literal = W @ torch.diag(scale[order.argsort()]) @ torch.eye(W.shape[1]).double()[:, order]
                assert float((literal - S).abs().max()) <= 1e-12
                orders.append(order[:20])
        assert len({tuple(order.tolist()) for order in orders}) == len(orders)

    def test_obfuscatune_turns_the_inputs_alone(self, vit):
        before, after = weights(vit.checkpoint), weights(obfuscatune(view_of(vit.checkpoint)))
        for plain, sealed in zip(before, after, strict=True):
            for name, weight in plain.items():
                left, _, right = torch.linalg.svd(weight.T @ sealed[name])
                Q = left @ right
                assert float((Q @ Q.T - torch.eye(len(Q))).abs().max()) <= 1e-12
                assert float((sealed[name] @ sealed[name].T - weight @ weight.T).abs().max()) <= 1e-12
                assert float((sealed[name] - weight).norm() / weight.norm()) > 1

    def test_loro_adds_a_matrix_of_low_rank_as_large_as_the_base(self, vit):
        before, after = weights(vit.checkpoint), weights(loro(view_of(tuned(vit.checkpoint), base=vit.checkpoint)))
        victim = weights(tuned(vit.checkpoint))
        for base, plain, sealed in zip(before, victim, after, strict=True):
            for name, weight in plain.items():
                values = torch.linalg.svdvals(sealed[name] - weight)
                assert float(values[8:].max()) <= 1e-12 * float(values[0])
                assert float(values[7]) > 0.1 * float(values[0])
                assert float(values.norm() / base[name].norm()) == pytest.approx(1.0)

    @pytest.mark.parametrize("group", [4, 6])
    def test_groupcover_mixes_rows_inside_groups_and_exchanges_columns(self, vit, group):
        before, after = weights(vit.checkpoint), weights(groupcover(view_of(vit.checkpoint), group=group))
        for plain, sealed in zip(before, after, strict=True):
            W, S = plain["up"], sealed["up"]  # more columns than rows: their leverages, which no mixing changes, differ
            levers = [(torch.linalg.pinv(one) @ one).diagonal() for one in (W, S)]
            P = torch.eye(W.shape[1]).double()[:, (levers[0][None, :] - levers[1][:, None]).abs().argmin(1)]
            M = S @ torch.linalg.pinv(W @ P)
            assert float((M @ W @ P - S).norm() / S.norm()) <= 1e-9
            full, rest = divmod(len(W), group)
            assert sorted((M.abs() > 1e-9).sum(1).tolist()) == sorted([group] * (full * group) + [rest] * rest)
            assert float(torch.linalg.cond(M)) <= 4 + 1e-6

    def test_soter_scales_four_fifths_and_shows_the_base_in_place_of_the_rest(self, vit):
        victim = tuned(vit.checkpoint)
        before, after = weights(victim), weights(soter(view_of(victim, base=vit.checkpoint)))
        shown = factors = 0
        for plain, base, sealed in zip(before, weights(vit.checkpoint), after, strict=True):
            for name, weight in plain.items():
                ratios = sealed[name] / weight
                if float(ratios.std()) <= 1e-12:
                    factors += 1
                    assert 0.1 <= float(ratios.mean()) <= 10
                else:
                    shown += torch.equal(sealed[name], base[name])
        assert (factors, shown) == (10, 2)

    def test_arrowcloak_is_its_formula_row_by_row(self, vit):
        victim = tuned(vit.checkpoint)
        before, after = weights(victim), weights(arrowcloak(view_of(victim, base=vit.checkpoint)))
        weak = weights(arrowcloak(view_of(victim, base=vit.checkpoint), mask=0.0))
        for plain, masked, bare in zip(before, after, weak, strict=True):
            for name, W in plain.items():
                unit = [torch.nn.functional.normalize(one, dim=1) for one in (bare[name], W)]
                order = (unit[0] @ unit[1].T).argmax(1)
                assert torch.equal(order.sort().values, torch.arange(len(W)))
                factor = float((bare[name][0] / W[order[0]]).mean())
                assert float((factor * W[order] - bare[name]).abs().max()) <= 1e-12
                values = torch.linalg.svdvals(masked[name] - factor * W[order])
                assert float(values[1]) <= 1e-12 * float(values[0])
                assert float(values[0]) > float(W.norm())

    def test_amo_takes_what_tells_it_from_the_base_most(self, vit):
        victim = tuned(vit.checkpoint)
        before, after = weights(victim), weights(amo(view_of(victim, base=vit.checkpoint)))
        for W, W0, S in zip(before, weights(vit.checkpoint), after, strict=True):
            for name in W:
                left, right = torch.linalg.svdvals(W0[name] - W[name]), torch.linalg.svdvals(W0[name] - S[name])
                assert float((left[8:] - right[: len(left) - 8]).abs().max()) <= 1e-12
                assert float(right[len(left) - 8 :].abs().max()) <= 1e-12
                assert float((S[name] - W[name]).norm()) == pytest.approx(float(left[:8].norm()))


@pytest.mark.parametrize("scheme", KEYED)
@pytest.mark.parametrize("name", ZOO)
def test_the_key_undoes_it_and_nothing_runs_without(scheme, name):
    net, defend = network(name), KEYED[scheme]
    sealed = defend(view_of(net.checkpoint))
    back, wrong = (unlocked(sealed, defend, net.checkpoint, key) for key in (KEY, OTHER))
    assert distance(back, net.checkpoint) <= 1e-12
    assert distance(wrong, net.checkpoint) > 0.3
    assert net.change(sealed) > 1e-2
    changed = {n for n in sealed if not torch.equal(sealed[n], net.checkpoint[n])}
    assert changed
    assert not [n for n in changed if sealed[n].ndim < 2], "biases and norms are released as they are"


@pytest.mark.parametrize("scheme", INSIDE)
@pytest.mark.parametrize("name", ZOO)
def test_what_is_kept_inside_is_with_the_keys_holder_and_with_no_key(scheme, name):
    net, defend = network(name), INSIDE[scheme]
    victim = tuned(net.checkpoint)
    view = view_of(victim, base=net.checkpoint)
    sealed = defend(view)
    assert distance(opened(view, sealed), victim) <= 1e-12
    assert distance(unlocked(sealed, defend, net.checkpoint, KEY), victim) > 1e-2


@pytest.mark.parametrize("scheme", [*KEYED, *INSIDE])
def test_weights_in_half_precision_keep_their_dtype(scheme):
    base = network("llama").checkpoint.to(torch.bfloat16)
    victim = tuned(network("llama").checkpoint).to(torch.bfloat16)
    view = view_of(victim, base=base)
    sealed = (KEYED | INSIDE)[scheme](view)
    assert {sealed.dtype(n) for n in sealed} == {torch.bfloat16}
    assert distance(opened(view, sealed), victim) <= (6e-2 if scheme == "arrowcloak" else 2e-2)


def test_one_secret_for_the_whole_network_is_weaker(vit):
    for defend, name in ((translinkguard, "q"), (obfuscatune, "v")):
        layers = weights(defend(view_of(vit.checkpoint), per="network"))
        plain = weights(vit.checkpoint)
        turns = [torch.linalg.lstsq(one[name], two[name]).solution for one, two in zip(plain, layers, strict=True)]
        assert float((turns[0] - turns[1]).abs().max()) <= 1e-8


def test_what_is_not_known_is_refused_in_a_sentence(vit):
    unknown = vit.checkpoint.of(dict(vit.checkpoint.items()), {"model_type": "unheard-of"})
    with pytest.raises(BadInput):
        translinkguard(view_of(unknown))
