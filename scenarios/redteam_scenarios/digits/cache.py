"""What is in the user's cache: one folder per recipe and seed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from redteam.checkpoint import Checkpoint
from redteam.events import Steps
from redteam.tasks import Classification, Scenario
from redteam_scenarios.caching import cache_root, read, save, whole, write
from redteam_scenarios.digits import growth as growing
from redteam_scenarios.digits.data import collect, pixels
from redteam_scenarios.digits.recipe import CLASSES, VICTIM, Recipe
from redteam_scenarios.digits.training import finetune, pretrain
from redteam_scenarios.together import fixed_threads

SHIPPED = Path(__file__).with_name("seed0")


def load(recipe: Recipe, *, seed: int, growth: float = 1.0, summary: str = "") -> Scenario:
    """The scenario from its folder in the cache, which is made first where it is missing.

    Args:
        recipe: Every number it is made from.
        seed: Which retraining.
        growth: How many times as long as the ordinary victim's the victim's task vector is (see `growth.grow`).
        summary: Of the scenario.

    Raises:
        UnwritableOutput: If the cache cannot be written.
        BadInput: If what lies there cannot be read.
        BadSetting: If the growth cannot be reached.
    """
    folder = ensure(recipe, seed)
    data = read(folder / "data.safetensors")
    homes = dict.fromkeys(CLASSES, folder)
    if growth != 1:
        homes[VICTIM] = ensure_grown(recipe, seed, growth)
    return Scenario(
        name="digits",
        seed=seed,
        base=Checkpoint.open(folder / "base"),
        experts={task: Checkpoint.open(home / task) for task, home in homes.items()},
        tasks={
            task: Classification(
                name=task,
                chance=1 / len(CLASSES[task]),
                inputs={split: {"pixel_values": pixels(data[f"{task}/{split}/images"])} for split in recipe.counts},
                labels={split: data[f"{task}/{split}/labels"].long() for split in recipe.counts},
            )
            for task in CLASSES
        },
        victim=VICTIM,
        summary=summary,
    )


def ensure(recipe: Recipe, seed: int) -> Path:
    """The folder with `base`, an expert per task and `data.safetensors`, which is made first where it is missing.

    What ships is copied, the rest is trained. Any number of processes may do this at once; the first to finish wins.

    Raises:
        UnwritableOutput: If the cache cannot be written.
    """
    shipped = shipped_weights(recipe) if seed == 0 else None
    folder = cache_root() / "digits" / f"seed{seed}-{recipe.address(seed)}{shipped or ''}"
    if folder.is_dir():
        return folder
    with whole(folder) as work:
        if shipped:
            with fixed_threads(recipe.threads):
                write(work / "data.safetensors", collect(recipe, seed))
            for name in ("base", *CLASSES):
                shutil.copytree(SHIPPED / name, work / name)
        else:
            train(recipe, seed, work)
    return folder


def ensure_grown(recipe: Recipe, seed: int, growth: float) -> Path:
    """The folder with a victim that was trained on and `growth.json`, which is made first where it is missing.

    The ordinary seed's folder, which `ensure` gives, stays as it is.

    Args:
        recipe: The ordinary victim's.
        seed: Which retraining.
        growth: See `growth.grow`.

    Raises:
        UnwritableOutput: If the cache cannot be written.
        BadInput: If what lies in the ordinary folder cannot be read.
        BadSetting: If the growth cannot be reached.
    """
    ordinary = ensure(recipe, seed)
    base, victim = (Checkpoint.open(ordinary / part) for part in ("base", VICTIM))
    origin = {"ordinary": ordinary.name, "base": base.digest(), "victim": victim.digest()}
    folder = ordinary.with_name(f"seed{seed}-growth{growth:g}-{growing.address(growth, origin)}")
    if folder.is_dir():
        return folder
    data = read(ordinary / "data.safetensors")
    title = f"digits, seed {seed}, growth {growth:g}"
    with whole(folder) as work, fixed_threads(recipe.threads), Steps(title, 100) as training:
        model = victim.module()
        grown = growing.grow(recipe, seed, growth, base.module(), model, data, lambda way: training.reach(way, VICTIM))
        save(model, work / VICTIM)
        growing.write(work, grown)
    return folder


def shipped_weights(recipe: Recipe) -> str | None:
    """A short digest of the weights in the package, `None` unless they were made from these numbers."""
    try:
        manifest = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if manifest["recipe"] != recipe.constants():
        return None
    return hashlib.sha256(json.dumps(manifest["digests"], sort_keys=True).encode()).hexdigest()[:8]


def train(recipe: Recipe, seed: int, folder: Path) -> None:
    """Draws the data, trains base and experts, and writes them into an existing folder.

    The generators of torch, numpy and Python stay as they were.
    """
    total = recipe.pretraining_steps + sum(recipe.tuning_steps.values())
    with fixed_threads(recipe.threads), Steps(f"digits, seed {seed}", total) as training:
        data = collect(recipe, seed)
        write(folder / "data.safetensors", data)
        base = pretrain(recipe, seed, training.step)
        save(base, folder / "base")
        for task in CLASSES:
            save(finetune(recipe, seed, base, task, data, training.step), folder / task)
