"""Forms of a type that a switch of its config brings about: each has the sites that keep its function alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from redteam.anatomy import ARCHITECTURES, KINDS_OF_SITES, anatomy_of, find_sites
from redteam.anatomy.auto import architecture_of, described_as
from redteam.anatomy.catalog import FOLDER, Catalogue
from redteam.checkpoint import Checkpoint
from redteam.describe.describing import small_network
from redteam.describe.shrink import complete
from redteam.describe.trials import Trial

SWITCHES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "LlamaForQuestionAnswering": ("llama", {"architectures": ["LlamaForQuestionAnswering"]}, set()),
    "GPT-2 that casts": ("gpt2", {"reorder_and_upcast_attn": True}, set()),
    "norms before numbers are cut off": ("olmoe", {"clip_qkv": 8.0}, {"qk-norm"}),
    "slopes by head": ("falcon", {"alibi": True}, {"heads", "queries"}),
    "groups of queries in one tensor": ("falcon", {"new_decoder_architecture": True}, set()),
    "a key for each head in one tensor": ("falcon", {"multi_query": False, "parallel_attn": False}, {"queries"}),
    "values that are turned": ("roformer", {"rotary_value": True}, {"vo"}),
    "a key for each head": ("gpt_bigcode", {"multi_query": False}, {"queries"}),
    "norms before the blocks": ("hubert", {"do_stable_layer_norm": True}, set()),
}


def network(name: str, settings: dict[str, Any]) -> Trial:
    return small_network({**complete(name), **settings})


@pytest.mark.parametrize(
    "form",
    [pytest.param(one, marks=[] if "cut off" in one or "slopes" in one else pytest.mark.slow) for one in SWITCHES],
)
def test_a_form_is_locked_where_it_may_be(form: str) -> None:
    name, settings, lost = SWITCHES[form]
    case = network(name, settings)
    _, described = architecture_of(case.checkpoint)
    anatomy = find_sites(described, case.checkpoint)
    kinds = {site.kind for site in anatomy.places}
    assert {"qk", "vo", "mlp"} - lost <= kinds
    assert not kinds & lost
    for kind in (kind for kind in KINDS_OF_SITES if kind in kinds):
        assert case.kept(described, kind) <= 1e-9, kind
        assert case.back(described, kind) <= 1e-7, kind
    shifted = case.shifted(described, ("qk", "vo", "mlp"))
    assert shifted <= 1e-9 or shifted == float("inf"), "infinity where there are none"


def test_experts_of_which_groups_are_chosen_first_stay_where_they_are() -> None:
    case = network("deepseek_v3", {})
    grouped = case.checkpoint.configured({**case.checkpoint.config, "n_group": 2, "topk_group": 1})
    assert anatomy_of(case.checkpoint).sites(("experts",))
    assert not anatomy_of(grouped).sites(("experts",))
    moved = case.locked_at(anatomy_of(case.checkpoint).sites(("experts",)))
    assert replace(case, checkpoint=grouped).change(moved.configured(grouped.config)) > 1e-3


def test_codegen_s_pieces_hold_several_heads_each() -> None:
    case = network("codegen", {})
    config = {**case.checkpoint.config, "n_head": 8, "rotary_dim": 4}
    wider = Trial.of(Checkpoint.of(dict(case.checkpoint), config))
    for kind in ("qk", "vo", "heads"):
        assert wider.kept(ARCHITECTURES["codegen"], kind) <= 1e-9, kind


def test_the_form_is_the_config_s_unless_a_description_is_given() -> None:
    plain, stable = ({"model_type": "hubert", "do_stable_layer_norm": value} for value in (False, True))
    catalogue = Catalogue(FOLDER)
    assert catalogue.for_config("hubert", plain) == catalogue["hubert"]
    assert catalogue.for_config("hubert", stable) == catalogue["hubert+stable"] != catalogue["hubert"]
    assert "hubert+stable" not in list(catalogue), "it is no model type"
    both = {"relative_attention": True, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
    assert catalogue.for_config("deberta-v2", both) == catalogue["deberta-v2+shared"]
    empty = Checkpoint.of({}, stable)
    with described_as("hubert", ARCHITECTURES["bert"]):
        assert architecture_of(empty) == ("hubert", ARCHITECTURES["bert"])
    assert architecture_of(empty) == ("hubert", ARCHITECTURES["hubert+stable"])
