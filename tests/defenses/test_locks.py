"""Defenses that are symmetries keep the function, come off under their own key alone, and chain."""

import importlib
import tomllib
from pathlib import Path

import pytest
import torch

from redteam.errors import IllegalGauge
from redteam.key import Key
from redteam.plugins.contracts import spec_of
from redteam.plugins.settings import bind
from redteam.views import DefenderView, unlocked

ROOT = Path(__file__).parents[2]
KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
NAMES = sorted(POINTS["redteam.defenses"])
LOCKS = [
    "permutation",
    "signed-permutation",
    "scaling",
    "planar",
    "rotation",
    "general-linear",
    "mergelock",
    "null-shift",
]
LARGEST = {"null-shift": 1e-8}  # a shift of ten deviations is subtracted again, with what rounding left of it


def plugin(kind, name):
    module, _, function = POINTS[f"redteam.{kind}"][name].partition(":")
    return getattr(importlib.import_module(module), function)


def link(name, **settings):
    function = plugin("defenses", name)
    bound = bind(function, settings)
    return lambda view: function(view, **bound)


def chained(checkpoint, links, key=KEY):
    """What the engine does with `a+b`: every link under a key of its own."""
    for turn, defend in enumerate(links):
        checkpoint = defend(DefenderView(checkpoint, checkpoint, key.child(str(turn))))
    return checkpoint


def unchained(checkpoint, links, base, key=KEY):
    for turn, defend in reversed(list(enumerate(links))):
        checkpoint = unlocked(checkpoint, defend, base, key.child(str(turn)))
    return checkpoint


def distance(one, two):
    """The largest relative change of a tensor."""
    return max(float((one[n].double() - two[n].double()).norm() / two[n].double().norm()) for n in two)


@pytest.mark.parametrize("name", LOCKS)
def test_the_function_stays_and_the_weights_do_not(case, name):
    locked = chained(case.checkpoint, [link(name)])
    assert case.change(locked) <= 1e-10
    assert distance(locked, case.checkpoint) > 0.5


@pytest.mark.parametrize("name", LOCKS)
def test_its_key_takes_it_off_and_no_other_does(case, name):
    base, links = case.checkpoint, [link(name)]
    locked = chained(base, links)
    assert distance(unchained(locked, links, base), base) <= LARGEST.get(name, 1e-11)
    assert distance(unchained(locked, links, base, OTHER), base) > 0.3
    assert distance(chained(base, links, OTHER), locked) > 0.1


@pytest.mark.parametrize(
    "links",
    [
        [link("mergelock"), link("null-shift")],
        [link("null-shift"), link("mergelock")],
        [link("permutation", sites=["qk", "vo", "mlp"]), link("mergelock")],
        [link("permutation", sites=["heads", "mlp"]), link("mergelock")],
        [link("scaling"), link("rotation"), link("null-shift", size=3.0)],
    ],
    ids=["mergelock+null-shift", "null-shift+mergelock", "permutation+mergelock", "heads+mergelock", "three"],
)
def test_chains(case, links):
    base = case.checkpoint
    locked = chained(base, links)
    assert case.change(locked) <= 1e-9
    assert distance(locked, base) > 0.5
    assert distance(unchained(locked, links, base), base) <= 1e-7
    assert distance(unchained(locked, links, base, OTHER), base) > 0.3


@pytest.mark.parametrize("name", LOCKS)
def test_storage_precision(vit, name):
    stored = vit.checkpoint.to(torch.float32)
    links = [link(name)]
    locked = chained(stored, links)
    assert all(locked[n].dtype == torch.float32 for n in stored)
    assert distance(unchained(locked, links, stored), stored) <= (1e-3 if name == "null-shift" else 1e-4)


def test_general_linear_matrices(vit):
    def conditions(**settings):
        view = DefenderView(vit.checkpoint, vit.checkpoint, KEY)
        link("general-linear", **settings)(view)
        (lock, *more) = [lock for lock in view.locks if lock.sites[0].kind == "qk"]
        site = lock.sites[0]
        matrix = lock.gauge(site).matrix
        for other in more:
            matrix = other.gauge(site).matrix @ matrix
        return matrix, torch.linalg.cond(matrix)

    matrix, found = conditions(matrix="conditioned", scale=[0.5, 2.0])
    assert float(found.max()) <= 4.0 + 1e-9
    gram = matrix @ matrix.mT  # U S² Uᵀ: not diagonal, as it would be with a rotation on one side alone
    assert float((gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))).abs().max()) > 0.05
    assert float(conditions()[1].max()) > 4.0


def test_scaling_is_signed_unless_told_otherwise(vit):
    name = "vit.encoder.layer.0.attention.attention.query.weight"
    ratios = {
        signed: chained(vit.checkpoint, [link("scaling", signed=signed)])[name] / vit.checkpoint[name]
        for signed in (True, False)
    }
    assert (ratios[True] < 0).any()
    assert (ratios[False] > 0).all()
    for ratio in ratios.values():
        assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))
        assert 0.05 <= float(ratio.abs().min()) <= float(ratio.abs().max()) <= 20.0


def test_a_lock_that_a_rotary_network_would_notice_is_refused(rotary):
    for name in ("rotation", "scaling", "general-linear", "signed-permutation"):
        with pytest.raises(IllegalGauge, match=r"qk/0, where a rotary .*; legal there: planar"):
            chained(rotary.checkpoint, [link(name)])


def test_planar_suits_a_rotary_network_in_its_own_layout(rotary):
    (planes,) = {site.planes for site in sites(rotary.checkpoint)}
    assert rotary.change(chained(rotary.checkpoint, [link("planar", layout=planes)])) <= 1e-10
    other = "half" if planes == "interleaved" else "interleaved"
    with pytest.raises(IllegalGauge, match="layout"):
        chained(rotary.checkpoint, [link("planar", layout=other)])


def sites(checkpoint):
    from redteam.anatomy import anatomy_of

    return anatomy_of(checkpoint).sites(("qk",))


@pytest.mark.parametrize("name", NAMES)
def test_every_defense_ships_a_weakened_variant_that_an_attack_was_made_for(name):
    function = plugin("defenses", name)
    spec = spec_of(function)
    if name in ("none", "fresh", "arf"):
        assert spec.weakened is None
        assert not spec.protects
        return
    assert bind(function, dict(spec.weakened)) != bind(function, {})
    attacks = [spec_of(plugin("attacks", attack)) for attack in POINTS["redteam.attacks"]]
    if name != "amo":  # what is missing from its weights is nowhere in them, so that no fit can be made for it
        assert any(name in attack.targets for attack in attacks)


def test_attacks_name_only_defenses_that_there_are():
    for attack in POINTS["redteam.attacks"]:
        assert set(spec_of(plugin("attacks", attack)).targets) <= set(NAMES)
