"""Makes the weights that ship, and the tables in README.md.

python -m redteam_scenarios.digits.make ship          trains seed 0 and puts it into the package
python -m redteam_scenarios.digits.make table 0 1 2   measures seeds, training those that the cache lacks
python -m redteam_scenarios.digits.make drift 0 1     measures the victims that were trained on, training likewise
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from redteam.checkpoint import Checkpoint
from redteam_scenarios.caching import cache_root
from redteam_scenarios.digits.cache import SHIPPED, ensure_grown, load, train
from redteam_scenarios.digits.growth import Grown, record
from redteam_scenarios.digits.recipe import CLASSES, VICTIM, Recipe
from redteam_scenarios.measure import Measured, mean, measure

GROWTHS = (1.0, 2.0, 4.0, 8.0)


def ship() -> None:
    """Trains seed 0 anew and writes it, with what was measured, into the package."""
    recipe = Recipe()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        train(recipe, 0, work)
        (work / "data.safetensors").unlink()
        manifest = {
            "recipe": recipe.constants(),
            "made with": {"torch": torch.__version__.partition("+")[0]},
            "digests": {part: Checkpoint.open(work / part).digest() for part in ("base", *CLASSES)},
        }
        (work / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(SHIPPED, ignore_errors=True)
        shutil.copytree(work, SHIPPED)
    shutil.rmtree(cache_root() / "digits" / f"seed0-{recipe.address(0)}", ignore_errors=True)
    manifest["measured"] = dataclasses.asdict(measure(load(recipe, seed=0)))
    partial = SHIPPED / "manifest.json.partial"
    partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, SHIPPED / "manifest.json")


def row(seed: int, measured: Measured) -> str:
    """One line of the table."""

    def each(scores: dict[str, float]) -> str:
        return " / ".join(f"{scores[task]:.2f}" for task in CLASSES)

    return (
        f"| {seed} | {each(measured.experts)} | {each(measured.base)} | {mean(measured.base):.3f} "
        f"| {measured.coefficient} | {each(measured.merged)} | {mean(measured.merged):.3f} "
        f"| {each(measured.without)} | {measured.gain:.3f} |"
    )


def drift(seed: int, growth: float) -> str:
    """One line of the table of victims that were trained on."""
    recipe = Recipe()
    measured = measure(load(recipe, seed=seed, growth=growth))
    ordinary = Grown(growth=1.0, ratio=1.0, steps=0, rate=recipe.tuning_rate)
    grown = ordinary if growth == 1 else record(ensure_grown(recipe, seed, growth))
    companions = {task: n for task, n in measured.merged.items() if task != VICTIM}
    return (
        f"| {seed} | {growth:g} | {grown.steps} | {grown.rate:g} | {grown.ratio:.3f} | {measured.experts[VICTIM]:.3f} "
        f"| {measured.coefficient} | {measured.merged[VICTIM]:.2f} | {mean(companions):.2f} | {measured.gain:.3f} |"
    )


def main(arguments: list[str]) -> int:
    """Runs the command."""
    what, *rest = arguments or [""]
    seeds = [int(seed) for seed in rest or ["0"] if seed.isdecimal()]
    if arguments == ["ship"]:
        ship()
    elif what == "drift" and len(seeds) == len(rest or ["0"]):
        for seed in seeds:
            for growth in GROWTHS:
                print(drift(seed, growth), flush=True)  # noqa: T201
    elif what == "table" and len(seeds) == len(rest or ["0"]):
        for seed in seeds:
            print(row(seed, measure(load(Recipe(), seed=seed))), flush=True)  # noqa: T201
    else:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
