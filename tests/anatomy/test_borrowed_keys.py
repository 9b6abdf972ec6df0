"""Layers that read earlier ones' keys and values, heads of two widths, and values that are keys (Gemma 3n, Gemma 4)."""

from __future__ import annotations

from typing import Any

import pytest

from redteam.anatomy import ARCHITECTURES, KINDS_OF_SITES, find_sites
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.modules import initialised, weights_of
from redteam.describe.shrink import complete, small_configs
from redteam.describe.trials import Trial

FORMS: dict[str, tuple[str, dict[str, Any], set[int]]] = {
    "Gemma 4": ("gemma4_text", {"num_kv_shared_layers": 2}, {0, 1}),
    "Gemma 4, values of some layers are keys": ("gemma4_text", {"attention_k_eq_v": True}, {0, 2, 4}),
    "Gemma 4, both": (
        "gemma4_text",
        {"attention_k_eq_v": True, "num_kv_shared_layers": 3, "num_global_key_value_heads": 1},
        {0},
    ),
    "Gemma 3n": (
        "gemma3n_text",
        {
            "num_kv_shared_layers": 2,
            "intermediate_size": [40] * 6,
            "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0, 0.0, 0.0],
        },
        {0, 1},
    ),
}


def network(name: str, settings: dict[str, Any]) -> Trial:
    """Of six layers, every other of which attends to all tokens."""
    kinds = ["sliding_attention", "full_attention"] * 3
    config = {**next(small_configs(complete(name))), "num_hidden_layers": 6, "layer_types": kinds, **settings}
    made = initialised(config, 0)
    weights = {name: weight.double() for name, weight in weights_of(made).items()}
    return Trial.of(Checkpoint.of(weights, {**made.config.to_dict(), "architectures": config["architectures"]}))  # type: ignore[union-attr]


@pytest.mark.parametrize("form", [pytest.param(one, marks=[] if "both" in one else pytest.mark.slow) for one in FORMS])
def test_only_layers_that_keep_to_themselves_have_pairs(form: str) -> None:
    name, settings, alone = FORMS[form]
    case, described = network(name, settings), ARCHITECTURES[name]
    anatomy = find_sites(described, case.checkpoint)
    for kind in ("qk", "vo", "heads"):
        assert {site.layer for site in anatomy.sites((kind,))} == alone
    for kind in KINDS_OF_SITES:
        if anatomy.sites((kind,)):
            assert case.kept(described, kind) <= 1e-9, kind
    assert {site.layer for site in anatomy.sites(("mlp",))} == set(range(6))


def test_what_lends_its_keys_would_change_the_function() -> None:
    name, settings, _ = FORMS["Gemma 4, both"]
    case = network(name, settings)
    own = {**case.checkpoint.config, "num_kv_shared_layers": 0}
    told = find_sites(ARCHITECTURES[name], case.checkpoint.configured(own)).sites(("vo",))
    assert [site.layer for site in told] == [0, 2]
    assert case.change(case.locked_at(told[1:])) > 1e-3
