"""A lock is written only with its proof: networks whose descriptions are wrong, incomplete or silent about a part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from redteam.checkpoint import Checkpoint
from redteam.symmetry.proof import _unproven, prove
from redteam.symmetry.running import Ran
from tools.catalogue import trial_of

Shell = Callable[..., Any]
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 32,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(folder: str, network: str, config: str, **settings: Any) -> Path:
    """A random network of transformers, none of whose weights stands at a value that hides something."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(transformers, network)(getattr(transformers, config)(**settings))
        for parameter in made.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        made.save_pretrained(folder)
    return Path(folder)


def with_tensors(folder: Path, **added: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    tensors = {**Checkpoint.open(folder), **{name.replace("__", "."): tensor for name, tensor in added.items()}}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def protect(shell: Shell, defense: str, model: Path | str, *words: str) -> Any:
    return shell("protect", defense, str(model), "--key", "key", "--out", "out", *words)


def refused(told: Any, *says: str) -> None:
    assert (told.code, told.out) == (2, "")
    line = told.err.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert "othing was written" in line
    assert all(each in line for each in says), line
    assert not Path("out").exists()
    assert not Path("key").exists(), "no key is made for a lock that was never written"


def test_what_keeps_the_function_is_written_with_the_figure(shell: Shell, here: Path) -> None:
    told = protect(shell, "mergelock", saved("llama", "LlamaForCausalLM", "LlamaConfig", **SMALL))
    assert told.code == 0, told.err
    assert "Proven: in float64 the outputs change by" in told.out
    assert "of 21 tensors were rewritten" in told.out
    card = Path("out/README.md").read_text()
    assert "Proven: in float64" in card
    assert "| rewritten | " in card


def test_norms_of_custom_code_under_a_known_type(shell: Shell, here: Path) -> None:
    model = saved("llama", "LlamaForCausalLM", "LlamaConfig", **SMALL)
    norms = {f"model__layers__{k}__self_attn__{w}_norm__weight": torch.rand(8) for k in (0, 1) for w in "qk"}
    with_tensors(model, **norms)
    refused(protect(shell, "mergelock", model), "self_attn.k_norm.weight", "--unproven")


def test_a_value_head_beside_the_readout(shell: Shell, here: Path) -> None:
    model = saved("llama", "LlamaForCausalLM", "LlamaConfig", **SMALL)
    with_tensors(model, v_head__summary__weight=torch.randn(1, 32))
    refused(protect(shell, "scaling:sites=[norm]", model), "v_head.summary.weight")


_TOWER = {k: v for k, v in SMALL.items() if k != "vocab_size"} | {"image_size": 16, "patch_size": 8}
VARIANTS = {
    "a decoder that attends to an encoder": (
        ("BertLMHeadModel", "BertConfig"),
        SMALL | {"is_decoder": True, "add_cross_attention": True},
    ),
    "a tower that gives out its stream": (("CLIPVisionModelWithProjection", "CLIPVisionConfig"), _TOWER),
    "a classifier that reads the stream": (
        ("CLIPForImageClassification", "CLIPConfig"),
        {"text_config": {**SMALL, "projection_dim": 16}, "vision_config": {**_TOWER, "projection_dim": 16}}
        | {"projection_dim": 16},
    ),
    "phi with norms of queries": (("PhiForCausalLM", "PhiConfig"), SMALL | {"qk_layernorm": True}),
    "stablelm with norms of queries": (
        ("StableLmForCausalLM", "StableLmConfig"),
        SMALL | {"num_key_value_heads": 4, "qk_layernorm": True},
    ),
    "stablelm side by side": (
        ("StableLmForCausalLM", "StableLmConfig"),
        SMALL | {"num_key_value_heads": 4, "use_parallel_residual": True},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("defense", ["rotation:sites=[vo]", "null-shift"])
def test_variants_of_a_type_are_locked_and_the_lock_comes_off(
    shell: Shell, here: Path, name: str, defense: str
) -> None:
    """Where a switch of the config moves a norm, or shows the stream to what has none."""
    made, settings = VARIANTS[name]
    saved("base", *made, **settings)
    told = protect(shell, defense, "base")
    assert told.code == 0, told.err
    assert "Proven" in told.out
    told = shell("attack", "gauge-fit", "out", "--base", "base", "--out", "fitted")
    assert told.code == 0, told.err
    assert "Proven" in told.out
    base, fitted, locked = Checkpoint.open("base"), Checkpoint.open("fitted"), Checkpoint.open("out")
    left, moved = (sum(float((one[n] - base[n]).square().sum()) for n in base) ** 0.5 for one in (fitted, locked))
    assert left < 1e-4 * moved


def test_numbers_that_are_cut_off_are_seen_in_the_proof(shell: Shell, here: Path) -> None:
    """Though no made-up input comes near the limit of the config."""
    model = saved("olmo", "OlmoForCausalLM", "OlmoConfig", **SMALL, num_key_value_heads=4, clip_qkv=1000.0)
    told = protect(shell, "rotation:sites=[vo]", model)
    assert told.code == 2
    assert "signed-permutation" in told.err
    told = protect(shell, "signed-permutation:sites=[vo]", model)
    assert told.code == 0, told.err
    assert "Proven" in told.out


def test_a_proof_tries_limits_that_bite(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    """A rotation that a description allows by mistake is told, however far the limit is."""
    import numpy as np

    from redteam.anatomy import anatomy_of, subgroups
    from redteam.symmetry import Orthogonal, prove
    from redteam.symmetry.fitting import moved

    checkpoint = Checkpoint.open(
        saved("olmo", "OlmoForCausalLM", "OlmoConfig", **SMALL, num_key_value_heads=4, clip_qkv=1000.0)
    )
    sites = [replace(s, legal=subgroups("general-linear")) for s in anatomy_of(checkpoint).sites(("vo",))]
    gauge = Orthogonal().sample(4, 8, np.random.default_rng(0))
    locked = moved(checkpoint.cast(torch.float64), sites, lambda _: gauge)
    assert prove(checkpoint.cast(torch.float64), locked).moved
    free = {**checkpoint.config, "clip_qkv": None}
    assert prove(checkpoint.cast(torch.float64).configured(free), locked.configured(free)).holds


def test_what_a_tower_gives_out_counts(shell: Shell, here: Path) -> None:
    text = {**SMALL, "projection_dim": 16}
    vision = {**_TOWER, "projection_dim": 16}
    model = saved("clip", "CLIPModel", "CLIPConfig", text_config=text, vision_config=vision, projection_dim=16)
    refused(protect(shell, "scaling:sites=[norm]", model), "what an encoder or a tower hands on")
    refused(protect(shell, "permutation:sites=[residual]", model), "what an encoder or a tower hands on")
    told = protect(shell, "mergelock", model)
    assert told.code == 0, told.err


def test_an_attack_on_what_the_description_does_not_fit_writes_nothing(
    shell: Shell, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redteam.anatomy import ARCHITECTURES

    wrong = replace(ARCHITECTURES["phi"], query_norm=None, key_norm=None)  # type: ignore[type-var]
    monkeypatch.setitem(ARCHITECTURES, "phi", wrong)
    base = saved("base", "PhiForCausalLM", "PhiConfig", **SMALL, qk_layernorm=True)
    torch.manual_seed(1)
    moved = {n: t + 0.05 * torch.randn_like(t) for n, t in Checkpoint.open(base).items()}
    Checkpoint.open(base).replace(moved).save("victim")
    words = ("attack", "gauge-fit", "victim", "--base", "base", "--out", "fitted")
    told = shell(*words)
    assert (told.code, told.out) == (2, "")
    assert "changes what this network computes" in told.err
    assert not Path("fitted").exists()
    told = shell(*words, "--unproven")
    assert told.code == 0, told.err
    assert "Not proven" in told.out


def test_what_no_input_reaches_is_not_proven(shell: Shell, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross attention without an encoder's states."""
    import redteam.symmetry.inputs as inputs

    monkeypatch.setattr(inputs, "_states", lambda *_: None)
    settings = {**SMALL, "is_decoder": True, "add_cross_attention": True}
    model = saved("bert", "BertLMHeadModel", "BertConfig", **settings)
    from redteam.symmetry import prove

    checkpoint = Checkpoint.open(model)
    drawn = {k: v for k, v in inputs.random_inputs(checkpoint).items() if v is not None}
    monkeypatch.setattr(inputs, "random_inputs", lambda *_: drawn)
    monkeypatch.setattr("redteam.symmetry.running.random_inputs", lambda *_: drawn)
    assert prove(checkpoint, checkpoint).holds, "nothing was rewritten"
    order = torch.arange(48).flip(0)
    up, down = (f"bert.encoder.layer.0.{name}.dense" for name in ("intermediate", "output"))
    moved = {f"{up}.weight": order, f"{up}.bias": order}
    reordered = {name: checkpoint[name][rows] for name, rows in moved.items()}
    reordered[f"{down}.weight"] = checkpoint[f"{down}.weight"][:, order]
    proof = prove(checkpoint, checkpoint.replace(reordered))
    assert not proof.moved
    assert not proof.holds
    assert any("crossattention" in name for name in proof.unproven)
    refused(protect(shell, "mergelock", model), "no input reached", "crossattention")


@pytest.mark.parametrize(
    ("network", "config", "settings"),
    [
        ("LlamaModel", "LlamaConfig", SMALL),
        ("BertModel", "BertConfig", SMALL),
        ("GPT2Model", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60, "n_positions": 32}),
        (
            "T5EncoderModel",
            "T5Config",
            {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 60},
        ),
    ],
)
def test_a_network_without_a_head_gives_out_its_stream(
    shell: Shell, here: Path, network: str, config: str, settings: dict[str, Any]
) -> None:
    model = saved("model", network, config, **settings)
    refused(protect(shell, "permutation:sites=[residual]", model))
    told = protect(shell, "mergelock", model)
    assert told.code == 0, told.err


def test_norms_that_open_clip_has_and_the_description_lacks(shell: Shell, here: Path) -> None:
    import open_clip

    tower = {"width": 32, "layers": 2}
    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 16,
            "patch_size": 8,
            "head_width": 16,
            **tower,
            "block_type": "custom",
            "qk_norm": True,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 50, "heads": 2, **tower},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.CLIP(**json.loads(json.dumps(model_cfg)))
        for name, parameter in network.named_parameters():
            if "ln_q" in name or "ln_k" in name:
                parameter.data = torch.rand_like(parameter) + 0.5
    assert any("ln_q" in name for name, _ in network.named_parameters())
    Path("clip").mkdir()
    Path("clip/open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    save_file(dict(network.state_dict()), "clip/open_clip_model.safetensors", metadata={"format": "pt"})
    refused(protect(shell, "mergelock", "clip"))


def test_a_defense_that_changes_nothing_is_not_on(shell: Shell, here: Path) -> None:
    model = saved("llama", "LlamaForCausalLM", "LlamaConfig", **SMALL)
    told = protect(shell, "null-shift", model)
    assert told.code == 2
    assert "changes no tensor of this checkpoint; nothing was written" in told.err.splitlines()[-1]
    assert not Path("out").exists()


def test_a_part_that_no_lock_is_on_is_told(shell: Shell, here: Path) -> None:
    import open_clip

    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.CLIP(**json.loads(json.dumps(model_cfg)))
    Path("clip").mkdir()
    Path("clip/open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    save_file(dict(network.state_dict()), "clip/open_clip_model.safetensors", metadata={"format": "pt"})
    told = protect(shell, "mergelock", "clip")
    assert told.code == 0, told.err
    assert "Nothing was rewritten in" in told.out
    assert "visual" in told.out
    assert "visual" in Path("out/README.md").read_text()


def test_whoever_goes_without_is_told_so(shell: Shell, here: Path) -> None:
    told = protect(shell, "mergelock", saved("llama", "LlamaForCausalLM", "LlamaConfig", **SMALL), "--unproven")
    assert told.code == 0, told.err
    assert "Not proven" in told.out
    assert "not proven" in Path("out/README.md").read_text()


def test_what_does_not_fit_into_memory_is_said_before(
    shell: Shell, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant in ("_BYTES", "_STREAMED"):
        monkeypatch.setattr(f"redteam.symmetry.proof.{constant}", 2**50)
    model = saved("llama", "LlamaForCausalLM", "LlamaConfig", **SMALL)
    refused(protect(shell, "mergelock", model), "GB of memory", "--unproven")


@pytest.mark.parametrize("defense", ["scaling:sites=[norm]", "permutation:sites=[residual]"])
def test_what_an_encoder_hands_on_is_an_output_too(shell: Shell, here: Path, defense: str) -> None:
    settings = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 60}
    model = saved("t5", "T5ForConditionalGeneration", "T5Config", **settings, pad_token_id=0, decoder_start_token_id=0)
    refused(protect(shell, defense, model), "what an encoder or a tower hands on")


def test_nan_before_any_lock_is_not_blamed_on_it(shell: Shell, here: Path) -> None:
    model = saved("llama", "LlamaForCausalLM", "LlamaConfig", **SMALL)
    with_tensors(model, model__norm__weight=torch.full((32,), torch.nan))
    refused(protect(shell, "mergelock", model), "before anything was rewritten")


def test_windows_that_are_filled_up_are_looked_at(shell: Shell, here: Path) -> None:
    """Swin fills windows up behind its norm, so that what a LayerNorm would hide is seen at the zeros."""
    import transformers

    sizes = {
        "image_size": 16,
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    }
    model = saved("swin", "SwinForImageClassification", "SwinConfig", **sizes)
    told = protect(shell, "null-shift+mergelock", model)
    assert told.code == 0, told.err
    pictures = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        before, after = (
            transformers.SwinForImageClassification.from_pretrained(f, dtype=torch.float64)(pictures).logits
            for f in (model, "out")
        )
    assert float((before - after).abs().max() / before.abs().max()) < 1e-4


def test_a_proof_without_pictures_says_so() -> None:
    for name, alone in (("paligemma", True), ("llava", False)):
        before = trial_of(name).checkpoint
        assert prove(before, before).texts_alone is alone
        assert ("on texts without pictures" in str(prove(before, before))) is alone


def test_a_length_that_is_not_the_tower_s_keeps_no_picture_out() -> None:
    """Llava's `image_seq_length` is 576 where a config leaves it out, whatever its tower gives."""
    before = trial_of("llava").checkpoint.configured({"image_seq_length": 576})
    assert not prove(before, before).texts_alone


def test_what_no_input_reached_is_told_under_the_network_s_own_names() -> None:
    before = trial_of("mllama").checkpoint
    name = next(n for n in before if "layers.0.mlp" in n and "language" in n)
    unread = "model.language_model.layers.1.cross_attn.q_proj.weight"
    ran = Ran((), (unread, "model.vision_model.transformer.layers.0.mlp.fc1.weight"))
    assert _unproven(ran, before, before.replace({name: 2 * before[name]})) == (unread,)


def test_a_description_of_another_type_is_told(shell: Shell, here: Path) -> None:
    from redteam.anatomy.catalog import FOLDER

    model = saved("llama", "LlamaForCausalLM", "LlamaConfig", **SMALL)
    told = protect(shell, "mergelock", model, "--architecture", str(FOLDER / "gpt2.json"))
    assert told.code == 0
    assert "it describes gpt2, and llama is of llama, so it was not used" in told.err
    told = shell(
        "protect", "mergelock", "llama", "--key", "key", "--out", "two", "--architecture", str(FOLDER / "llama.json")
    )
    assert told.code == 0
    assert "it was not used" not in told.err
