"""`redteam describe` finds what was written by hand, nothing that is wrong, and has a word where it finds nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from redteam.anatomy import ARCHITECTURES, KINDS_OF_SITES, find_sites, largest_group
from redteam.anatomy.catalog import FOLDER
from redteam.checkpoint import Checkpoint
from redteam.describe.describing import describe, rows_of, small_network
from redteam.describe.roles import stacks_of
from redteam.describe.shrink import complete, small_configs
from redteam.describe.trials import Trial
from redteam.errors import BadInput

BY_HAND = sorted(
    name
    for name in (file.stem for file in FOLDER.glob("*.json"))
    if ARCHITECTURES.data(name).get("by") == "hand" and name not in ("open_clip", "resnet", "nemotron")
)
FAST = ("bert", "gpt2", "llama")
MORE = {"siglip"}
"""Where it finds more than was written by hand: the stream of a vision tower."""
_OF_STREAMS = {"residual", "norm-scale", "norm"}
LESS = {"t5": _OF_STREAMS, "mt5": _OF_STREAMS, "umt5": _OF_STREAMS, "clip": _OF_STREAMS}
"""Where it finds less: it counts what an encoder or a tower hands on, which is the stream itself."""


def sites(described: Any, case: Trial) -> dict[Any, Any]:
    found = find_sites(described, case.checkpoint).sites(KINDS_OF_SITES)
    return {
        (site.kind, site.layer, tuple(sorted(site.names))): (largest_group(site.legal), site.planes, site.turned)
        for site in found
    }


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in BY_HAND])
def test_what_was_written_by_hand_comes_out(name: str) -> None:
    case = small_network(complete(name))
    found, written = (sites(one, case) for one in (describe(complete(name)).described, ARCHITECTURES[name]))
    if name in LESS:
        assert {kind for kind, *_ in written.keys() - found.keys()} <= LESS[name]
    else:
        assert written.keys() <= found.keys()
    if name in MORE:
        assert found != written
    elif name not in LESS:
        assert found == written


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_wrong_description_is_not_proven(name: str) -> None:
    from dataclasses import replace

    case, right = small_network(complete(name)), ARCHITECTURES[name]
    wrong = {"llama": {"planes": "interleaved"}, "bert": {"mlp_norm": "encoder.layer.{layer}.output.LayerNorm"}}[name]
    assert rows_of(case, right)
    changed = replace(right, **wrong)  # type: ignore[type-var]
    if name == "llama":
        with pytest.raises(BadInput, match="do not keep the function"):
            rows_of(case, changed)
    else:
        assert case.shifted(right, ("mlp",)) <= 1e-9 < case.shifted(changed, ("mlp",))


def test_what_the_network_does_not_run_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder's states are the only thing that cross attention sees."""
    case = small_network(complete("whisper"))
    described = ARCHITECTURES["whisper"]
    assert case.kept(described, "vo") <= 1e-9
    silent = Trial(case.checkpoint, [{"decoder_input_ids": torch.ones(1, 1, dtype=torch.int64), **case.inputs[0]}])
    silent.inputs[0]["decoder_input_ids"] = torch.ones(1, 1, dtype=torch.int64)
    assert silent.kept(described, "qk") == float("inf"), "one token attends to itself, whatever queries and keys are"


@pytest.mark.parametrize("name", ["mamba", "mamba2", "rwkv"])
def test_a_network_without_such_places_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(BadInput, match=r"neither attention with queries, keys and values nor an MLP.*state spaces"):
        describe(complete(name))


@pytest.mark.parametrize("name", [pytest.param("deepseek_v3", marks=pytest.mark.slow), "minicpm3", "nemotron_h"])
def test_latents_and_mixers_come_out(name: str) -> None:
    case, found = small_network(complete(name)), describe(complete(name))
    assert sites(found.described, case) == sites(ARCHITECTURES[name], case)
    left = [remark for remark in found.remarks if "in_proj, mixer.out_proj are in no pair of maps" in remark]
    assert len(left) == (name == "nemotron_h")


def test_a_type_that_transformers_does_not_know() -> None:
    with pytest.raises(BadInput, match="knows no model type 'nonsense'"):
        complete("nonsense")


def test_indices_are_not_taken_for_what_goes_with_heads() -> None:
    """Swin's table of positions is looked up with a buffer that may have as many rows as there are heads."""
    block = "layers.{}.attention."
    tensors = {block.format(k) + name: torch.ones(4, 4) for k in range(2) for name in ("query.weight", "table")}
    tensors |= {block.format(k) + "position_index": torch.ones(4, 4, dtype=torch.int64) for k in range(2)}
    (stack,) = stacks_of(Checkpoint.of(tensors, {}))
    assert set(stack.tensors) == {block.format("{layer}") + name for name in ("query.weight", "table")}
    assert not any("index" in one.stem for one in stack.maps)


def test_an_index_that_is_saved_stays_one() -> None:
    """As a number of float64 it would be taken for a table, and looked up at places that are drawn at random."""
    checkpoint = small_network(complete("donut-swin")).checkpoint
    indices = [name for name in checkpoint if name.endswith("relative_position_index")]
    assert indices
    assert not any(checkpoint.dtype(name).is_floating_point for name in indices)


def test_a_network_that_cannot_be_made_small_is_no_file_to_restore() -> None:
    with pytest.raises(BadInput, match=r"No small network of model_type 'musicgen' could be built and run \(") as told:
        describe(complete("musicgen"))
    assert "file" not in str(told.value)


@pytest.mark.parametrize("name", ["llama", "t5", "clip", "qwen3_next", "wav2vec2", "gpt_oss"])
def test_a_config_becomes_small_and_keeps_its_switches(name: str) -> None:
    full = complete(name)
    tiny = next(small_configs(full))
    switches = {key: value for key, value in full.items() if isinstance(value, bool)}
    assert {key: tiny[key] for key in switches} == switches
    with torch.device("meta"):
        from redteam.checkpoint.modules import initialised

        network: nn.Module = initialised(tiny, 0)
    assert sum(weight.numel() for weight in network.parameters()) < 8_000_000


@pytest.mark.slow
def test_an_attention_of_which_only_a_half_runs_is_left_alone() -> None:
    """Without marks on tokens that attend to all others, Longformer's second set of maps is never read."""
    config = {**complete("longformer"), "architectures": ["LongformerForMaskedLM"]}
    found = describe(config)
    assert {row.kind for row in found.rows} <= {"mlp", "norm-scale"}
    assert any("query_global" in remark for remark in found.remarks)
