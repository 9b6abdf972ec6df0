"""Makes the weights that ship, and the table in README.md.

python -m redteam_scenarios.digits.make ship          trains seed 0 and puts it into the package
python -m redteam_scenarios.digits.make table 0 1 2   measures seeds, training those that the cache lacks
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
from redteam_scenarios.digits.cache import SHIPPED, cache_root, load, train
from redteam_scenarios.digits.measure import Measured, mean, measure
from redteam_scenarios.digits.recipe import CLASSES, Recipe


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


def main(arguments: list[str]) -> int:
    """Runs the command."""
    if arguments == ["ship"]:
        ship()
    elif arguments[:1] == ["table"] and all(seed.isdecimal() for seed in arguments[1:]):
        for seed in map(int, arguments[1:] or ["0"]):
            print(row(seed, measure(load(Recipe(), seed=seed))), flush=True)  # noqa: T201
    else:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
