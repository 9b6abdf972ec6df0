"""Noise on embeddings and head: taken off without being told of, and nothing else with it."""

import numpy as np
import pytest
import torch
from redteam_attacks.denoise import denoise, shrunk

from redteam.symmetry.stream_ends import stream_ends
from redteam.views import AttackerView
from tests.zoo import network


def low_rank(m, n, rank, seed=0):
    draws = np.random.default_rng(seed)
    return torch.from_numpy(draws.standard_normal((m, rank)) @ draws.standard_normal((rank, n)))


def noise(m, n, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((m, n)))


@pytest.mark.parametrize("shape", [(400, 40), (40, 400), (60, 60)])
def test_noise_alone_goes_and_what_is_clean_stays(shape):
    assert float(shrunk(noise(*shape)).norm()) <= 0.2 * float(noise(*shape).norm())
    clean = low_rank(*shape, 3)
    assert torch.allclose(shrunk(clean), clean, atol=1e-6)
    assert not shrunk(torch.zeros(shape, dtype=torch.float64)).any()


@pytest.mark.parametrize("shape", [(400, 40), (40, 400)])
def test_what_is_found_is_nearer_than_both_and_than_any_row_by_row_rule(shape):
    truth, drawn = low_rank(*shape, 3), 2.0 * noise(*shape)
    noisy = truth + drawn
    error = float((shrunk(noisy) - truth).norm())
    assert error < 0.5 * min(float(drawn.norm()), float(truth.norm()))
    short = noisy.shape[1]
    rows = noisy.square().sum(1, keepdim=True)
    james_stein = noisy * (1 - (short - 2) * 4.0 / rows).clamp(min=0.0)
    assert error < 0.8 * float((james_stein - truth).norm())


def test_only_the_ends_of_the_stream_are_touched():
    net = network("llama").checkpoint
    draws = np.random.default_rng(0)
    noisy = net.replace({n: t + 0.3 * torch.from_numpy(draws.standard_normal(t.shape)) for n, t in net.items()})
    found = denoise(AttackerView.by_hand(noisy, anchor=net))
    assert {n for n in net if not torch.equal(found[n], noisy[n])} == {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("llama", ["model.embed_tokens.weight"], ["lm_head.weight"]),
        ("mixtral", ["model.embed_tokens.weight"], ["lm_head.weight"]),
        ("gemma2", ["model.embed_tokens.weight"], []),
        ("gpt2", ["transformer.wte.weight", "transformer.wpe.weight"], []),
    ],
)
def test_the_ends_of_a_stream(name, first, last):
    found = stream_ends(network(name).checkpoint)
    assert [list(names) for names in found] == [first, last]


def test_further_tokens_stay_and_what_was_shared_is_cleaned():
    net = network("llama").checkpoint
    name = "model.embed_tokens.weight"
    longer = torch.cat([net[name] + 0.3 * noise(30, 24), noise(4, 24)])
    more = net.replace({}).__class__.of({**net, name: longer}, {**net.config, "vocab_size": 34})
    found = denoise(AttackerView.by_hand(more, anchor=net))[name]
    assert torch.equal(found[30:], longer[30:])
    assert float((found[:30] - net[name]).norm()) < 0.7 * float((longer[:30] - net[name]).norm())
