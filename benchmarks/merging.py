"""What merges cost on files of a real size, each in a process of its own: `python benchmarks/merging.py`.

Six merges of bfloat16 Llamas of half a billion weights in three shards beside a plain copy and mergekit, and TSV-M of
vision towers of CLIP ViT-B/32 beside FusionBench. Set MERGEKIT and FUSION_BENCH to Pythons that have them to be
compared with them; parts can be named, as in `python benchmarks/merging.py tsv-m`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import Line
from models import LAYERS, copied, made, made_form, parameters
from processes import Command, Cost, against, costs, plain, redteam, tell


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


def popular(work: Path) -> Iterator[Line]:
    """The merges that people run most, beside mergekit's."""
    base = made(work / "base", LAYERS, 0)
    experts = [made(work / f"expert{seed}", LAYERS, seed, base) for seed in (1, 2, 3)]
    yield Line("parameters of a model, in billions", parameters(LAYERS))
    python = os.environ.get("MERGEKIT")
    commands: dict[str, Command] = {"copy": lambda out: copied(base, out)}
    for method in METHODS:
        chosen = experts[: method.experts]
        commands[method.mine] = _mine(method.mine, base, chosen)
        if python:
            commands[f"mergekit {method.name}"] = _mergekit(method, Path(python), base, chosen, work)
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


_TSV_M = """
import sys
from transformers import CLIPVisionModel
from fusion_bench import BaseModelPool
from fusion_bench.method.task_singular_vector import TaskSingularVectorMerging
out, base, *experts = sys.argv[1:]
pool = {"_pretrained_": base} | {f"expert{n}": path for n, path in enumerate(experts)}
pool = BaseModelPool({name: CLIPVisionModel.from_pretrained(path) for name, path in pool.items()})
TaskSingularVectorMerging().run(pool).save_pretrained(out)
"""


def tsv_m(work: Path) -> Iterator[Line]:
    """TSV-M, most of which is singular values, beside FusionBench's on the processor."""
    base = made_form(work / "base", "vision")
    experts = [made_form(work / f"expert{seed}", "vision", seed, base) for seed in (1, 2, 3)]
    commands: dict[str, Command] = {"tsv-m": _mine("tsv-m", base, experts)}
    python = os.environ.get("FUSION_BENCH")
    if python:
        commands["FusionBench TSV-M"] = lambda out: [python, "-c", _TSV_M, out, base, *experts]
    found: dict[str, list[Cost]] = {}
    for name, runs in costs(commands, work):
        found[name] = runs
        yield from plain(name, runs)
    if python:
        yield from against("tsv-m ÷ FusionBench", found["tsv-m"], found["FusionBench TSV-M"], 1.0, 0.5)
    else:
        print("FUSION_BENCH names no Python that has FusionBench; nothing to compare tsv-m with.", file=sys.stderr)


def _mine(merger: str, base: Path, experts: Sequence[Path]) -> Command:
    given = [word for path in experts for word in ("--expert", path)]
    return lambda out: redteam("merge", merger, "--base", base, *given, "--out", out)


def _mergekit(method: Method, python: Path, base: Path, experts: Sequence[Path], work: Path) -> Command:
    models = "".join(f"  - model: {path}\n    parameters: {{{method.of}}}\n" for path in experts)
    plan = work / f"{method.name}.yaml"
    plan.write_text(
        f"merge_method: {method.name}\nbase_model: {base if method.based else experts[0]}\nmodels:\n{models}"
        f"parameters: {{{method.settings}}}\ndtype: bfloat16\n"
    )
    return lambda out: [python.with_name("mergekit-yaml"), plan, out, "--no-copy-tokenizer"]


if __name__ == "__main__":
    tell({"popular": popular, "tsv-m": tsv_m})
