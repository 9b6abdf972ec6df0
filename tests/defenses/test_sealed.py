"""Schemes that seal weights: each is its formula, its key undoes it, and no other does."""

import pytest
import torch
from redteam_defenses.obfuscatune import obfuscatune
from redteam_defenses.shadownet import shadownet
from redteam_defenses.translinkguard import translinkguard

from redteam.errors import BadInput
from redteam.views import DefenderView, unlocked
from tests.defenses.shaped import KEY, OTHER, distance
from tests.zoo import network

SCHEMES = {"translinkguard": translinkguard, "shadownet": shadownet, "obfuscatune": obfuscatune}
ZOO = ("vit", "bert", "gpt2", "llama", "phi3", "t5", "clip", "mixtral")


def view_of(checkpoint, key=KEY):
    return DefenderView(checkpoint, checkpoint, key)


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


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ZOO)
def test_the_key_undoes_it_and_nothing_runs_without(scheme, name):
    net, defend = network(name), SCHEMES[scheme]
    sealed = defend(view_of(net.checkpoint))
    back, wrong = (unlocked(sealed, defend, net.checkpoint, key) for key in (KEY, OTHER))
    assert distance(back, net.checkpoint) <= 1e-12
    assert distance(wrong, net.checkpoint) > 0.3
    assert net.change(sealed) > 1e-2
    changed = {n for n in sealed if not torch.equal(sealed[n], net.checkpoint[n])}
    assert changed
    assert not [n for n in changed if sealed[n].ndim < 2], "biases and norms are released as they are"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_in_half_precision_keep_their_dtype(scheme):
    base = network("llama").checkpoint.to(torch.bfloat16)
    sealed = SCHEMES[scheme](view_of(base))
    assert {sealed.dtype(n) for n in sealed} == {torch.bfloat16}
    assert distance(unlocked(sealed, SCHEMES[scheme], base, KEY), base) <= 2e-2


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
