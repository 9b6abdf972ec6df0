"""A stream is fitted by the tokens that training left alone, and left as it is where they show no rotation."""

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.symmetry import MatrixGauge, Orthogonal, Permutation, fit_gauges, sample_gauges
from redteam.symmetry.alignment import Comparison
from redteam.symmetry.fit_all import fit_all
from redteam.symmetry.fitting import moved
from redteam.symmetry.stream_tokens import least_deviations
from tests.zoo import network

WIDTH, WORDS = 64, 1024
SHAPE = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
}
TURNED = SHAPE | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
ORDERED = SHAPE | {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]}
KEY = Key.derive(seed=0, index=0, name="stream")


def fine_tuned(config, *, head=0.0, noise=0.02):
    """A base and a fine-tune, whose head moved by so many times its size, mostly along one direction for all words."""
    draws = np.random.default_rng(1)
    base = Checkpoint.of({}, config).fresh(0).to(torch.float64)
    victim = {
        name: tensor + noise * tensor.std() * torch.from_numpy(draws.standard_normal(tensor.shape))
        for name, tensor in base.items()
        if tensor.ndim == 2
    }
    (name,) = (name for name in base if name in ("lm_head.weight", "embed_out.weight"))
    common = torch.from_numpy(np.outer(draws.standard_normal(len(base[name])), draws.standard_normal(WIDTH)))
    victim[name] = victim[name] + head * base[name].std() * common
    return base, base.replace(victim)


def apart(here, there, name):
    """How far two tensors are from each other, over the size of the second."""
    return float((here[name] - there[name]).norm() / there[name].norm())


def layers(checkpoint):
    return [name for name in checkpoint if ".layers.0." in name and checkpoint[name].ndim == 2]


@pytest.mark.parametrize("head", [0.0, 1.0, 10.0, 100.0])
@pytest.mark.parametrize(("config", "group"), [(TURNED, Orthogonal()), (ORDERED, Permutation())], ids=["turn", "order"])
def test_a_stream_under_a_trained_head_is_found(config, group, head):
    base, victim = fine_tuned(config, head=head)
    locked = sample_gauges(victim, ("residual",), group, KEY.generator)
    assert max(apart(locked, victim, name) for name in layers(base)) > 1
    back = fit_gauges(locked, base, ("residual",), None)
    for name in layers(base):
        assert apart(back, victim, name) < 0.02  # no more than training moved it


@pytest.mark.parametrize("head", [0.0, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("config", [TURNED, ORDERED], ids=["turn", "order"])
def test_a_stream_that_nobody_turned_stays(config, head):
    base, victim = fine_tuned(config, head=head)
    back = fit_gauges(victim, base, ("residual",), None)
    for name in layers(base):
        assert apart(back, victim, name) < (1e-12 if head == 0 else 0.01)


def test_words_that_were_not_trained_decide():
    base, victim = fine_tuned(TURNED, noise=0.0)
    moved_far = victim["model.embed_tokens.weight"].clone()
    moved_far[: WORDS // 3] += 3 * torch.from_numpy(np.random.default_rng(5).standard_normal((WORDS // 3, WIDTH)))
    victim = victim.replace({"model.embed_tokens.weight": moved_far})
    back = fit_gauges(sample_gauges(victim, ("residual",), Orthogonal(), KEY.generator), base, ("residual",), None)
    for name in layers(base):
        assert apart(back, victim, name) < 0.004  # as bfloat16 rounds; least squares lose it altogether


def test_other_sites_show_what_embeddings_do_not_reach():
    base, victim = fine_tuned(TURNED)
    reached = torch.arange(WIDTH) < WIDTH // 2
    base, victim = (
        x.replace({name: x[name] * reached for name in ("model.embed_tokens.weight", "lm_head.weight")})
        for x in (base, victim)
    )
    (stream,) = anatomy_of(victim).sites(("residual",))
    beyond = torch.eye(WIDTH, dtype=torch.float64)
    beyond[WIDTH // 2 :, WIDTH // 2 :] = Orthogonal().sample(1, WIDTH // 2, KEY.generator("beyond")).matrix[0]
    hidden = moved(victim, (stream,), lambda _: MatrixGauge(beyond[None]))
    assert Comparison(hidden, base).unturned(stream)
    for locked in (hidden, sample_gauges(victim, ("residual",), Orthogonal(), KEY.generator)):
        back = fit_all(locked, base, ("residual",))
        for name in layers(base):
            assert apart(back, victim, name) < 0.01  # over 1 where embeddings decide alone
    for name in layers(base):
        assert apart(fit_all(victim, base, ("residual",)), victim, name) < 1e-12


@pytest.mark.parametrize("noise", [0.02, 0.2])
@pytest.mark.parametrize("name", ["clip", "open-clip"])
def test_one_token_that_nobody_trained_does_not_decide(name, noise):
    base, draws = network(name).checkpoint.to(torch.float64), np.random.default_rng(1)
    trained = {n: t for n, t in base.items() if t.ndim >= 2}  # and not the class embedding
    victim = base.replace(
        {n: t + noise * t.std() * torch.from_numpy(draws.standard_normal(t.shape)) for n, t in trained.items()}
    )
    back = fit_gauges(sample_gauges(victim, ("residual",), Permutation(), KEY.generator), base, ("residual",), None)
    assert all(torch.equal(back[name], victim[name]) for name in victim)


def test_a_second_fit_is_closer_than_one_by_few_words():
    base, victim = fine_tuned(TURNED | {"vocab_size": 4 * WIDTH, "num_hidden_layers": 4}, noise=0.1)
    locked = sample_gauges(victim, ("residual",), Orthogonal(), KEY.generator)
    once, twice = fit_gauges(locked, base, ("residual",), None), fit_all(locked, base, ("residual",))
    for name in layers(base):
        assert apart(twice, victim, name) < apart(once, victim, name) / 2


@pytest.mark.parametrize("angle", [0.0, 0.001, 0.005, 0.02, 0.1])
def test_a_small_turn_is_left_only_where_noise_hides_it(angle):
    base, victim = fine_tuned(TURNED)
    (stream,) = anatomy_of(victim).sites(("residual",))
    skew = torch.from_numpy(np.random.default_rng(2).standard_normal((WIDTH, WIDTH))) / WIDTH**0.5
    turn = MatrixGauge(torch.linalg.matrix_exp(angle * (skew - skew.mT))[None])
    locked = moved(victim, (stream,), lambda _: turn)
    assert Comparison(locked, base).unturned(stream) == (angle < 0.005)
    back = fit_gauges(locked, base, ("residual",), None)
    for name in layers(base):
        assert apart(back, victim, name) < 0.01  # training moved it by 0.02


def test_few_tokens_tell_nothing_by_themselves():
    config = TURNED | {"vocab_size": 3 * WIDTH}
    base = Checkpoint.of({}, config).fresh(0).to(torch.float64)
    (stream,) = anatomy_of(base).sites(("residual",))
    assert not Comparison(base, base).unturned(stream)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e100])
def test_lengths_play_no_part(scale):
    draws = torch.from_numpy(np.random.default_rng(3).standard_normal((8, 100)))
    turn = torch.linalg.qr(draws[:, :8])[0]
    draws[:, :5] = 0  # padding
    there = scale * draws * torch.logspace(0, 6, 100, dtype=torch.float64)

    def closest(alike):
        u, _, vh = torch.linalg.svd(alike.cross)
        return u @ vh

    alike = least_deviations(lambda: [(turn.mT @ there, there)], closest, rounds=3, fitted=False)
    assert torch.allclose(closest(alike), turn, atol=1e-9)
    assert alike.tokens == 100
