"""A decoder of 2.4 M parameters on text of installed packages: C++ headers (the usual victim), manuals and type stubs.

Pretrained on Python code, then fine-tuned once per task; scored by the share of the log-likelihood gap between base and
expert. Any seed is trained when first asked for, some minutes each, and kept in the user's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from redteam.plugins.contracts import scenario
from redteam.plugins.settings import Range
from redteam.tasks import Scenario

SUMMARY = (
    "A decoder (5 layers, width 192, rotary embeddings, 6 query heads on 2 key and value heads, RMSNorm, a gated MLP) "
    "pretrained on a million tokens of Python code and fine-tuned on other text, all read from the packages that are "
    "installed beside this one. The victim knows C++ headers; its companions know the docstrings of numerical "
    "libraries and type stubs. A document of 64 tokens is scored by how much more likely it is than under the base."
)


def victims(*, seed: int = 0, victim: str = "headers") -> tuple[str, ...]:
    """The tasks that are the victim in turn.

    Raises:
        BadSetting: If the victim is no task.
    """
    from redteam_scenarios.causal.recipe import Recipe
    from redteam_scenarios.turns import turns

    return turns(victim, Recipe().domains, "causal")


def about(*, seed: int = 0, victim: str = "headers") -> Iterator[tuple[str, str]]:
    """What `redteam show` says of it."""
    from redteam_scenarios.caching import cache_root
    from redteam_scenarios.causal.recipe import Recipe

    recipe = Recipe()
    for task, source in recipe.domains.items():
        sizes = ", ".join(f"{recipe.counts[split]} {split}" for split in ("train", "validation", "test"))
        role = "the victim; " if task == victim else ""
        yield (
            task,
            f"{role}perplexity: {sizes}, of {recipe.length} tokens from {', '.join(source.packages)}; the base is 0",
        )
    yield "licence", "text as its packages have it, read where it is installed; the weights are made by this program"
    yield "cache", str(cache_root() / "causal")


@scenario("causal", about=about, victims=victims)
def causal(*, seed: Annotated[int, Range(0, 2**31 - 1)] = 0, victim: str = "headers") -> Scenario:
    """Loads the scenario from the cache, and makes it first where it is missing.

    Args:
        seed: Which retraining of base and experts, on which files.
        victim: Which task's expert is protected; `each` makes every task the victim in turn.
    """
    from redteam_scenarios.causal.cache import load
    from redteam_scenarios.causal.recipe import Recipe
    from redteam_scenarios.turns import required, with_victim

    required(victim, Recipe().domains, "causal")
    return with_victim(load(Recipe(), seed=seed, summary=SUMMARY), victim)
