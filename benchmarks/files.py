"""What `merge`, `protect` and `attack` cost on files of a real size, each in a process of its own.

Three bfloat16 Llamas of half a billion parameters in three shards, as ratios against a plain tensor-by-tensor copy and
against mergekit in the same run. Set MERGEKIT to a Python that has mergekit to be compared with it; parts can be named:
`python benchmarks/files.py merge`. Time is that of the whole process, memory its largest resident set.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import Line

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
SHARDS, REPEATS = 3, 3
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


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds, and gigabytes at most resident."""

    seconds: float
    gigabytes: float


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


def make(folder: Path, layers: int, seed: int, base: Path | None = None) -> None:
    """The same, in this process."""
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


def make_form(folder: Path, name: str, base: Path | None = None) -> None:
    """A random network of one of `FORMS` as transformers saves it in bfloat16, or one a little away from a base."""
    import torch
    import transformers

    settings = dict(FORMS[name])
    made_of = getattr(transformers, settings["architectures"][0])
    torch.manual_seed(0 if base is None else 1)
    if base is None:
        torch.set_default_dtype(torch.bfloat16)
        network = made_of(transformers.AutoConfig.for_model(**settings))
    else:
        network = made_of.from_pretrained(base, dtype=torch.bfloat16)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.002 * torch.randn_like(weight)
    network.save_pretrained(folder, max_shard_size="400MB")


def copy(source: Path, target: Path) -> None:
    """The peer: every tensor read through safetensors and written again, one at a time."""
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


def spent(words: Sequence[str | Path]) -> Cost:
    """Runs a process to its end."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile() as told:
        started = time.perf_counter()
        child = subprocess.Popen([str(word) for word in words], stdout=told, stderr=told, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            told.seek(0)
            raise SystemExit(f"{' '.join(map(str, words))} failed:\n{told.read().decode(errors='replace')[-3000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, usage.ru_maxrss * unit / 1e9)


def costs(
    commands: Mapping[str, Callable[[Path], Sequence[str | Path]]], work: Path
) -> Iterator[tuple[str, list[Cost]]]:
    """What each command costs, several times, one after the other in turn; what it writes is removed at once.

    Yields each command with its costs as soon as it ran for the last time; the one named first is known first.
    """
    import shutil

    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for turn in range(1, REPEATS + 1):
        for name, words in commands.items():
            out = work / "out"
            cost = spent(words(out))
            shutil.rmtree(out)
            print(f"{name}, run {turn} of {REPEATS}: {cost.seconds:.1f} s", file=sys.stderr, flush=True)
            found[name].append(cost)
            if turn == REPEATS:
                yield name, found[name]


def against(what: str, mine: list[Cost], peer: list[Cost], time_limit: float, memory_limit: float) -> Iterator[Line]:
    """Both ratios, pair by pair."""
    times = [one.seconds / other.seconds for one, other in zip(mine, peer, strict=True)]
    yield Line(f"{what}: time", statistics.median(times), (min(times), max(times)), time_limit)
    sizes = [one.gigabytes / other.gigabytes for one, other in zip(mine, peer, strict=True)]
    yield Line(f"{what}: peak memory", statistics.median(sizes), (min(sizes), max(sizes)), memory_limit)


def plain(what: str, found: list[Cost], limit: float | None = None) -> Iterator[Line]:
    """Seconds and gigabytes themselves."""
    seconds, sizes = ([getattr(one, key) for one in found] for key in ("seconds", "gigabytes"))
    yield Line(f"{what}: seconds", statistics.median(seconds), (min(seconds), max(seconds)))
    yield Line(f"{what}: peak memory in GB", max(sizes), (min(sizes), max(sizes)), limit)


def redteam(*words: str | Path) -> list[str | Path]:
    """The command as a user calls it."""
    return [Path(sys.executable).with_name("redteam"), *words]


@dataclass(frozen=True)
class Method:
    """One merge by both tools.

    Attributes:
        mine: What redteam calls it.
        name: What mergekit calls it.
        settings: mergekit's parameters for all models together, inside a YAML mapping.
        of: Those for each model, likewise.
        experts: How many there are.
        based: Whether mergekit is given the base; without, the first expert stands in its place.
        limit: Of the time, over mergekit's.
    """

    mine: str
    name: str
    settings: str = ""
    of: str = "weight: 1.0"
    experts: int = 3
    based: bool = True
    limit: float = 1.0


METHODS = (
    Method("task-arithmetic:coefficient=0.3", "task_arithmetic", of="weight: 0.3", limit=0.6),
    Method("ties:variant=mergekit,density=0.5", "ties", "normalize: true", "density: 0.5, weight: 1.0"),
    Method("slerp", "slerp", "t: 0.5", experts=2, based=False),
    Method("dare:variant=mergekit,density=0.5", "dare_linear", "lambda: 0.3", "density: 0.5, weight: 1.0"),
    Method("della:variant=mergekit,density=0.5", "della", "lambda: 1.1", "density: 0.5, weight: 1.0, epsilon: 0.07"),
    Method("model-stock", "model_stock"),
)


def merging(work: Path) -> Iterator[Line]:
    """The merges that people run most, against mergekit where there is one."""
    base = made(work / "base", LAYERS, 0)
    experts = [made(work / f"expert{seed}", LAYERS, seed, base) for seed in (1, 2, 3)]
    yield Line("parameters of a model, in billions", _parameters(LAYERS))
    python = os.environ.get("MERGEKIT")
    commands: dict[str, Callable[[Path], Sequence[str | Path]]] = {
        "copy": lambda out: [sys.executable, __file__, "copy", base, out]
    }
    for method in METHODS:
        chosen = experts[: method.experts]
        given = [word for path in chosen for word in ("--expert", path)]
        commands[method.mine] = lambda out, mine=method.mine, given=given: redteam(  # type: ignore[misc]
            "merge", mine, "--base", base, *given, "--out", out
        )
        if python:
            models = "".join(f"  - model: {path}\n    parameters: {{{method.of}}}\n" for path in chosen)
            plan = work / f"{method.name}.yaml"
            plan.write_text(
                f"merge_method: {method.name}\nbase_model: {base if method.based else chosen[0]}\nmodels:\n{models}"
                f"parameters: {{{method.settings}}}\ndtype: bfloat16\n"
            )
            tool = Path(python).with_name("mergekit-yaml")
            commands[f"mergekit {method.name}"] = lambda out, plan=plan, tool=tool: [  # type: ignore[misc]
                tool, plan, out, "--no-copy-tokenizer"
            ]  # fmt: skip
    found: dict[str, list[Cost]] = {}
    for name, runs in costs(commands, work):
        found[name] = runs
        yield from plain(name, runs)
    if not python:
        print("MERGEKIT names no Python that has mergekit; nothing to compare the merges with.", file=sys.stderr)
        return
    for method in METHODS:
        mine, peer = found[method.mine], found[f"mergekit {method.name}"]
        yield from against(f"{method.mine} ÷ mergekit", mine, peer, method.limit, 0.5)


def rewriting(work: Path) -> Iterator[Line]:
    """A lock and a fit, against a copy, and with twice the layers."""
    runs: dict[int, dict[str, list[Cost]]] = {}
    for times in (1, 2):
        base = made(work / f"base{times}", times * LAYERS, 0)
        victim = made(work / f"victim{times}", times * LAYERS, 1, base)
        key, locked = work / f"key{times}", work / f"locked{times}"
        spent(redteam("protect", "mergelock", victim, "--key", key, "--out", locked, "--unproven"))
        commands: dict[str, Callable[[Path], Sequence[str | Path]]] = {
            "copy": lambda out, one=victim: [sys.executable, __file__, "copy", one, out],  # type: ignore[misc]
            "protect mergelock": lambda out, one=victim, key=key: redteam(  # type: ignore[misc]
                "protect", "mergelock", one, "--key", key, "--out", out, "--unproven"
            ),
            "attack gauge-fit": lambda out, one=locked, base=base: redteam(  # type: ignore[misc]
                "attack", "gauge-fit", one, "--base", base, "--out", out, "--unproven"
            ),
        }
        runs[times] = dict(costs(commands, work))
    once, twice = runs[1], runs[2]
    for name in once:
        yield from plain(name, once[name], None if name == "copy" else 1.5)
    for name in ("protect mergelock", "attack gauge-fit"):
        ratios = [one.seconds / other.seconds for one, other in zip(once[name], once["copy"], strict=True)]
        yield Line(f"{name} ÷ copy: time", statistics.median(ratios), (min(ratios), max(ratios)), 4.0)
        yield from against(f"{name}, twice the layers ÷ once", twice[name], once[name], 2.2, 1.05)


def forms(work: Path) -> Iterator[Line]:
    """A lock, a fit and a merge of what is stored otherwise than a Llama, against a copy."""
    for name in FORMS:
        base, victim, key, locked = (work / f"{one}-{name.split()[0]}" for one in ("base", "victim", "key", "locked"))
        spent([sys.executable, __file__, "form", base, name])
        spent([sys.executable, __file__, "form", victim, name, base])
        spent(redteam("protect", "mergelock", victim, "--key", key, "--out", locked, "--unproven"))
        commands: dict[str, Callable[[Path], Sequence[str | Path]]] = {
            "copy": lambda out, one=victim: [sys.executable, __file__, "copy", one, out],  # type: ignore[misc]
            "protect mergelock": lambda out, one=victim, key=key: redteam(  # type: ignore[misc]
                "protect", "mergelock", one, "--key", key, "--out", out, "--unproven"
            ),
            "protect mergelock, with its proof": lambda out, one=victim, key=key: redteam(  # type: ignore[misc]
                "protect", "mergelock", one, "--key", key, "--out", out
            ),
            "attack gauge-fit": lambda out, one=locked, base=base: redteam(  # type: ignore[misc]
                "attack", "gauge-fit", one, "--base", base, "--out", out, "--unproven"
            ),
            "attack gauge-fit, with its proof": lambda out, one=locked, base=base: redteam(  # type: ignore[misc]
                "attack", "gauge-fit", one, "--base", base, "--out", out
            ),
            "merge task-arithmetic": lambda out, one=victim, base=base: redteam(  # type: ignore[misc]
                "merge", "task-arithmetic", "--base", base, "--expert", one, "--out", out
            ),
        }
        copied: list[Cost] = []
        for what, found in costs(commands, work):
            yield from plain(f"{name}: {what}", found, None if what == "copy" else 1.5)
            copied = copied or found
            if what != "copy":
                ratios = [one.seconds / other.seconds for one, other in zip(found, copied, strict=True)]
                yield Line(f"{name}: {what} ÷ copy: time", statistics.median(ratios), (min(ratios), max(ratios)))


def _parameters(layers: int) -> float:
    import math

    return sum(math.prod(shape) for shape in shapes(layers).values()) / 1e9


def main() -> None:
    """Prints every line as soon as it is known."""
    parts = {"merge": merging, "rewrite": rewriting, "forms": forms}
    for name in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory(prefix="redteam-files-") as folder:
            for line in parts[name](Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["copy"]:
        copy(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *map(Path, sys.argv[5:]))
    elif sys.argv[1:2] == ["form"]:
        make_form(Path(sys.argv[2]), sys.argv[3], *map(Path, sys.argv[4:]))
    else:
        main()
