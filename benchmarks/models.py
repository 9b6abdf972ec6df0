"""Random models of half a billion weights for benchmarks of whole commands, each made in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from processes import spent

LAYERS = 28
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1280,
    "intermediate_size": 3456,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SHARDS = 3
_DECODER = {
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 1536,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
FORMS: Mapping[str, Mapping[str, Any]] = {
    "experts in one tensor": {
        "architectures": ["GraniteMoeForCausalLM"],
        "model_type": "granitemoe",
        **_DECODER,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": True,
    },
    "a vision tower in front": {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": {"model_type": "llama", **_DECODER, "num_hidden_layers": 16, "intermediate_size": 2816},
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        },
        "image_token_index": 31999,
    },
}
"""Half a billion weights each, in the forms that a Llama does not have."""
VISION = {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", "dtype": "float32"}
"""The vision tower of CLIP ViT-B/32, 87 million weights: transformers' defaults."""


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes, in the order in which they are saved."""
    width, neurons, vocabulary = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    keys = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]  # type: ignore[operator]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}  # type: ignore[dict-item]
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        found |= {  # type: ignore[assignment]
            f"{stem}.input_layernorm.weight": (width,),
            f"{stem}.mlp.down_proj.weight": (width, neurons),
            f"{stem}.mlp.gate_proj.weight": (neurons, width),
            f"{stem}.mlp.up_proj.weight": (neurons, width),
            f"{stem}.post_attention_layernorm.weight": (width,),
            f"{stem}.self_attn.k_proj.weight": (keys, width),
            f"{stem}.self_attn.o_proj.weight": (width, width),
            f"{stem}.self_attn.q_proj.weight": (width, width),
            f"{stem}.self_attn.v_proj.weight": (keys, width),
        }
    return found | {"model.norm.weight": (width,)}  # type: ignore[dict-item]


def made(folder: Path, layers: int, seed: int, base: Path | None = None) -> Path:
    """A random Llama in shards, or one a little away from a base.

    In a process of its own: Linux counts into a child's peak what its parent held when it was started.
    """
    spent([sys.executable, __file__, "make", folder, str(layers), str(seed), *([base] if base else [])])
    return folder


def made_form(folder: Path, name: str, seed: int = 0, base: Path | None = None) -> Path:
    """A random network of one of `FORMS` or "vision", or one a little away from a base; in a process of its own."""
    spent([sys.executable, __file__, "form", folder, name, str(seed), *([base] if base else [])])
    return folder


def copied(source: Path, target: Path) -> list[str | Path]:
    """The peer as a command: every tensor read through safetensors and written again, one at a time."""
    return [sys.executable, __file__, "copy", source, target]


def make(folder: Path, layers: int, seed: int, base: Path | None = None) -> None:
    """What `made` makes."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    names = list(shapes(layers).items())
    each = -(-len(names) // SHARDS)
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        tensors = {}
        for name, shape in names[shard * each : (shard + 1) * each]:
            noise = torch.randn(shape, generator=generator)
            if base is not None:
                with safe_open(base / file, framework="pt") as opened:
                    noise = opened.get_tensor(name).float() + 0.002 * noise
            else:
                noise = 1 + 0.1 * noise if len(shape) == 1 else noise * 0.02
            tensors[name] = noise.bfloat16()
            weight_map[name] = file
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}, indent=1))


def make_form(folder: Path, name: str, seed: int = 0, base: Path | None = None) -> None:
    """What `made_form` makes, as transformers saves it; in bfloat16 unless its settings say otherwise."""
    import torch
    import transformers

    settings = {"dtype": "bfloat16", **(VISION if name == "vision" else FORMS[name])}
    dtype = getattr(torch, settings["dtype"])
    made_of = getattr(transformers, settings["architectures"][0])
    torch.manual_seed(seed)
    if base is None:
        torch.set_default_dtype(dtype)
        network = made_of(transformers.AutoConfig.for_model(**settings))
    else:
        network = made_of.from_pretrained(base, dtype=dtype)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.002 * torch.randn_like(weight)
    network.save_pretrained(folder, max_shard_size="400MB")


def copy(source: Path, target: Path) -> None:
    """What `copied` does."""
    import struct

    import torch
    from safetensors import safe_open

    target.mkdir()
    for path in sorted(source.glob("*.safetensors")):
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            head = file.read(length)
        header = json.loads(head)
        header.pop("__metadata__", None)
        with safe_open(path, framework="pt") as opened, (target / path.name).open("wb") as out:
            out.write(struct.pack("<Q", length) + head)
            for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
                out.write(opened.get_tensor(name).view(torch.uint8).numpy().data)


def parameters(layers: int) -> float:
    """Of a Llama, in billions."""
    import math

    return sum(math.prod(shape) for shape in shapes(layers).values()) / 1e9


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["copy", source, target]:
            copy(Path(source), Path(target))
        case ["make", folder, layers, seed, *base]:
            make(Path(folder), int(layers), int(seed), *map(Path, base))
        case ["form", folder, name, seed, *base]:
            make_form(Path(folder), name, int(seed), *map(Path, base))
