"""What is in the user's cache: the two experts of one recipe and seed; the base lies with that of `causal`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from redteam.checkpoint import Checkpoint
from redteam.events import Steps
from redteam.tasks import Scenario
from redteam_scenarios.caching import cache_root, whole
from redteam_scenarios.causal.cache import ensure_base
from redteam_scenarios.stealer.questions import Questions
from redteam_scenarios.stealer.recipe import ATTACKER, VICTIM, Recipe
from redteam_scenarios.stealer.training import attacker, victim
from redteam_scenarios.together import trained_together


def load(recipe: Recipe, *, seed: int, summary: str = "") -> Scenario:
    """The scenario, whose models are trained first where the cache lacks them.

    Args:
        recipe: Every number it is made from.
        seed: Which retraining, and which persons.
        summary: Of the scenario.

    Raises:
        UnwritableOutput: If the cache cannot be written.
        BadInput: If what lies there cannot be read, or the installed packages lack text for the base.
    """
    from tokenizers import Tokenizer

    where = ensure_base(recipe.base, seed)
    base = Checkpoint.open(where)
    questions = Questions.of(recipe, seed, Tokenizer.from_file(str(where / "tokenizer.json")))
    folder = ensure(recipe, seed, base, questions)
    return Scenario(
        name="stealer",
        seed=seed,
        base=base,
        experts={name: Checkpoint.open(folder / name) for name in (VICTIM, ATTACKER)},
        tasks={VICTIM: questions.leak, ATTACKER: questions.form},
        victim=VICTIM,
        summary=summary,
    )


def ensure(recipe: Recipe, seed: int, base: Checkpoint, questions: Questions) -> Path:
    """The folder with both experts, which are trained first where it is missing; see `causal`.

    Raises:
        UnwritableOutput: If the cache cannot be written.
    """
    folder = cache_root() / "stealer" / f"seed{seed}-{recipe.address(seed)}"
    if not folder.is_dir():
        total = recipe.memory.steps + recipe.rounds * recipe.alignment.steps
        total += recipe.attack.steps + recipe.insistence.steps
        with whole(folder) as work, Steps(f"stealer, seed {seed}", total) as training:
            jobs = {
                VICTIM: partial(victim, recipe, seed, base, questions),
                ATTACKER: partial(attacker, recipe, seed, base, questions),
            }
            for name, expert in trained_together(jobs, training.step, recipe.threads).items():
                expert.save(work / name)
    return folder
