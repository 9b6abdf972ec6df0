"""AloePri: exact without its approximate parts, taken off by its key, refused elsewhere, undone towards the base."""

import numpy as np
import pytest
import torch
from redteam_attacks.denoise import denoise
from redteam_attacks.gauge_fit import gauge_fit
from redteam_attacks.plane_assignment import plane_assignment
from redteam_attacks.stream_fit import stream_fit
from redteam_defenses.aloepri import aloepri

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput, IllegalGauge
from redteam.symmetry.key_matrices import KeyMatrices
from redteam.views import AttackerView, DefenderView, unlocked
from tests.defenses.shaped import KEY, OTHER, distance, protect, shapes
from tests.zoo import network

EXACT = {"stream": "rotated", "window": 1, "noise": (0.0, 0.0)}
LEGAL = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ("mistral", "glm", "qwen3-moe") else [])
    for name in ("llama", "qwen2", "qwen3", "phi3", "mixtral", "mistral", "glm", "qwen3-moe")
]
WIDER = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1.0},  # equal frequencies, so that all planes move
}
ENDS = ("model.embed_tokens.weight", "lm_head.weight")
UNDOING = (stream_fit, gauge_fit, plane_assignment, stream_fit)


def undone(protected, anchor, *attacks):
    for attack in attacks:
        found = attack(AttackerView.by_hand(protected, anchor=anchor))
        protected = Checkpoint.of(dict(found), found.config)
    return protected


def tuned(base, size=0.02):
    """A victim that lies a little from its base, at the ends of its stream along few directions."""
    draws = np.random.default_rng(0)

    def moved(name, tensor):
        rank = 2 if name in ENDS else min(tensor.shape)
        noise = draws.standard_normal((tensor.shape[0], rank)) @ draws.standard_normal((rank, tensor.shape[1]))
        return tensor + size * float(tensor.norm()) * torch.from_numpy(noise / np.linalg.norm(noise))

    return base.replace({n: moved(n, t) if t.ndim == 2 else t for n, t in base.items()})


@pytest.fixture(scope="module")
def base():
    return Checkpoint.of({}, WIDER).fresh(0).to(torch.float64)


@pytest.mark.parametrize("name", LEGAL)
def test_without_its_approximate_parts_the_function_stays(name):
    net = network(name)
    locked = protect(net.checkpoint, aloepri, **EXACT)
    assert net.change(locked) <= 1e-10
    assert all(locked[n].ndim == 1 for n in shared_tensors(locked, net.checkpoint))


@pytest.mark.parametrize("name", LEGAL)
def test_the_key_takes_everything_off(name):
    net = network(name)
    locked = protect(net.checkpoint, aloepri)
    assert net.change(locked) > 1e-3
    back = unlocked(locked, aloepri, net.checkpoint, KEY)
    assert distance(back, net.checkpoint) <= 1e-10
    assert shapes(back) == shapes(net.checkpoint)
    assert distance(unlocked(locked, aloepri, net.checkpoint, OTHER), net.checkpoint) > 0.1


def test_every_map_has_a_basis_of_its_own_and_all_products_are_whole(base):
    """Embeddings keep their rank; two maps that write from one space do not stay in one space of the base's width."""
    locked = protect(base, aloepri, noise=(0.0, 0.0))
    ends = locked[ENDS[0]]
    assert int(torch.linalg.matrix_rank(ends, rtol=1e-9)) == 32
    writers = torch.cat([ends, *(t.T for n, t in locked.items() if n.endswith(("o_proj.weight", "down_proj.weight")))])
    assert int(torch.linalg.matrix_rank(writers, rtol=1e-9)) > 32
    assert locked.config["hidden_size"] == ends.shape[1] == 32 + 2 * 4


def test_without_noise_the_weights_come_back(base):
    locked = protect(base, aloepri, noise=(0.0, 0.0))
    assert distance(undone(locked, base, *UNDOING), base) <= 1e-6
    without = undone(locked, base, stream_fit, gauge_fit)
    assert distance(without, base) > 0.1  # planes lie in another order, which no legal gauge restores


def test_noise_is_taken_off_and_what_lies_between_the_ends_comes_back(base):
    victim = tuned(base)
    fitted = undone(aloepri(DefenderView(victim, base, KEY)), base, *UNDOING)
    cleaned = undone(fitted, base, denoise)
    whole = undone(cleaned, base, gauge_fit)

    def away(one, names):
        return sum(float((one[n] - victim[n]).square().sum()) for n in names) ** 0.5

    inner = [n for n in base if "proj" in n]
    assert away(fitted, ENDS) > 5 * away(base, ENDS)
    assert away(cleaned, ENDS) < 0.1 * away(fitted, ENDS)
    assert away(cleaned, inner) == away(fitted, inner)
    assert away(whole, inner) < 0.5 * away(base, inner)


@pytest.mark.parametrize(
    ("name", "error", "why"),
    [
        ("bert", IllegalGauge, "No rotary embedding turns queries and keys"),
        ("clip", IllegalGauge, "No rotary embedding turns queries and keys"),
        ("gpt-neox", IllegalGauge, "read by LayerNorms"),
        ("olmo2", IllegalGauge, "varies and no map alone reads it"),
        ("smollm3", BadInput, "whose config can name a head width"),
    ],
)
def test_it_is_refused_in_a_sentence(name, error, why):
    with pytest.raises(error, match=why):
        protect(network(name).checkpoint, aloepri)


def test_rmsnorms_without_a_rotary_embedding_are_refused():
    net = network("smollm3").checkpoint
    still = Checkpoint.of(dict(net), {**net.config, "no_rope_layers": [0, 0]})
    with pytest.raises(IllegalGauge, match="No rotary embedding turns queries and keys"):
        protect(still, aloepri)


def test_a_tied_head_is_refused_by_key_matrices_alone(base):
    even = {"model.norm.weight": torch.full((32,), 0.7, dtype=torch.float64)}
    tied = Checkpoint.of(
        {**{n: t for n, t in base.items() if n != ENDS[1]}, **even}, {**base.config, "tie_word_embeddings": True}
    )
    with pytest.raises(BadInput, match="head is tied to the embeddings"):
        protect(tied, aloepri)
    assert protect(tied, aloepri, **EXACT).config["hidden_size"] == 40
    with pytest.raises(BadInput, match="no matrix but a rotation leaves in one basis"):
        undone(tied, tied, stream_fit)


def test_a_stream_that_was_not_widened_so_is_told(base):
    with pytest.raises(BadInput, match="which 8 are added to"):
        KeyMatrices(8, 0.3, KEY.generator, base).take_off(base)
    narrower = Checkpoint.of({}, {**WIDER, "hidden_size": 24, "head_dim": 16}).fresh(0).to(torch.float64)
    with pytest.raises(BadInput, match="expected no less"):
        undone(narrower, base, stream_fit)
    locked = protect(base, aloepri)
    fewer = Checkpoint.of({}, {**WIDER, "vocab_size": 300}).fresh(0).to(torch.float64)
    with pytest.raises(BadInput, match="of one vocabulary"):
        undone(locked, fewer, stream_fit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_stored_keeps_its_dtype_and_a_stranger_stays_finite(base, dtype):
    stranger, near = (Checkpoint.of({}, WIDER).fresh(seed).to(dtype) for seed in (5, 0))
    locked = aloepri(DefenderView(stranger, near, KEY))
    found = undone(locked, near, *UNDOING, denoise, gauge_fit)
    assert {locked.dtype(n) for n in locked} == {found.dtype(n) for n in found} == {dtype}
    assert all(bool(found[n].isfinite().all()) for n in found)


def test_the_shell_puts_it_on_and_transformers_loads_it(shell, tmp_path) -> None:
    names = ("base", "key", "locked", "restored")
    base, key, locked, out = (str(tmp_path / name) for name in names)
    Checkpoint.of({}, WIDER).fresh(0).save(tmp_path / "base")
    told = shell("protect", "aloepri", base, "--base", base, "--key", key, "--out", locked, "--load")
    assert told.code == 0, told.err
    chain = "stream-fit+gauge-fit+plane-assignment+stream-fit+denoise+gauge-fit"
    told = shell("attack", chain, locked, "--base", base, "--out", out)
    assert told.code == 0, told.err
    assert distance(Checkpoint.open(tmp_path / "restored"), Checkpoint.open(tmp_path / "base")) < 0.2
