"""The user's cache: one folder per recipe and seed, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, UnwritableOutput
from redteam.events import Steps
from redteam.tasks import Classification, Scenario
from redteam_scenarios.digits import growth as growing
from redteam_scenarios.digits.data import Images, collect, pixels
from redteam_scenarios.digits.recipe import CLASSES, VICTIM, Recipe
from redteam_scenarios.digits.training import finetune, fixed_threads, pretrain

SHIPPED = Path(__file__).with_name("seed0")
_ABANDONED = 24 * 3600.0  # seconds after which an unfinished folder belongs to nobody


def cache_root() -> Path:
    """`$REDTEAM_CACHE`, or the platform's folder for caches."""
    if chosen := os.environ.get("REDTEAM_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("redteam"))


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
    data = _read(folder / "data.safetensors")
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
    with _whole(folder) as work:
        if shipped:
            with fixed_threads(recipe.threads):
                _write(work / "data.safetensors", collect(recipe, seed))
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
    data = _read(ordinary / "data.safetensors")
    title = f"digits, seed {seed}, growth {growth:g}"
    with _whole(folder) as work, fixed_threads(recipe.threads), Steps(title, 100) as training:
        model = victim.module()
        grown = growing.grow(recipe, seed, growth, base.module(), model, data, lambda way: training.reach(way, VICTIM))
        _save(model, work / VICTIM)
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
        _write(folder / "data.safetensors", data)
        base = pretrain(recipe, seed, training.step)
        _save(base, folder / "base")
        for task in CLASSES:
            _save(finetune(recipe, seed, base, task, data, training.step), folder / task)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to work in, which becomes `folder` at the end if nothing went wrong.

    Raises:
        UnwritableOutput: If something cannot be written, also by who works in it.
    """
    work = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for other in folder.parent.glob(".*.unfinished"):
            if time.time() - other.stat().st_mtime > _ABANDONED:
                shutil.rmtree(other, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".unfinished", dir=folder.parent))
        yield work
        try:
            os.replace(work, folder)
        except OSError:
            if not folder.is_dir():  # another process was first
                raise
    except OSError as error:
        raise UnwritableOutput(
            f"The cache {folder.parent} cannot be written ({error.strerror or error}); "
            "set REDTEAM_CACHE to a folder that can."
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _save(model: nn.Module, folder: Path) -> None:
    """Writes a Hugging Face folder."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)  # type: ignore[operator]
    finally:
        if shown:
            logging.enable_progress_bar()


def _write(path: Path, data: Images) -> None:
    from safetensors.torch import save_file

    save_file(data, path)


def _read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)  # type: ignore[no-any-return]
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} cannot be read ({error}); delete {path.parent} and it will be made again.") from None
