"""Networks of which other tools dropped a part: a merge has every tensor, and nothing of it is left at the base's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from tests.published.conftest import SMALL, Shell, made, put, tuned


def qwen3() -> Checkpoint:
    import transformers as t

    return made("Qwen3ForCausalLM", t.Qwen3Config(**SMALL, head_dim=8))


def qwen3_5_moe() -> Checkpoint:
    """Linear attention in every other layer, packed experts, a shared one and a vision tower."""
    import transformers as t

    text = {
        **SMALL,
        "head_dim": 8,
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
    }
    eyes = {"depth": 1, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 32}
    config = t.Qwen3_5MoeConfig(
        text_config=text, vision_config={**eyes, "patch_size": 8, "num_position_embeddings": 16}
    )
    return made("Qwen3_5MoeForConditionalGeneration", config)


def gemma3() -> Checkpoint:
    import transformers as t

    from tests.published.conftest import VISION

    config = t.Gemma3Config(
        text_config={**SMALL, "head_dim": 8},
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=59,
        boi_token_index=58,
        eoi_token_index=57,
    )
    return made("Gemma3ForConditionalGeneration", config)


def granite_moe() -> Checkpoint:
    import transformers as t

    return made("GraniteMoeForCausalLM", t.GraniteMoeConfig(**SMALL, num_local_experts=3, num_experts_per_tok=2))


CASES: dict[Callable[[], Checkpoint], str] = {
    qwen3: "mergekit#569, #625: q_norm, k_norm and v_proj were left out",
    qwen3_5_moe: "mergekit#696: linear attention and the vision tower were dropped",
    gemma3: "mergekit#581: one tower was left out",
    granite_moe: "mergekit#622: experts in one tensor",
}


@pytest.mark.parametrize(
    "build",
    [pytest.param(b, id=why, marks=() if b is qwen3_5_moe else pytest.mark.slow) for b, why in CASES.items()],
)
def test_every_tensor_is_merged(build: Callable[[], Checkpoint], here: Path, shell: Shell) -> None:
    there = build()
    trained = tuned(there)
    put("base", there, there.config)
    put("expert", trained, there.config)
    words = ("merge", "task-arithmetic:coefficient=1.0", "--base", "base", "--expert", "expert", "--out", "out")
    told = shell(*words, "--load")
    assert told.code == 0, told.err
    assert f"{len(there)} of {len(there)} tensors were rewritten" in told.out
    assert "no key is missing" in told.out
    merged = Checkpoint.open("out")
    assert list(merged) == list(there)
    for name in merged:
        torch.testing.assert_close(merged[name], trained[name], atol=1e-6, rtol=1e-5)


def timm_clip() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    import open_clip

    settings = {
        "embed_dim": 16,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 160,
        },
        "text_cfg": {"context_length": 9, "vocab_size": 60, "width": 32, "heads": 4, "layers": 2},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.CLIP(**settings, output_dict=False)
    return dict(network.state_dict()), {"model_type": "open_clip", "model_cfg": settings}


def test_a_tower_of_timm(here: Path, shell: Shell) -> None:
    """open_clip#1040: a trunk of timm beside a text tower. What is not locked is said, and the rest comes off."""
    tensors, config = timm_clip()
    assert any(name.startswith("visual.trunk.blocks.") for name in tensors)
    put("base", tensors, config)
    put("expert", tuned(tensors), config)
    told = shell("protect", "mergelock", "expert", "--key", "key", "--out", "locked", "--check")
    assert told.code == 0, told.err
    assert "Proven" in told.out
    told = shell("attack", "gauge-fit", "locked", "--base", "base", "--out", "fitted", "--check")
    assert told.code == 0, told.err
    assert "hardly nearer" not in told.out


@pytest.mark.slow
def test_a_tower_that_takes_other_pictures_than_its_config_says(here: Path, shell: Shell) -> None:
    """What it asserts of its inputs is no internal error; the other tower is locked and proven by itself."""
    tensors, config = timm_clip()
    config["model_cfg"]["vision_cfg"]["image_size"] = 32
    put("expert", tensors, config)
    told = shell("protect", "mergelock", "expert", "--key", "key", "--out", "out")
    assert told.code == 0, told.err
    assert "Proven" in told.out
    assert "visual" in told.out.partition("Nothing was rewritten in ")[2]
