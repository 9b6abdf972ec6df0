"""Neurons that come to an MLP and change nothing, in every form: exact, undone by their key, found by who looks."""

from functools import partial

import numpy as np
import pytest
import torch
from redteam_attacks.folding import fold_neurons
from redteam_defenses.split_neurons import split_neurons

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.symmetry.fit_all import fit_all
from redteam.symmetry.neurons import ODD, SQUARE, Split
from redteam.symmetry.solvers import cosines
from redteam.views import unlocked
from tests.defenses.shaped import KEY, OTHER, distance, protect, restored, shapes
from tests.zoo import network

FORMS = ("split", "clique", "dependent", "opposite")
ADDED = ("clique", "dependent")
KINDS = ("vit", "llama", "phi3", "nemotron")
"""GELU, a gate, a gate in one tensor with what it multiplies, a squared ReLU."""
forms = pytest.mark.parametrize("form", FORMS)
added = pytest.mark.parametrize("form", ADDED)
names = pytest.mark.parametrize("name", [*KINDS, *(pytest.param(x, marks=pytest.mark.slow) for x in ("bert", "gpt2"))])
REST = "gpt-neox qwen3 gemma2 olmo2 mixtral mpnet starcoder2 glm cohere2 arcee apertus qwen3-moe stablelm smollm3"

UNGATED = "gpt-neox mpnet starcoder2 arcee apertus"


def require(name, form):
    if form == "opposite" and name not in ("llama", "phi3"):
        pytest.skip("it needs a gate")


def rows_of(site, checkpoint):
    """What each neuron reads, up to a scale and sign where it has them, and what it writes."""
    stacks = site.stacks(checkpoint)
    unit = stacks.left[0] / torch.linalg.vector_norm(stacks.left[0], dim=1, keepdim=True)
    reads = unit if "positive-scaling" in site.legal else stacks.left[0]
    if stacks.carried is not None:
        reads = torch.cat([stacks.carried[0], unit * unit[:, :1].sign()], 1)
    return reads, stacks.right[0]


def nearest(rows):
    """[n], how far the next row is, as a share of the longer one's length."""
    size = torch.linalg.vector_norm(rows, dim=1)
    apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") / torch.maximum(size[:, None], size)
    return apart.fill_diagonal_(torch.inf).amin(1)


@forms
@names
@pytest.mark.parametrize("share", [0.01, 0.4])
def test_the_function_stays_and_the_key_takes_it_off(name, form, share):
    require(name, form)
    case = network(name)
    defend = partial(split_neurons, form=form, share=share)
    locked = protect(case.checkpoint, defend)
    assert case.change(locked) <= 1e-10
    (before,), (after,) = ({site.width for site in anatomy_of(x).sites(("mlp",))} for x in (case.checkpoint, locked))
    dependent = {"llama": 3, "phi3": 3, "nemotron": 8}.get(name, 6)
    least = {"split": 1, "clique": 2, "dependent": dependent, "opposite": 8}[form]
    assert after - before in {
        max(least, x) for x in (int(np.ceil(share * before)), 2 * int(np.ceil(share * before / 2)))
    }
    assert distance(unlocked(locked, defend, case.checkpoint, KEY), case.checkpoint) <= 1e-12
    other = unlocked(locked, defend, case.checkpoint, OTHER)
    assert shapes(other) == shapes(case.checkpoint)
    assert distance(other, case.checkpoint) > 0.1


@forms
@names
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_looking_for_redundancy_finds_it(name, form, dtype):
    require(name, form)
    case = network(name)
    base = case.checkpoint.to(dtype)
    locked = protect(base, split_neurons, form=form, share=0.6)
    assert locked.dtype(next(iter(locked))) == dtype
    back = restored(locked, base)
    assert shapes(back) == shapes(base)
    if dtype == torch.float64:
        assert case.change(back) <= 1e-10
    assert distance(fit_all(back, base, ("mlp",)), base) <= 4 * torch.finfo(dtype).eps


@pytest.mark.slow
@forms
@pytest.mark.parametrize("name", REST.split())
def test_on_other_architectures(name, form):
    case = network(name)
    if (form == "opposite" and name in UNGATED.split()) or (name, form) == ("apertus", "dependent"):
        with pytest.raises(BadInput, match=f"are {form} with what stands there"):
            protect(case.checkpoint, split_neurons, form=form)
        return
    locked = protect(case.checkpoint, split_neurons, form=form)
    assert case.change(locked) <= 1e-10
    back = restored(locked, case.checkpoint)
    assert case.change(back) <= 1e-10
    assert distance(fit_all(back, case.checkpoint, ("mlp",)), case.checkpoint) <= 1e-10


@pytest.mark.parametrize("name", KINDS)
def test_what_the_forms_are(name):
    """Of twins and of a clique some read the same; of dependent groups none, though scales are taken out."""
    base = network(name).checkpoint
    site = anatomy_of(base).sites(("mlp",))[0]
    for form in FORMS[: 4 if site.carried else 3]:
        locked = protect(base, split_neurons, form=form, share=0.6)
        wide = anatomy_of(locked).sites(("mlp",))[0]
        reads, writes = rows_of(wide, locked)
        apart = nearest(reads)
        if form in ("dependent", "opposite"):
            assert float(apart.min()) > 1e-6
            gates = None if not wide.carried else wide.stacks(locked).carried[0]
            assert gates is None or (float(nearest(gates).min()) < 1e-9) == (form == "dependent")
        else:
            assert int((apart < 1e-9).sum()) >= wide.width - site.width
        assert float(torch.linalg.vector_norm(writes, dim=1).min()) > 1e-4, "no neuron is seen to be silent"
        plain = cosines(wide.stacks(locked), site.stacks(base)).argmax(1)
        assert not torch.equal(plain[0, : site.width], torch.arange(site.width)), "in another order"


@added
def test_cliques_differ_in_size_and_outputs_are_no_multiples(form):
    locked = protect(network("vit").checkpoint, split_neurons, form=form, share=1.0)
    site = anatomy_of(locked).sites(("mlp",))[0]
    reads, writes = rows_of(site, locked)
    same = torch.cdist(reads, reads, compute_mode="donot_use_mm_for_euclid_dist") < 1e-9
    sizes = {int(n) for n in same.sum(1)}
    assert (len(sizes - {1}) >= 2) == (form == "clique")
    unit = writes / torch.linalg.vector_norm(writes, dim=1, keepdim=True)
    alike = (unit @ unit.T).abs().fill_diagonal_(0.0)
    assert float((alike > 1 - 1e-9).double().mean()) < 0.05


@added
def test_what_does_not_cancel_is_not_taken_out(form):
    """Groups whose outputs no longer cancel, or which no longer read the same, are left alone."""
    base = network("vit").checkpoint
    locked = protect(base, split_neurons, form=form)
    site = anatomy_of(locked).sites(("mlp",))[1]
    name = site.pair[1].linear.weight
    torn = locked.replace({name: locked[name] * torch.linspace(0.5, 1.5, site.width, dtype=torch.float64)})
    with pytest.raises(BadInput, match=r"0 of [56] surplus neurons at mlp/1 have a twin, cancel or have no output"):
        restored(torn, base) if form == "dependent" else restored(_noisy(torn, site), base)


def _noisy(checkpoint, site):
    name = site.left.linear.weight
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(checkpoint.shape(name)))
    return checkpoint.replace({name: checkpoint[name] + 0.1 * noise})


@pytest.mark.parametrize(("name", "form"), [(n, f) for n in ("vit", "llama", "nemotron") for f in FORMS[:3]])
def test_a_base_with_twins_and_dead_neurons_of_its_own_is_restored(name, form):
    case = network(name)
    sites = anatomy_of(case.checkpoint).sites(("mlp",))
    tensors = {}
    for site in sites:
        up, down, *gates = (side.linear.weight for side in site.sides)
        for weight in (up, *gates):
            tensors[weight] = case.checkpoint[weight].clone()
            tensors[weight][3] = tensors[weight][5]
            tensors[weight][[7, 8]] = 0.0
        if site.left.linear.bias is not None:
            tensors[site.left.linear.bias] = case.checkpoint[site.left.linear.bias].clone()
            tensors[site.left.linear.bias][[3, 7, 8]] = 0.0
            tensors[site.left.linear.bias][5] = 0.0
        tensors[down] = case.checkpoint[down].clone()
        tensors[down][:, 11] = 0.0
    base = case.checkpoint.replace(tensors)
    outputs = case.computed(base)
    locked = protect(base, split_neurons, form=form)
    back = restored(locked, base)
    assert shapes(back) == shapes(base)
    for here, there in zip(case.computed(back), outputs, strict=True):
        assert float((here - there).abs().max() / there.abs().max()) <= 1e-7


def test_all_of_it_in_chains():
    case = network("llama")
    locked = case.checkpoint
    for form in FORMS:
        locked = protect(locked, split_neurons, form=form)
    assert case.change(locked) <= 1e-10
    back = restored(locked, case.checkpoint)
    assert distance(fit_all(back, case.checkpoint, ("mlp",)), case.checkpoint) <= 1e-7


def test_the_activations_that_are_named_are_those_that_are_such():
    from transformers.activations import ACT2FN

    x = torch.linspace(-15, 15, 3001, dtype=torch.float64)
    for name in sorted(set(ACT2FN) - {"prelu", "xielu"}):  # these have weights
        f = ACT2FN[name]
        odd, even = f(x) - f(-x), f(x) + f(-x)
        slope = odd @ x / (x @ x)
        linear = float((odd - slope * x).abs().max()) < 1e-6 and abs(float(slope)) > 1e-9
        assert linear == (name in ODD), name
        assert (float((even - x.square()).abs().max()) < 1e-9) == (name in SQUARE), name


@pytest.mark.parametrize(
    ("name", "form", "sentence"),
    [
        ("apertus", "dependent", r"are dependent with what stands there \(xielu\)"),
        ("vit", "opposite", r"are opposite with what stands there \(gelu\); expected a gate and"),
        ("dinov2", "clique", "has no setting for the number of neurons, which must change"),
        ("deepseek-v3", "clique", "MLPs with 12 and 20 neurons; expected MLPs, and all of one width"),
        ("clip", "clique", "several stacks"),
    ],
)
def test_what_cannot_be_widened_is_refused_in_a_sentence(name, form, sentence):
    with pytest.raises(BadInput, match=sentence):
        protect(network(name).checkpoint, split_neurons, form=form)


def test_a_further_mlp_of_their_width_is_not_torn_from_them():
    """SigLIP's pooling head has its width from the same setting as the blocks."""
    base = network("vit").checkpoint
    head = Checkpoint.of({**base, "vit.head.mlp.fc1.weight": torch.zeros(20, 24)}, base.config)
    with pytest.raises(BadInput, match=r"'vit.head.mlp.fc1.weight' is as wide as the MLPs and none of theirs"):
        protect(head, split_neurons)


def test_neurons_that_see_one_another_are_left_alone():
    """Gemma 3n cuts off those below the others' mean and deviation."""
    base = network("llama").checkpoint
    sparse = Checkpoint.of(dict(base), {**base.config, "activation_sparsity_pattern": [0.95, 0.0]})
    with pytest.raises(BadInput, match="cut off neurons by the mean of all"):
        protect(sparse, split_neurons)
    assert protect(Checkpoint.of(dict(base), {**base.config, "activation_sparsity_pattern": [0.0, 0.0]}), split_neurons)


def test_an_activation_that_the_config_leaves_out_is_transformers_own():
    base = network("vit").checkpoint
    silent = Checkpoint.of(dict(base), {key: value for key, value in base.config.items() if key != "hidden_act"})
    assert anatomy_of(silent).sites(("mlp",))[0].activation == ""
    locked = protect(silent, split_neurons, form="dependent")
    assert network("vit").change(locked) <= 1e-10
    hidden = Checkpoint.of(dict(locked), {key: value for key, value in locked.config.items() if key != "hidden_act"})
    assert distance(fit_all(restored(hidden, silent), silent, ("mlp",)), silent) <= 1e-10


def test_every_setting_of_one_width_follows():
    """Where experts and the dense MLPs are as wide, both settings say so, wherever in the config they stand."""
    base = network("llama").checkpoint
    settings = {**base.config, "moe_intermediate_size": 20, "vocab_size": 20}
    locked = protect(Checkpoint.of(dict(base), settings), split_neurons)
    assert {key: locked.config[key] for key in settings if locked.config[key] != settings[key]} == {
        "intermediate_size": 25,
        "moe_intermediate_size": 25,
    }


def test_a_lock_of_another_share_is_not_taken_for_it():
    base = network("vit").checkpoint
    with pytest.raises(BadInput, match=r"to which no share of 0\.9 adds up"):
        Split(0.9, KEY.generator).take_off(base)


def test_folding_more_than_is_there_is_refused():
    base = network("llama").checkpoint
    with pytest.raises(BadInput, match="0 of 4 surplus neurons at mlp/0"):
        fold_neurons(base, 16, tolerance=0.01)
