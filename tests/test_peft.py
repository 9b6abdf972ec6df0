"""What PEFT itself makes of an adapter is what it is merged to, whole or not at all, a module at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import NotACheckpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns of much that is meant here
TEXT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"vocab_size": 30, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MIXTURE = TEXT | {"num_experts_per_tok": 2, "intermediate_size": 20}
VLM_TEXT = TEXT | {"model_type": "llama", "intermediate_size": 20}
VLM_VISION = {"model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2}
VLM_VISION |= {"num_attention_heads": 4, "image_size": 8, "patch_size": 4}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", TEXT | {"intermediate_size": 20}),
    "tied": ("Llama", TEXT | {"intermediate_size": 20, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", TEXT | {"intermediate_size": 20}),
    "gpt2": ("GPT2", {"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 30, "n_positions": 32}),
    "llava": ("Llava", {"text_config": VLM_TEXT, "vision_config": VLM_VISION, "image_token_index": 29}),
    "mixtral": ("Mixtral", MIXTURE | {"num_local_experts": 3}),
    "qwen3_moe": ("Qwen3Moe", MIXTURE | {"num_experts": 3, "moe_intermediate_size": 12, "head_dim": 6}),
    "gpt_oss": ("GptOss", MIXTURE | {"num_local_experts": 3, "head_dim": 6, **ROPE}),
}
PROJECTIONS = ["q_proj", "down_proj"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


def lora(**settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": PROJECTIONS, **settings})


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
ADAPTERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "plain": ("llama", lora),
    "rank-stabilised": ("llama", lambda: lora(use_rslora=True)),
    "patterns": ("llama", lambda: lora(rank_pattern={"down_proj": 3}, alpha_pattern={"layers.1.self_attn.q_proj": 5})),
    "embedding and head": ("llama", lambda: lora(target_modules=["embed_tokens", "lm_head", "q_proj"])),
    "fan in": ("gpt2", lambda: lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "DoRA": ("llama", lambda: lora(use_dora=True)),
    "DoRA, patterns": (
        "llama",
        lambda: lora(use_dora=True, rank_pattern={"down_proj": 3}, alpha_pattern={"q_proj": 5}),
    ),
    "DoRA, rank-stabilised": ("llama", lambda: lora(use_dora=True, use_rslora=True)),
    "DoRA, embedding": ("llama", lambda: lora(use_dora=True, target_modules=["embed_tokens", "q_proj"])),
    "DoRA, fan in": ("gpt2", lambda: lora(use_dora=True, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "DoRA, whole modules": ("llama", lambda: lora(use_dora=True, modules_to_save=["lm_head", "norm"])),
    "DoRA, by a pattern": ("llama", lambda: lora(use_dora=True, target_modules=r".*\.self_attn\.(q_proj|v_proj)")),
    "DoRA, some layers": ("llama", lambda: lora(use_dora=True, layers_to_transform=[1])),
    "VLM": ("llava", lambda: lora(target_modules=r".*language_model.*\.(q_proj|down_proj)")),
    "VLM, DoRA": ("llava", lambda: lora(use_dora=True, target_modules=["q_proj", "linear_1"])),
    "biases": ("qwen2", lambda: lora(lora_bias=True, target_modules=["q_proj", "k_proj"])),
    "biases trained": ("qwen2", lambda: lora(use_dora=True, bias="all", target_modules=["q_proj", "k_proj"])),
    "tokens": ("llama", lambda: lora(trainable_token_indices=[3, 7])),
    "tokens by name": ("llama", lambda: lora(trainable_token_indices={"embed_tokens": [3, 7]})),
    "tokens, tied": ("tied", lambda: lora(trainable_token_indices=[3, 7])),
    "tokens alone": ("llama", lambda: peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[5])),
    "parameters": ("llama", lambda: lora(target_modules=[], target_parameters=["q_proj.weight"])),
    "experts, packed": ("gpt_oss", lambda: lora(target_modules=["q_proj"], target_parameters=EXPERTS)),
    "experts, one by one": ("qwen3_moe", lambda: lora(target_modules=["q_proj"], target_parameters=EXPERTS)),
    "experts, older names": ("mixtral", lambda: lora(target_modules=["q_proj"], target_parameters=EXPERTS)),
    "experts, as PEFT converts them": ("mixtral", lambda: lora(target_modules=["w1", "w2", "w3", "q_proj"])),
    "experts, ranks": (
        "qwen3_moe",
        lambda: lora(target_modules=[], target_parameters=EXPERTS, rank_pattern={"experts.down_proj": 3}),
    ),
    "LoHa": ("llama", lambda: peft.LoHaConfig(r=2, alpha=6, target_modules=PROJECTIONS, rank_pattern={"q_proj": 3})),
    "LoKr": ("llama", lambda: peft.LoKrConfig(r=2, alpha=6, target_modules=PROJECTIONS)),
    "IA3": ("qwen2", lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "OFT": ("llama", lambda: peft.OFTConfig(oft_block_size=4, target_modules=PROJECTIONS)),
}


@cache
def _weights(kind: str) -> tuple[Any, dict[str, Tensor]]:
    network = _blank(kind)
    torch.manual_seed(0)
    return network.config, {name: torch.randn(w.shape) / 5 for name, w in network.state_dict().items()}


def _blank(kind: str) -> Any:
    import transformers

    name, settings = NETWORKS[kind]
    config = getattr(transformers, f"{name}Config")(**settings)
    head = {"GPT2": "LMHeadModel", "Llava": "ForConditionalGeneration"}.get(name, "ForCausalLM")
    return getattr(transformers, f"{name}{head}")(config)


def fresh(kind: str) -> Any:
    """A small network with weights of its own, always the same."""
    network = _blank(kind)
    network.load_state_dict(_weights(kind)[1])
    network.tie_weights()
    return network.eval()


def trained(path: Path, kind: str, config: Any) -> Any:
    """Writes a base and an adapter for it whose weights are not those it starts with; gives PEFT's network."""
    base = fresh(kind)
    base.save_pretrained(path / "base")
    model = peft.get_peft_model(base, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(path / "adapter")
    return model.eval()


def opened(path: Path, dtype: torch.dtype | None = None) -> Checkpoint:
    base = Checkpoint.open(path / "base")
    return Checkpoint.open(path / "adapter", base=base if dtype is None else base.to(dtype))


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_is_merged_to_what_peft_merges_it_to(tmp_path: Path, name: str) -> None:
    kind, config = ADAPTERS[name]
    model = trained(tmp_path, kind, config())
    found, base = opened(tmp_path), Checkpoint.open(tmp_path / "base")
    model.merge_and_unload(safe_merge=True).save_pretrained(tmp_path / "merged")
    expected = Checkpoint.open(tmp_path / "merged")
    assert set(found) == set(expected)
    for tensor in expected:
        assert found[tensor].dtype == expected.dtype(tensor)
        assert torch.allclose(found[tensor], expected[tensor], rtol=1e-5, atol=1e-6), tensor
    assert any(not torch.equal(expected[tensor], base[tensor]) for tensor in base)


@pytest.mark.parametrize("name", ["DoRA", "experts, one by one", "OFT"])
def test_half_precision_is_rounded_once(tmp_path: Path, name: str) -> None:
    kind, config = ADAPTERS[name]
    trained(tmp_path, kind, config())
    half = Checkpoint.open(tmp_path / "base").to(torch.bfloat16)
    found = Checkpoint.open(tmp_path / "adapter", base=half)
    exact = Checkpoint.open(tmp_path / "adapter", base=half.to(torch.float32))
    for tensor in exact:
        assert torch.equal(found[tensor], exact[tensor].to(torch.bfloat16))


def test_only_the_module_that_is_asked_for_is_read(tmp_path: Path) -> None:
    trained(tmp_path, *(part() if callable(part) else part for part in ADAPTERS["DoRA"]))
    base, read = Checkpoint.open(tmp_path / "base"), list[str]()

    def watched(name: str) -> Tensor:
        read.append(name)
        return base[name]

    found = Checkpoint.open(tmp_path / "adapter", base=Checkpoint.computed(base.outline(), watched, base.config))
    assert read == []
    touched = "model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(found[touched], base[touched])
    assert read == [touched]


def test_one_expert_is_the_slice_of_all(tmp_path: Path) -> None:
    kind, config = ADAPTERS["experts, packed"]
    trained(tmp_path, kind, config())
    found = opened(tmp_path)
    for tensor in found:
        assert torch.equal(found.part(tensor, 1), found[tensor][1:2])


def test_without_peft_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, "llama", lora(use_dora=True))
    monkeypatch.setattr("redteam.checkpoint.by_peft.find_spec", lambda _: None)
    with pytest.raises(NotACheckpoint, match=r"DoRA.*; PEFT merges such adapters: pip install 'merge-redteam\[peft\]'"):
        opened(tmp_path)


def logits(network: Any) -> Tensor:
    with torch.no_grad():
        return network(torch.arange(1, 13).reshape(1, 12)).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["DoRA", "experts, one by one", "tokens, tied"])
def test_a_locked_adapter_computes_what_it_computed_on_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any], name: str
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    kind, config = ADAPTERS[name]
    expected = logits(trained(tmp_path, kind, config()))
    lock = "permutation:sites=[mlp,vo]"
    told = shell("protect", lock, "adapter", "--base", "base", "--key", "key", "--out", "out")
    assert told.code == 0, told.err
    network, info = AutoModelForCausalLM.from_pretrained("out", output_loading_info=True)
    assert not any(info.values())
    assert torch.allclose(logits(network), expected, rtol=1e-4, atol=1e-4)


def changed(
    path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None, **settings: Any
) -> None:
    """Rewrites an adapter's tensors and config."""
    place = path / "adapter" / "adapter_model.safetensors"
    if change is not None:
        save_file(change(load_file(place)), place)
    config = path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))


def without(*parts: str) -> Change:
    return lambda tensors: {n: t for n, t in tensors.items() if not any(part in n for part in parts)}


@pytest.mark.parametrize("dora", [False, True])
def test_what_it_changes_is_counted(tmp_path: Path, dora: bool) -> None:
    trained(tmp_path, "llama", lora(use_dora=dora, modules_to_save=["lm_head"]))
    assert opened(tmp_path).remarks == ("The adapter changes 4 modules and replaces 1 tensor of its base.",)


@pytest.mark.parametrize("dora", [False, True])
def test_every_module_that_the_config_speaks_of_must_have_weights(tmp_path: Path, dora: bool) -> None:
    """As in "320 of 326": what is missing is listed."""
    trained(tmp_path, "llama", lora(use_dora=dora))
    changed(tmp_path, without("layers.1.mlp"))
    with pytest.raises(NotACheckpoint, match=r"3 of 4 modules.*none for 'model\.layers\.1\.mlp\.down_proj'"):
        opened(tmp_path)


def test_parameters_and_tokens_are_counted_as_well(tmp_path: Path) -> None:
    settings = {"target_modules": ["q_proj"], "target_parameters": EXPERTS}
    trained(tmp_path, "qwen3_moe", lora(**settings, trainable_token_indices=[3]))
    opened(tmp_path)
    changed(tmp_path, without("token_adapter"))
    with pytest.raises(NotACheckpoint, match=r"single tokens, and it has no weights for any"):
        opened(tmp_path)
    changed(tmp_path, without("layers.1.mlp.experts"), trainable_token_indices=None)
    with pytest.raises(NotACheckpoint, match=r"1 of 2 modules, and none for 'model\.layers\.1\.mlp\.experts'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (r".*\.(q_proj|down_proj)", True),
        ("all-linear", True),
        ("(a+)+|.*_proj", False),  # a pattern that is not followed: what has weights is what is meant
        (["model.layers.0.mlp.down_proj", "q_proj"], False),
    ],
)
def test_patterns_are_counted_where_they_can_be_followed(tmp_path: Path, target: Any, told: bool) -> None:
    trained(tmp_path, "llama", lora())
    changed(tmp_path, without("layers.1.mlp"), target_modules=target)
    if told:
        with pytest.raises(NotACheckpoint, match=r"3 of 4 modules"):
            opened(tmp_path)
    else:
        opened(tmp_path)


def test_layers_that_are_left_out_on_purpose_are_none_that_are_missing(tmp_path: Path) -> None:
    trained(tmp_path, "llama", lora(layers_to_transform=[0]))
    opened(tmp_path)
    changed(tmp_path, layers_to_transform=[0, 1])
    with pytest.raises(NotACheckpoint, match="2 of 4 modules"):
        opened(tmp_path)
    changed(tmp_path, layers_to_transform=None, exclude_modules=["layers.1.self_attn.q_proj", "layers.1.mlp.down_proj"])
    opened(tmp_path)


@pytest.mark.parametrize("dora", [False, True])
def test_modules_that_the_base_lacks_are_all_named(tmp_path: Path, dora: bool) -> None:
    """0 of 326: an adapter of another network."""
    trained(tmp_path, "llama", lora(use_dora=dora))
    changed(tmp_path, lambda tensors: {n.replace("layers", "blocks"): t for n, t in tensors.items()})
    with pytest.raises(NotACheckpoint, match=r"blocks\.0\.mlp\.down_proj.*blocks\.1\.self_attn\.q_proj"):
        opened(tmp_path)


def test_experts_under_their_older_names_are_merged_or_named(tmp_path: Path) -> None:
    """unsloth-zoo#812: changes of w1, w2, w3 of each expert, which transformers 5 holds in one tensor, were dropped."""
    base = fresh("mixtral")
    base.save_pretrained(tmp_path / "base")
    stored = Checkpoint.open(tmp_path / "base")
    experts = [
        name for name in stored if ".experts." in name and name.endswith(("w1.weight", "w2.weight", "w3.weight"))
    ]
    assert len(experts) == 2 * 3 * 3
    halves, expected = {}, {}
    for index, name in enumerate(experts):
        generator = torch.Generator().manual_seed(index)
        rows, columns = stored.shape(name)
        a, b = torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)
        module = f"base_model.model.{name.removesuffix('.weight')}"
        halves |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        expected[name] = stored[name] + 3 * b @ a
    (tmp_path / "adapter").mkdir()
    save_file(halves, tmp_path / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["w1", "w2", "w3"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    found = opened(tmp_path)
    assert all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-5) for name in experts)
    changed(tmp_path, without("experts.1.w2"))
    with pytest.raises(NotACheckpoint, match=r"16 of 18 modules.*layers\.0\..*experts\.1\.w2"):
        opened(tmp_path)
    changed(tmp_path, without("nothing"), use_dora=True)
    with pytest.raises(NotACheckpoint, match=r"the network has no .*experts\.0\.w1"):
        opened(tmp_path)


def test_experts_that_unsloth_trained_are_said_to_be_doubtful(tmp_path: Path) -> None:
    """unsloth#6930: until September 2026 it took columns of lora_B in another order than PEFT, and no file says so."""
    trained(tmp_path, "qwen3_moe", lora(target_modules=[], target_parameters=EXPERTS))
    assert len(opened(tmp_path).remarks) == 1
    changed(tmp_path, auto_mapping={"base_model_class": "Qwen3MoeForCausalLM", "unsloth_fixed": True})
    assert "Unsloth" in opened(tmp_path).remarks[1]


def test_the_sum_of_a_dora_is_taken_before_its_norm(tmp_path: Path) -> None:
    """peft#3608: a direction is normed once, after all that is added; merged and unmerged must agree."""
    model = trained(tmp_path, "llama", lora(use_dora=True, lora_alpha=40))
    found, network = opened(tmp_path), fresh("llama")
    network.load_state_dict(dict(found.items()))
    assert torch.allclose(logits(network), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"target_modules": ["embed_tokens", "q_proj"]}, {"modules_to_save": ["embed_tokens"]}]
)
@pytest.mark.parametrize("dora", [False, True])
def test_a_tied_head_does_not_change_with_the_embedding(tmp_path: Path, dora: bool, settings: dict[str, Any]) -> None:
    """PEFT leaves the head as it was while it trains, and changes it in a merge."""
    trained(tmp_path, "tied", lora(use_dora=dora, **settings))
    with pytest.raises(NotACheckpoint, match=r"changes 'model\.embed_tokens\.weight' as an embedding alone"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "settings", [{"target_modules": ["embed_tokens", "q_proj"]}, {"modules_to_save": ["embed_tokens", "lm_head"]}]
)
def test_a_head_that_came_along_with_its_tied_embedding_is_one_with_it(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Compared with the adapter at work: PEFT's merge adds the change of a tied embedding twice."""
    model = trained(tmp_path, "tied", lora(ensure_weight_tying=True, **settings))
    found, network = opened(tmp_path), fresh("tied")
    network.load_state_dict({**found, "lm_head.weight": found["model.embed_tokens.weight"]})
    assert torch.allclose(logits(network), logits(model), rtol=1e-4, atol=1e-4)


def test_an_update_of_a_tied_head_alone_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, "tied", lora(target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True))
    changed(tmp_path, lambda tensors: {n: t * 2 if "lm_head" in n else t for n, t in tensors.items()})
    with pytest.raises(NotACheckpoint, match=r"an update of its own for .*lm_head"):
        opened(tmp_path)


PISSA = {"init_lora_weights": "pissa"}


@pytest.mark.parametrize(
    ("change", "settings", "why"),
    [
        (None, PISSA, "changed its base when it was made"),
        (None, {"alora_invocation_tokens": [1]}, "acts from some token on"),
        (None, {"layer_replication": [[0, 2], [1, 2]]}, "repeats layers"),
        (None, {"megatron_config": {"x": 1}, "megatron_core": "os"}, "Megatron"),
        (None, {"use_whatever": True}, "'use_whatever', which this version of PEFT does not know"),
        (None, {"r": 10**12}, "a number that no adapter has"),
        (None, {"r": 3}, r"lora_A\.weight' is \[2, 20\] where \[3, 20\] fits"),
        (None, {"rank_pattern": {"(a+)+b": 2}}, "a pattern that is not followed"),
        (None, {"peft_type": "VERA"}, "'VERA', and LORA"),
        (None, {"peft_type": "LOHA"}, "does not know|holds nothing|cannot be merged"),
        (without("layers.1.mlp.down_proj.lora_magnitude"), {}, "no weights for .*lora_magnitude"),
        (without("lora_A"), {}, "no weights for .*lora_A"),
        (without("lora_"), {}, "nothing of an adapter"),
        (lambda t: {**t, "base_model.model.model.layers.0.mlp.down_proj.lora_C.weight": torch.ones(2)}, {}, "lora_C"),
        (lambda t: {n: x * torch.nan for n, x in t.items()}, {}, "NaN"),
        (lambda t: {n: x[:1] for n, x in t.items()}, {}, r"is \[1, 20\] where"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    tmp_path: Path, change: Any, settings: dict[str, Any], why: str
) -> None:
    trained(tmp_path, "llama", lora(use_dora=True))
    changed(tmp_path, change, **settings)
    with pytest.raises(NotACheckpoint, match=why) as told:
        dict(opened(tmp_path))
    assert "The adapter in" in str(told.value)


def test_tokens_that_are_not_there_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, "llama", lora(trainable_token_indices=[3, 7]))
    for wrong in ([3, 70], [3], "many", {"other": [3, 7]}):
        changed(tmp_path, trainable_token_indices=wrong)
        with pytest.raises(NotACheckpoint, match="The adapter in"):
            dict(opened(tmp_path))


def test_a_network_that_nobody_knows_is_said_so(tmp_path: Path) -> None:
    trained(tmp_path, "llama", lora(use_dora=True))
    base = Checkpoint.open(tmp_path / "base").configured({"architectures": ["Own"], "model_type": "own"})
    with pytest.raises(NotACheckpoint, match=r"DoRA.*names no network that transformers knows"):
        Checkpoint.open(tmp_path / "adapter", base=base)
