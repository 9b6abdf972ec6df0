"""Latent attention: what keeps the function in every form that a config asks for; what is a little more does not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from redteam.anatomy import ARCHITECTURES, ORDER, Anatomy, Site, find_sites
from redteam.describe.describing import small_network
from redteam.describe.shrink import complete
from redteam.describe.trials import KEPT, Trial
from redteam.symmetry import GeneralLinear, Orthogonal, Planar
from redteam.symmetry.fit_all import fit_all
from redteam.symmetry.fitting import looked_up, moved

FORMS = {
    "as published": {},
    "queries of their own": {"q_lora_rank": None},
    "biases": {"attention_bias": True},
    "wide": {"num_attention_heads": 2, "num_hidden_layers": 3},
}


@cache
def latent(form: str) -> Trial:
    return small_network({**complete("deepseek_v3"), **FORMS[form]})


def anatomy(form: str) -> Anatomy:
    return find_sites(ARCHITECTURES["deepseek_v3"], latent(form).checkpoint)


@pytest.mark.parametrize("form", [pytest.param(x, marks=[pytest.mark.slow] if x == "wide" else []) for x in FORMS])
def test_every_form_keeps_the_function_and_comes_off(form: str) -> None:
    case = latent(form)
    sites = [site for kind in reversed(ORDER) for site in anatomy(form).sites((kind,))]
    locked = case.locked_at(sites)
    assert case.change(locked, eps=False) <= KEPT
    fitted = fit_all(locked, case.checkpoint, ORDER)
    gap, size = (
        sum(float((one[name] - other).square().sum()) for name, other in case.checkpoint.items())
        for one in (fitted, {name: 0.0 * other for name, other in case.checkpoint.items()})
    )
    assert gap**0.5 <= 1e-7 * size**0.5
    parts = {site.part for site in anatomy(form).sites(("residual",)) if not site.spanning}
    assert parts == ({"latent"} if form == "queries of their own" else {"latent", "query-latent"})


def test_all_heads_share_the_keys_that_are_turned() -> None:
    turned, plain = anatomy("as published").sites(("qk",))[:2]
    assert (plain.heads, plain.width, turned.heads, turned.width) == (4, 12, 1, 8)
    assert turned.left.share == 4
    assert turned.planes == "interleaved"


@pytest.mark.parametrize(
    ("which", "more"),
    [
        ("qk/0/rotary", Planar((2.0, 4.0), layout="half")),
        ("qk/0/rotary", GeneralLinear()),
        ("residual/0/latent", Orthogonal()),
        ("residual/0/query-latent", Orthogonal()),
    ],
)
def test_more_changes_the_function(which: str, more: Planar | GeneralLinear | Orthogonal) -> None:
    case = latent("as published")
    site = next(one for one in anatomy("as published").places if one.label == which)
    allowed: Site = replace(site, legal=frozenset({more.name}), planes=getattr(more, "layout", None))
    gauge = more.sample(site.heads, site.width, np.random.default_rng(0))
    assert case.change(moved(case.checkpoint, [allowed], looked_up({site.label: gauge}))) > 1e-3


def test_the_layout_of_planes_is_the_one_that_a_config_says() -> None:
    case, described = small_network({**complete("deepseek_v3"), "rope_interleave": False}), ARCHITECTURES["deepseek_v3"]
    assert find_sites(described, case.checkpoint).sites(("qk",))[0].planes == "half"
    assert case.kept(described, "qk") <= KEPT


def test_a_part_of_another_size_is_said() -> None:
    case = latent("as published")
    name = "model.layers.1.self_attn.kv_b_proj.weight"
    spoilt = case.checkpoint.replace({name: torch.zeros(88, 27, dtype=torch.float64)})
    with pytest.raises(Exception, match="kv_b_proj"):
        find_sites(ARCHITECTURES["deepseek_v3"], spoilt)
