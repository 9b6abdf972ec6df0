"""What keeps the function of every architecture that is known, and what does not."""

import dataclasses

import numpy as np
import pytest
import torch

from redteam.anatomy import GROUPS, KINDS, KINDS_OF_SITES, ORDER, Affine, Side, anatomy_of, architecture_of
from redteam.checkpoint import Checkpoint
from redteam.errors import IllegalGauge
from redteam.key import Key
from redteam.symmetry import GROUPS as CLASSES
from redteam.symmetry import PositiveScaling, at, fit_gauges, largest_legal_group, random_shifts, restore, sample_gauges
from redteam.symmetry.fit_all import fit_all
from redteam.symmetry.fitting import moved
from tests.zoo import NETWORKS, THOROUGH, network

KEY = Key.derive(seed=0, index=0, name="zoo")
thorough = pytest.mark.parametrize("name", THOROUGH)
kinds = pytest.mark.parametrize("kind", KINDS_OF_SITES)

LLAMAS = {"llama", "mistral", "qwen2", "qwen3", "olmo2", "phi3", "cohere", "mixtral"}
LLAMAS |= {"granite", "smollm3", "nemotron", "arcee", "stablelm", "ministral3", "seed-oss", "gemma"}
LLAMAS |= {"exaone4", "olmo3", "cohere2", "phimoe", "helium", "ernie4-5", "starcoder2", "phi", "glm", "glm4"}
LLAMAS |= {"apertus", "qwen3-moe"}
POST_NORM = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie", "mpnet", "distilbert"}
GROUPED = LLAMAS | {"gemma2", "gemma3", "gemma3-vision"}
CENTRED = {
    "bert",
    "roberta",
    "vit",
    "deit",
    "clip",
    "siglip",
    "open-clip",
    "gpt2",
    "gpt-neox",
    "cohere",
    "gemma3-vision",
    "dinov2",
    "nemotron",
    "stablelm",
    "cohere2",
    "phimoe",
    "starcoder2",
    "phi",
    "gpt-neo",
} | POST_NORM
"""Where a LayerNorm reads."""

HAVE = {
    "qk-norm": {"qwen3", "gemma3", "gemma3-vision", "olmo2", "olmo3", "exaone4", "apertus", "qwen3-moe"},
    "queries": GROUPED,
    "experts": {"mixtral", "phimoe", "qwen3-moe", "deepseek-v3"},
    "norm": set(NETWORKS) - POST_NORM - {"resnet"},
    # Nobody has described the projector of the one and the scales of layers of the other.
    "residual": set(NETWORKS) - {"resnet", "gemma3-vision", "dinov2"},
    "heads": set(NETWORKS) - {"resnet", "mpnet"},
    "qk": set(NETWORKS) - {"resnet"},
    "vo": set(NETWORKS) - {"resnet"},
    "mlp": set(NETWORKS),
    "norm-scale": set(NETWORKS) - {"resnet", "dinov2"},
}
PER_PLANE = ("plane-signs", "plane-scaling")
REACHED = {
    "heads": ("mirrored-permutation", "signed-permutation", "plane-signs"),
    "norm-scale": ("permutation", "positive-scaled-permutation"),
}
"""Groups that a site refuses though the function would stay: a head's sign is a gauge of its query, key and values, and
of one factor there is no permutation."""


def exactly(kind):
    """What is measured: norms take a factor out up to their eps, so that without it nothing may change."""
    return {"eps": kind != "norm-scale"}


def sites_of(name, kind):
    sites = anatomy_of(network(name).checkpoint).sites((kind,))
    if not sites:
        pytest.skip(f"{name} has no sites of the kind {kind}")
    return sites


def size(checkpoint, other=None):
    terms = ((t.double() - (0 if other is None else other[n].double())).square().sum() for n, t in checkpoint.items())
    return float(sum(terms)) ** 0.5


@kinds
def test_every_network_has_the_sites_that_it_should(kind):
    there = {name for name in NETWORKS if anatomy_of(network(name).checkpoint).sites((kind,))}
    assert there == HAVE[kind]


@kinds
@thorough
def test_a_legal_lock_keeps_the_function_and_comes_off_again(name, kind):
    case, sites = network(name), sites_of(name, kind)
    for group in (group for group in GROUPS if all(group in site.legal for site in sites)):
        chosen = at(CLASSES[group](), sites[0])
        locked = sample_gauges(case.checkpoint, (kind,), chosen, KEY.generator)
        assert size(locked, case.checkpoint) > 0.01 * size(case.checkpoint), group
        assert case.change(locked, **exactly(kind)) <= 1e-10, group
        back = fit_gauges(locked, case.checkpoint, (kind,), chosen)
        assert case.change(back, **exactly(kind)) <= 1e-10, group
        assert size(back, case.checkpoint) <= 1e-8 * size(case.checkpoint), group


@kinds
@thorough
def test_what_is_not_legal_is_refused_and_would_change_the_function(name, kind):
    case, sites = network(name), sites_of(name, kind)
    for group in (group for group in GROUPS if group not in sites[0].legal):
        chosen, site = at(CLASSES[group](), sites[0]), sites[0]
        with pytest.raises(IllegalGauge, match="legal there"):
            sample_gauges(case.checkpoint, (kind,), chosen, KEY.generator)
        if (hasattr(chosen, "layout") and (site.width % 2 or site.width < 4)) or group in REACHED.get(kind, ()):
            continue
        # Planes in the part that isn't turned are free as well, and numbers per plane a part of partial-planar.
        if site.turned and hasattr(chosen, "layout") and (site.planes == "interleaved" or group in PER_PLANE):
            continue
        power = getattr(chosen, "power", 1)
        free = dataclasses.replace(site, legal=frozenset(GROUPS), planes=None, turned=None, power=power)
        gauges = (chosen.sample(site.heads, site.width, np.random.default_rng(draw)) for draw in range(12))
        # A random sign can be plus, and a random order none.
        forced = (moved(case.checkpoint, (free,), lambda _, g=g: g) for g in gauges)
        assert any(case.change(found, **exactly(kind)) > 1e-6 for found in forced), group


@pytest.mark.parametrize("name", ["nemotron", "arcee"])
def test_squared_relu(name):
    """Factors go to the second power on the other side; any other power is refused, and would change the function."""
    case = network(name)
    (site, *others) = anatomy_of(case.checkpoint).sites(("mlp",))
    assert {one.power for one in (site, *others)} == {2}
    locked = sample_gauges(case.checkpoint, ("mlp",), PositiveScaling(scale=(0.01, 100.0)), KEY.generator)
    assert size(locked, case.checkpoint) > size(case.checkpoint)
    assert case.change(locked) <= 1e-10
    assert size(fit_all(locked, case.checkpoint, ("mlp",)), case.checkpoint) <= 1e-10 * size(case.checkpoint)
    for power in (1, 3):
        wrong = PositiveScaling(power=power).sample(1, site.width, np.random.default_rng(0))
        with pytest.raises(IllegalGauge, match=f"to the power {power} changes .* expected the power 2"):
            site.apply(case.checkpoint, wrong)
        free = dataclasses.replace(site, power=power)
        assert case.change(moved(case.checkpoint, (free,), lambda _, g=wrong: g)) > 1e-3


@thorough
def test_shifts_keep_the_function_and_come_off_again(name):
    case = network(name)
    there = [kind for kind in KINDS if anatomy_of(case.checkpoint).sites((kind,))]
    shifted = random_shifts(case.checkpoint, np.random.default_rng(0), 10.0, there)
    assert (size(shifted, case.checkpoint) > size(case.checkpoint)) == (name in CENTRED)
    assert case.change(shifted) <= 1e-10
    assert size(restore(shifted, case.checkpoint, there), case.checkpoint) <= 1e-10 * size(case.checkpoint)


@thorough
def test_it_is_recognised_without_a_config(name):
    """By names; sizes that nothing but the config tells are asked for in a sentence."""
    checkpoint = network(name).checkpoint
    expected, _ = architecture_of(checkpoint)
    found, _ = architecture_of(Checkpoint.of(dict(checkpoint), {}))
    llama = {"llama", "mistral", "qwen2", "granite", "smollm3", "arcee", "ministral3", "seed_oss", "gemma"}
    llama |= {"helium", "ernie4_5"}
    same_names = [
        llama | {"nemotron", "stablelm", "glm"},
        {"clip", "siglip"},
        {"roberta", "xlm-roberta", "camembert"},
        {"olmo2", "exaone4", "olmo3"},
        {"cohere", "cohere2", "llama"},
        {"t5", "mt5", "umt5"},
        {"mixtral", "phimoe"},
        {"qwen3", "qwen3_moe"},
        {"deepseek_v3", "minicpm3"},
    ]
    assert found == expected or any({found, expected} <= names for names in same_names)


@thorough
def test_a_lock_of_everything_at_once_comes_off(name):
    """Every kind locked from its largest group, then fitted in the attacks' order."""
    from redteam.symmetry.fit_all import fit_all

    case = network(name)
    there = [kind for kind in reversed(ORDER) if anatomy_of(case.checkpoint).sites((kind,))]
    locked = case.checkpoint
    for kind in there:
        locked = _locked_from_the_widest(locked, kind)
    assert case.change(locked, eps=False) <= 1e-9
    back = fit_all(locked, case.checkpoint, ORDER)
    assert case.change(back, eps=False) <= 1e-9
    assert size(back, case.checkpoint) <= 1e-7 * size(case.checkpoint)


def _locked_from_the_widest(checkpoint, kind):
    from redteam.symmetry.fitting import apart

    for sites in apart(anatomy_of(checkpoint).sites((kind,))):
        checkpoint = moved(
            checkpoint,
            sites,
            lambda site: largest_legal_group(site).sample(site.heads, site.width, KEY.generator(site.label)),
        )
    return Checkpoint.of(dict(checkpoint), checkpoint.config)


def forced(name, kind, change):
    """How far the function moves under a gauge of the largest legal group, at a site that was got wrong on purpose."""
    case, right = network(name), sites_of(name, kind)[0]
    assert _moved_by_the_widest(case, right, **exactly(kind)) <= 1e-10
    return _moved_by_the_widest(case, change(right), **exactly(kind))


def _moved_by_the_widest(case, site, **exactly):
    changes = []
    for draw in range(4):  # two heads have but two orders
        gauge = largest_legal_group(site).sample(site.heads, site.width, np.random.default_rng(draw))
        changes.append(case.change(moved(case.checkpoint, (site,), lambda _, gauge=gauge: gauge), **exactly))
    return max(changes)


class Dealt(Side):
    """Query heads dealt out to the groups in turn, where they lie one group after the other."""

    def stack(self, affine, heads):
        return super().stack(self._dealt(affine, heads, self.share), heads)

    def unstack(self, stack, affine):
        return self._dealt(super().unstack(stack, affine), self.share, heads=stack.shape[0])

    def _dealt(self, affine, rows, columns=None, heads=None):
        rows, columns = (rows, columns) if heads is None else (rows, heads)
        flat = affine.weight.T if self.columns else affine.weight
        order = torch.arange(len(flat)).reshape(columns, rows, -1).transpose(0, 1).flatten()
        bias = affine.bias if self.columns or affine.bias is None else affine.bias[order]
        return Affine(flat[order].T if self.columns else flat[order], bias)


def side(which, **changes):
    return lambda site: dataclasses.replace(site, **{which: dataclasses.replace(getattr(site, which), **changes)})


def linear(which, **changes):
    def change(site):
        one = getattr(site, which)
        new = {k: v(getattr(one.linear, k)) if callable(v) else v for k, v in changes.items()}
        return dataclasses.replace(
            site, **{which: dataclasses.replace(one, linear=dataclasses.replace(one.linear, **new))}
        )

    return change


def dealt(which):
    def change(site):
        one = getattr(site, which)
        return dataclasses.replace(site, **{which: Dealt(one.linear, one.share, one.columns, one.unit)})

    return change


def whole(**changes):
    return lambda site: dataclasses.replace(site, **changes)


def shifted(rows):
    return dataclasses.replace(rows, start=rows.start + rows.count)


def beside(rows):
    return dataclasses.replace(rows, start=(rows.start + rows.block) % rows.stride)


WRONG = {
    "groups of queries": ("qk", dealt("left"), sorted(HAVE["queries"])),
    "groups of outputs": ("vo", dealt("right"), sorted(HAVE["queries"])),
    "query bias": ("qk", linear("left", bias=None), ["bert", "vit", "clip", "gpt2", "gpt-neox", "qwen2", "open-clip"]),
    "value bias": ("vo", linear("left", bias=None), ["roberta", "deit", "siglip", "gpt2", "gpt-neox", "qwen2"]),
    "up bias": ("mlp", linear("left", bias=None), ["bert", "vit", "clip", "gpt2", "gpt-neox", "open-clip"]),
    "fused in a row": ("qk", linear("right", rows=shifted), ["gpt2", "phi3", "open-clip"]),
    "fused head by head": ("vo", linear("left", rows=beside), ["gpt-neox"]),
    "gate": ("mlp", whole(carried=()), ["llama", "gemma2", "phi3", "flan-t5", "mixtral"]),
    "layout of planes": (
        "qk",
        whole(planes="interleaved"),
        ["llama", "qwen2", "gemma2", "phi3", "mixtral", "gpt-neox"],
    ),
    "layout of planes, the other way": ("qk", whole(planes="half"), ["cohere"]),
    "planes under a norm": ("qk", whole(legal=frozenset({"planar"})), ["qwen3", "gemma3", "olmo2"]),
    "how much is turned": ("qk", whole(turned=2), ["gpt-neox"]),
    "offset of a gain": ("norm", linear("left", offset=0.0), ["gemma2", "gemma3"]),
    "further readers of a norm": ("norm", whole(right_too=()), ["llama", "vit", "gpt2", "cohere", "mixtral"]),
    "gains of ordered heads": ("heads", lambda s: dataclasses.replace(s, left_too=s.left_too[:2]), ["olmo2"]),
    "gains of a stream": ("residual", whole(carried=()), ["llama", "t5", "gpt2", "bert", "open-clip"]),
    "tied head of a scaled stream": ("norm-scale", whole(right=None), ["gpt2", "gemma2", "gemma3", "cohere", "t5"]),
    "raw readers of a scaled stream": ("norm-scale", whole(right=None, right_too=()), ["olmo2"]),
    "writers of a scaled stream": ("norm-scale", whole(left_too=()), ["llama", "vit", "gpt2", "gemma2", "open-clip"]),
    "first factor of a scaled stream": (
        "norm-scale",
        lambda s: dataclasses.replace(s, left=s.left_too[-1], left_too=s.left_too[:-1]),
        ["llama", "clip", "siglip", "t5", "mixtral"],
    ),
    "statistics of a batch norm": ("mlp", lambda s: dataclasses.replace(s, carried=s.carried[:1]), ["resnet"]),
}


@pytest.mark.parametrize("name", sorted(HAVE["norm-scale"]))
def test_of_a_factor_the_function_sees_no_more_than_the_eps_of_norms(name):
    """A large factor takes the eps out, and nothing else; twice, since eps can make up for one another."""
    case = network(name)
    scaled = sample_gauges(case.checkpoint, ("norm-scale",), PositiveScaling(scale=(1e4, 1e4)), KEY.generator)
    gone = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(case.without_eps, case.outputs, strict=True))
    assert case.change(scaled) <= 2 * gone + 1e-10


def test_whether_a_head_is_tied_is_asked_of_the_config():
    """What reads the last norm decides what a factor on the embedding does."""
    case = network("gpt2")
    scale = {site.label: site for site in anatomy_of(case.checkpoint).sites(("norm-scale",))}["norm-scale/0/stream"]
    assert scale.right is not None
    plain = anatomy_of(case.checkpoint.configured({"architectures": ["GPT2Model"]})).sites(("norm-scale",))
    assert plain[0].right is None
    untold = Checkpoint.of(dict(case.checkpoint), {**case.checkpoint.config, "architectures": None})
    assert not anatomy_of(untold).sites(("norm-scale",))


@pytest.mark.parametrize(("what", "name"), [(what, name) for what, (*_, names) in WRONG.items() for name in names])
def test_a_detail_that_is_got_wrong_changes_the_function(what, name):
    kind, change, _ = WRONG[what]
    assert forced(name, kind, change) > 1e-6
