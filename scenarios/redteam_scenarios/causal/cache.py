"""What is in the user's cache: one folder per recipe and seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from redteam.checkpoint import Checkpoint
from redteam.events import Steps
from redteam.tasks import LogLikelihood, Scenario
from redteam.tasks.likelihood import log_likelihoods
from redteam_scenarios.caching import cache_root, read, whole, write
from redteam_scenarios.causal.documents import Documents, collect
from redteam_scenarios.causal.recipe import VICTIM, Recipe
from redteam_scenarios.causal.training import finetune, pretrain
from redteam_scenarios.together import fixed_threads, trained_together


def load(recipe: Recipe, *, seed: int, summary: str = "") -> Scenario:
    """The scenario from its folder in the cache, which is made first where it is missing.

    Args:
        recipe: Every number it is made from.
        seed: Which retraining.
        summary: Of the scenario.

    Raises:
        UnwritableOutput: If the cache cannot be written.
        BadInput: If what lies there cannot be read, or the installed packages lack text.
    """
    folder = ensure(recipe, seed)
    data = read(folder / "data.safetensors")
    return Scenario(
        name="causal",
        seed=seed,
        base=Checkpoint.open(folder / "base"),
        experts={task: Checkpoint.open(folder / task) for task in recipe.domains},
        tasks={
            task: LogLikelihood(
                name=task,
                chance=0.0,
                inputs={split: {"input_ids": data[f"{task}/{split}"].long()} for split in recipe.counts},
                labels={split: data[f"{task}/{split}/base"] for split in recipe.counts},
            )
            for task in recipe.domains
        },
        victim=VICTIM,
        summary=summary,
    )


def ensure(recipe: Recipe, seed: int) -> Path:
    """The folder with `base`, an expert per task and `data.safetensors`, which is made first where it is missing.

    Any number of processes may do this at once; the first to finish wins.

    Raises:
        UnwritableOutput: If the cache cannot be written.
        BadInput: If the installed packages lack text.
    """
    folder = _folder(recipe, seed)
    if not folder.is_dir():
        with whole(folder) as work:
            train(recipe, seed, work)
    return folder


def ensure_base(recipe: Recipe, seed: int) -> Path:
    """The folder of the base alone, with its `tokenizer.json`, for scenarios that fine-tune it to something else.

    It is that of the whole scenario where that is there, and kept for it where it is not.

    Raises:
        UnwritableOutput: If the cache cannot be written.
        BadInput: If the installed packages lack text.
    """
    if (folder := _folder(recipe, seed)).is_dir():
        return folder / "base"
    if not (folder := _folder(recipe, seed, "base-")).is_dir():
        with whole(folder) as work, fixed_threads(recipe.threads):
            tokenizer, documents = collect(recipe, seed)
            with Steps(f"the base of causal, seed {seed}", recipe.pretraining_steps) as training:
                _pretrained(recipe, seed, documents["general"], training.step).save(work / "base")
            tokenizer.save(str(work / "base" / "tokenizer.json"))
    return folder / "base"


def _folder(recipe: Recipe, seed: int, of: str = "") -> Path:
    return cache_root() / "causal" / f"{of}seed{seed}-{recipe.address(seed)}"


def train(recipe: Recipe, seed: int, folder: Path) -> None:
    """Reads the text, trains base and experts, and writes them into an existing folder.

    The generators of torch, numpy and Python stay as they were.
    """
    kept = _folder(recipe, seed, "base-")
    total = recipe.pretraining_steps * (not kept.is_dir()) + sum(recipe.tuning_steps.values())
    with fixed_threads(recipe.threads), Steps(f"causal, seed {seed}", total) as training:
        tokenizer, documents = collect(recipe, seed)
        together = partial(trained_together, step=training.step, threads=recipe.threads)
        general = documents.pop("general")
        base = Checkpoint.open(kept / "base") if kept.is_dir() else _pretrained(recipe, seed, general, training.step)
        base.save(folder / "base")
        tokenizer.save(str(folder / "base" / "tokenizer.json"))
        write(folder / "data.safetensors", documents | _likelihoods(base, documents))
        jobs = {t: partial(finetune, recipe, seed, base, t, documents[f"{t}/train"]) for t in recipe.domains}
        for task, expert in together(jobs).items():
            expert.save(folder / task)


def _pretrained(recipe: Recipe, seed: int, documents: torch.Tensor, step: Callable[[str], None]) -> Checkpoint:
    job = partial(pretrain, recipe, seed, documents)
    return trained_together({"base": job}, step, recipe.threads)["base"]


def _likelihoods(base: Checkpoint, documents: Documents) -> Documents:
    """How likely the base finds each document, which is where scores are counted from."""
    network = base.module()
    return {
        f"{name}/base": torch.from_numpy(log_likelihoods(network, {"input_ids": ids.long()}))
        for name, ids in documents.items()
    }
