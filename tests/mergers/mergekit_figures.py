"""Writes mergekit.json: what mergekit's own functions make of drawn tensors. Run it where mergekit can be imported."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

VERSION = "a6e402884ba9bc30da7f23e8304a35f19485de95"
TASKS = ("left", "right", "victim")
SHAPES = {"square": (6, 5), "flat": (9,)}


def part(name: str) -> Any:
    return importlib.import_module(f"mergekit.merge_methods.{name}")


def drawn() -> dict[str, dict[str, torch.Tensor]]:
    draws = np.random.default_rng(0)
    base = {n: torch.from_numpy(draws.standard_normal(shape)).float() for n, shape in SHAPES.items()}
    made = {"base": base}
    for task in TASKS:
        # A fifth of the entries stays as it was, so that some are changed by one expert alone.
        deltas = {n: 0.3 * draws.standard_normal(s) * (draws.random(s) < 0.8) for n, s in SHAPES.items()}
        made[task] = {n: base[n] + torch.from_numpy(delta).float() for n, delta in deltas.items()}
    return made


def stock(tensors: list[torch.Tensor], base: torch.Tensor, *, rows: bool) -> torch.Tensor:
    task = SimpleNamespace(base_model="base", filter_wise=rows, get_rectified_weights=lambda _: (base, tensors))
    return part("model_stock").ModelStockMergeTask.execute(
        task, {"base": base, **dict(zip(TASKS, tensors, strict=True))}
    )


def fused(tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    home = part("arcee_fusion")
    scores = home.ArceeFusionMergeTask._compute_importance(None, tensor, base)
    mask, _ = home.DynamicThresholdFusion().compute_fusion_mask(scores)
    return base + (tensor - base) * mask


def crumbs(tensors: list[torch.Tensor], base: torch.Tensor, *, elect: bool) -> torch.Tensor:
    outliers = importlib.import_module("mergekit.sparsify").magnitude_outliers
    deltas = torch.stack([outliers(tensor - base, density=0.5, gamma=0.2) for tensor in tensors])
    mask = part("generalized_task_arithmetic").get_mask(deltas) if elect else torch.ones_like(deltas)
    return base + 0.7 * (deltas * mask).sum(0)


def figures(name: str, made: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What each merger makes of the tensor of a name."""
    base, (left, right, victim) = made["base"][name], (made[task][name] for task in TASKS)
    three = [left, right, victim]
    nu = part("nuslerp").nuslerp
    tables = {
        "slerp": part("slerp").slerp(0.5, left, right),
        "slerp:weights=[[right,3.0]]": part("slerp").slerp(0.75, left, right),
        "nuslerp:weights=[[right,3.0]]": base + nu(0.75, left - base, right - base, flatten=True),
        "multislerp": part("multislerp").multislerp([t.clone() for t in three], [1.0, 1.0, 1.0]),
        "multislerp:weights=[[left,3.0]]": part("multislerp").multislerp([t.clone() for t in three], [3.0, 1.0, 1.0]),
        "karcher": part("karcher").karcher_merge_tensors(three, [1 / 3] * 3),
        "model-stock": stock(three, base, rows=False),
        "model-stock:by=row": stock(three, base, rows=True),
        "sce:variant=mergekit": part("sce").sce_merge(three, base),
        "sce:variant=mergekit,density=0.5": part("sce").sce_merge(three, base, select_topk=0.5),
        "arcee-fusion": fused(left, base),
        "nearswap:t=0.1": part("nearswap").nearswap_merge([left], base, 0.1),
        "ram": part("ram").ram_merge(three, base),
        "ramplus:variant=mergekit": part("ram").ramplus_tl_merge(three, base),
        "breadcrumbs:density=0.5,gamma=0.2,coefficient=0.7": crumbs(three, base, elect=False),
        "breadcrumbs:elect=true,density=0.5,gamma=0.2,coefficient=0.7": crumbs(three, base, elect=True),
    }
    if base.ndim > 1:
        tables["nuslerp:along=last"] = base + nu(0.5, left - base, right - base)
        tables["nuslerp:along=first"] = base + nu(0.5, left - base, right - base, dim=0)
    return tables


def main() -> None:
    made = drawn()
    out: dict[str, dict[str, Any]] = {}
    for name in SHAPES:
        for text, tensor in figures(name, made).items():
            out.setdefault(text, {})[name] = tensor.tolist()
    inputs = {who: {n: t.tolist() for n, t in tensors.items()} for who, tensors in made.items()}
    target = Path(sys.argv[1])
    target.write_text(json.dumps({"mergekit": VERSION, "inputs": inputs, "outputs": out}) + "\n")


if __name__ == "__main__":
    main()
