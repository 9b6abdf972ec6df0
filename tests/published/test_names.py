"""One name for one tensor: folders as other releases, trainers and savers named and stacked their tensors.

Every command works across them, and what it writes has the names of its input.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.naming import frame_of, is_remnant
from redteam.checkpoint.skeleton import sources
from redteam.checkpoint.spelling import spelling
from tests.published.conftest import COMMANDS, SMALL, VISION, Shell, all_four, made, put, refused, tuned
from tests.zoo import NETWORKS, network

Tensors = dict[str, Tensor]
Layout = Callable[[Tensors], Tensors]
ENCODER = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}


@cache
def model(kind: str) -> Checkpoint:
    """A small network as transformers saves it."""
    import transformers as t

    rope = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}}
    eyes = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 8}
    tokens = {"image_token_id": 58, "video_token_id": 57, "vision_start_token_id": 56, "vision_end_token_id": 55}
    experts = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    towers = {"text_config": t.LlamaConfig(**SMALL), "vision_config": t.CLIPVisionConfig(**VISION)}
    configs: dict[str, tuple[str, Callable[[], Any]]] = {
        "llama": ("LlamaForCausalLM", lambda: t.LlamaConfig(**SMALL)),
        "tied": ("LlamaForCausalLM", lambda: t.LlamaConfig(**SMALL, tie_word_embeddings=True)),
        "llava": ("LlavaForConditionalGeneration", lambda: t.LlavaConfig(**towers, image_token_index=59)),
        "qwen2-vl": (
            "Qwen2VLForConditionalGeneration",
            lambda: t.Qwen2VLConfig(text_config=SMALL | rope, vision_config=eyes, **tokens),
        ),
        "mixtral": ("MixtralForCausalLM", lambda: t.MixtralConfig(**SMALL, num_local_experts=3)),
        "qwen3-moe": ("Qwen3MoeForCausalLM", lambda: t.Qwen3MoeConfig(**SMALL, **experts)),
        "bert": ("BertForPreTraining", lambda: t.BertConfig(**ENCODER)),
        "encoder": ("BertModel", lambda: t.BertConfig(**ENCODER)),
        "classifier": ("BertForSequenceClassification", lambda: t.BertConfig(**ENCODER)),
        "gpt2": (
            "GPT2LMHeadModel",
            lambda: t.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=32),
        ),
    }
    name, config = configs[kind]
    return made(name, config())


def renamed(*pairs: tuple[str, str]) -> Layout:
    """The first pattern that a name matches is exchanged."""

    def rename(name: str) -> str:
        return next((re.sub(one, other, name) for one, other in pairs if re.search(one, name)), name)

    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


def packed(tensors: Tensors) -> Tensors:
    """All experts of a layer in two tensors, gate and up one above the other."""
    whole: Tensors = {}
    experts: defaultdict[str, dict[tuple[int, str], Tensor]] = defaultdict(dict)
    roles = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)\.weight", name)
        if match is None:
            whole[name] = tensor
        else:
            experts[match[1]][int(match[2]), roles[match[3]]] = tensor
    for stem, parts in experts.items():
        count = 1 + max(index for index, _ in parts)
        both = [torch.cat([parts[k, "gate"], parts[k, "up"]]) for k in range(count)]
        whole[f"{stem}.gate_up_proj"] = torch.stack(both)
        whole[f"{stem}.down_proj"] = torch.stack([parts[k, "down"] for k in range(count)])
    return {name.replace("block_sparse_moe", "mlp"): tensor for name, tensor in whole.items()}


def same(tensors: Tensors) -> Tensors:
    return tensors


def as_first_released(tensors: Tensors) -> Tensors:
    """gamma and beta for the norms, as when BERT was converted."""
    return renamed((r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta"))(tensors)


def with_masks(tensors: Tensors) -> Tensors:
    """Causal masks in each layer, as files of 2019 to 2023 have them."""
    masks = {f"transformer.h.{k}.attn.bias": torch.ones(1, 1, 32, 32).tril() for k in range(2)}
    far = {f"transformer.h.{k}.attn.masked_bias": torch.tensor(-1e4) for k in range(2)}
    return {**tensors, **masks, **far}


def with_frequencies(tensors: Tensors) -> Tensors:
    """Rotary frequencies in each layer, as Llama's first files have them."""
    return {**tensors, **{f"model.layers.{k}.self_attn.rotary_emb.inv_freq": torch.ones(4) for k in range(2)}}


IN_FRONT = renamed((r"^language_model\.model\.", "model.language_model."), (r"^language_model\.lm_head", "lm_head"))
LLAVA: Layout = lambda tensors: renamed((r"^(vision_tower|multi_modal)", r"model.\1"))(IN_FRONT(tensors))  # noqa: E731
QWEN = renamed((r"^model\.", "model.language_model."), (r"^visual\.", "model.visual."))
BARE = renamed((r"^transformer\.", ""))
HEAD_ALONE = renamed((r"^model\.embed_tokens", "lm_head"))
slow = pytest.mark.slow
CASES = [
    pytest.param("llava", same, LLAVA, id="unsloth-zoo#158: a VLM against one saved since 4.52"),
    pytest.param("llava", LLAVA, same, id="unsloth-zoo#773: the other way round", marks=slow),
    pytest.param("llava", LLAVA, LLAVA, id="unsloth-zoo#1234: both new", marks=slow),
    pytest.param("qwen2-vl", same, QWEN, id="cosmos-rl#400: Qwen2-VL's two layouts", marks=slow),
    pytest.param("mixtral", same, packed, id="vllm#54917: experts packed in one of the two"),
    pytest.param("mixtral", packed, same, id="experts packed in the base alone", marks=slow),
    pytest.param("qwen3-moe", packed, packed, id="mergekit#625: packed in both, saved one by one", marks=slow),
    pytest.param("gpt2", BARE, with_masks, id="transformers#11809: GPT-2 without prefix, an expert with masks"),
    pytest.param("llama", same, with_frequencies, id="Llama with rotary frequencies", marks=slow),
    pytest.param(
        "tied", same, HEAD_ALONE, id="transformers#30202: tied, and the head stored for the embedding", marks=slow
    ),
    pytest.param("tied", HEAD_ALONE, same, id="the same in the base", marks=slow),
]


@pytest.mark.parametrize(("kind", "one", "other"), CASES)
def test_one_model_in_two_layouts(kind: str, one: Layout, other: Layout, here: Path, shell: Shell) -> None:
    there = model(kind)
    trained = tuned(there)
    put("base", one(dict(there)), there.config)
    put("expert", other(trained), there.config)
    all_four(shell)
    merged, expected = Checkpoint.open("merged"), one(trained)
    for name in merged:
        torch.testing.assert_close(merged[name], expected[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("base", "expert", "own"),
    [
        ("bert", "encoder", ()),
        pytest.param("encoder", "classifier", ("classifier.",), marks=slow),
        pytest.param("classifier", "encoder", (), marks=slow),
    ],
)
def test_encoders_and_their_heads(base: str, expert: str, own: tuple[str, ...], here: Path, shell: Shell) -> None:
    """mergekit#284 and #286: BERTs with and without `bert.`, with other heads or none, one of them as first released.

    That one's config names one of the two heads that its file holds.
    """
    first, tensors = model(base), tuned(model(expert))
    body = {name.removeprefix("bert."): tensor for name, tensor in first.items()}
    tensors = {name: tensor + 0.0 for name, tensor in tensors.items()}
    for name in tensors:
        if (stem := name.removeprefix("bert.")) in body and not stem.startswith(("classifier", "cls")):
            tensors[name] = tuned({name: body[stem]})[name]
    config = {**first.config, "architectures": ["BertForMaskedLM"]} if base == "bert" else first.config
    put("base", as_first_released(dict(first)) if base == "bert" else first, config)
    put("expert", tensors, model(expert).config)
    told = all_four(shell)["merge"].out
    assert ("Not merged of expert" in told) is bool(own)
    merged = Checkpoint.open("merged")
    shared = [name for name in merged if name.removeprefix("bert.").startswith(("encoder", "embeddings"))]
    plain = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    for name in shared:
        stem = name.removeprefix("bert.").replace("gamma", "weight").replace("beta", "bias")
        torch.testing.assert_close(merged[name], plain[stem], atol=1e-6, rtol=1e-5)
    assert len(shared) > 30


@pytest.mark.parametrize("command", COMMANDS)
def test_a_tensor_under_two_names_is_refused(command: str, here: Path, shell: Shell) -> None:
    """Soup#351: with prefix and without in one file. A lock on the one would leave the other as it was."""
    there = model("llama")
    name = "model.layers.0.self_attn.v_proj.weight"
    put("base", there, there.config)
    put("expert", {**tuned(there), name.removeprefix("model."): there[name]}, there.config)
    told = refused(shell, *COMMANDS[command])
    assert "expert: one tensor is there twice" in told
    assert "take one of them out" in told


def test_what_shares_nothing_is_not_audited(here: Path, shell: Shell) -> None:
    put("base", {f"other.{name}": tensor for name, tensor in model("llama").items()}, model("llama").config)
    put("expert", model("llama"), model("llama").config)
    assert "shares no tensor" in refused(shell, *COMMANDS["audit"])


def test_remnants_are_told_by_name_and_shape() -> None:
    assert is_remnant("h.0.attn.bias", (1, 1, 8, 8))
    assert is_remnant("h.0.attn.masked_bias", ())
    assert is_remnant("model.layers.0.self_attn.rotary_emb.inv_freq", (4,))
    assert is_remnant("embeddings.position_ids", (1, 9))
    assert not is_remnant("h.0.attn.bias", (8,)), "the bias of a map"
    assert not is_remnant("h.0.attn.c_attn.bias", (24,))
    assert not is_remnant("attention.dense.bias", (8,))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("bert", "llama", "mixtral", "gemma3-vision") else slow)
        for name in NETWORKS
        if name != "open-clip"
    ],
)
def test_places_are_those_that_loading_shows(name: str) -> None:
    """Names alone tell what loading numbered tensors tells: the second opinion reads where each number went."""
    from redteam.checkpoint.modules import _load

    there = network(name).checkpoint
    frame = frame_of(there)
    assert frame is not None
    assert spelling(there, frame) is None, "as transformers saves it"
    found = frame.places(there)
    shown = {tensor: place for place, source in sources(there, _load).items() for tensor in source.names}
    assert set(shown) <= set(found)
    for tensor, place in shown.items():
        assert place in (found[tensor].parameter, *frame.twins.get(found[tensor].parameter, ()))


def test_base_and_model_swapped_are_noted(here: Path, shell: Shell) -> None:
    """The fit then goes the wrong way, and is as good as any; the card of the base tells."""
    there = model("llama")
    put("base", there, there.config)
    put("expert", tuned(there), there.config)
    assert shell(*COMMANDS["protect"]).code == 0
    told = shell("attack", "gauge-fit", "expert", "--base", "out", "--out", "fitted")
    assert "Note on out: its card says that it was locked" in told.err
    told = shell("attack", "gauge-fit", "out", "--base", "expert", "--out", "off")
    assert "its card says" not in told.err
    assert "its card says" not in shell("audit", "base", "--base", "off").err, "attacked meanwhile"
