"""What is in the user's cache: one folder per recipe, base, versions of the packages, and seed."""

from __future__ import annotations

from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path

from redteam.checkpoint import Checkpoint
from redteam.events import Steps
from redteam.tasks import Classification, Scenario
from redteam_scenarios.caching import cache_root, read, whole, write
from redteam_scenarios.docstrings.data import Tokens, encoded, inputs, split
from redteam_scenarios.docstrings.recipe import TASKS, VICTIM, Recipe
from redteam_scenarios.docstrings.source import bare, digest, folder_of
from redteam_scenarios.docstrings.texts import collected
from redteam_scenarios.docstrings.training import finetune
from redteam_scenarios.together import fixed_threads, trained_together

_OF_A_MODEL = ("config.json", "model.safetensors", "tokenizer.json")


def load(recipe: Recipe, *, seed: int, model: str, summary: str = "") -> Scenario:
    """The scenario from its folder in the cache, which is made first where it is missing.

    Args:
        recipe: Every number it is made from.
        seed: Which retraining.
        model: The base: a hub name, or a folder.
        summary: Of the scenario.

    Raises:
        UnwritableOutput: If the cache cannot be written.
        BadInput: If the base cannot be had, a package is missing, or what lies in the cache cannot be read.
    """
    source = folder_of(model)
    base = bare(source)
    folder = ensure(recipe, seed, source, base)
    return Scenario(
        name="docstrings",
        seed=seed,
        base=base,
        experts={task: Checkpoint.open(folder / task) for task in TASKS},
        tasks=_tasks(recipe, read(folder / "data.safetensors")),
        victim=VICTIM,
        summary=summary,
    )


def ensure(recipe: Recipe, seed: int, source: Path, base: Checkpoint) -> Path:
    """The folder with an expert per task and `data.safetensors`, which is made first where it is missing.

    Any number of processes may do this at once; the first to finish wins.

    Args:
        recipe: Every number it is made from.
        seed: Which retraining.
        source: The base's folder.
        base: What is in it.

    Raises:
        UnwritableOutput: If the cache cannot be written.
        BadInput: If a package is missing, or the base has no fast tokenizer.
    """
    address = recipe.address(seed, [digest([source / name for name in _OF_A_MODEL]), *versions(recipe)])
    folder = cache_root() / "docstrings" / f"seed{seed}-{address}"
    if folder.is_dir():
        return folder
    tokens = encoded(recipe, source, split(recipe, seed, collected(recipe)))
    tasks, total = _tasks(recipe, tokens), recipe.steps * len(TASKS)
    with whole(folder) as work, fixed_threads(recipe.threads), Steps(f"docstrings, seed {seed}", total) as training:
        write(work / "data.safetensors", tokens)
        jobs = {name: partial(finetune, recipe, seed, base, task) for name, task in tasks.items()}
        for name, expert in trained_together(jobs, training.step, recipe.threads).items():
            expert.save(work / name)
    return folder


def versions(recipe: Recipe) -> list[str]:
    """Name and version of each distribution whose docstrings are read."""
    owners = packages_distributions()
    names = sorted({owner for package in recipe.packages for owner in owners.get(package, ())})
    return [f"{name} {version(name)}" for name in names]


def _tasks(recipe: Recipe, tokens: Tokens) -> dict[str, Classification]:
    return {
        task: Classification(
            name=task,
            chance=1 / len(asked.classes),
            inputs={part: inputs(tokens, task, part) for part in recipe.shares},
            labels={part: tokens[f"{task}/{part}/labels"] for part in recipe.shares},
        )
        for task, asked in TASKS.items()
    }
