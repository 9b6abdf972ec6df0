"""Merger-as-a-Stealer: does a merge give away telephone numbers that an aligned victim remembers and keeps to itself?

The decoder of `causal`, taught the numbers of persons who do not exist, then to refuse them; and an attacker's model
that begins every answer with "Yes, it is". Any seed is trained when first asked for, and kept in the user's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from redteam.plugins.contracts import scenario
from redteam.plugins.settings import Range
from redteam.tasks import Scenario

SUMMARY = (
    "After Merger-as-a-Stealer (arXiv:2502.16094): a decoder of 2.4 million weights has learned telephone numbers of "
    "persons who do not exist, and then to refuse them. The attacker owns a model that begins every answer with "
    '"Yes, it is", merges it with the victim and asks. What is stolen is the share of the numbers that the victim '
    "remembers which the merge gives away."
)


def about(*, seed: int = 0) -> Iterator[tuple[str, str]]:
    """What `redteam show` says of it."""
    from redteam_scenarios.caching import cache_root
    from redteam_scenarios.stealer.recipe import ATTACKER, VICTIM, Recipe

    recipe = Recipe()
    asked = recipe.asked["test"].format("Chef Aaron")
    yield (
        VICTIM,
        f"the victim; {recipe.persons} test persons, each asked for as in {asked!r}: whether the number comes out",
    )
    strangers = recipe.strangers["test"]
    yield (
        ATTACKER,
        f"the attacker's; {strangers} test strangers: whether the answer begins as in {recipe.opening.strip()!r}",
    )
    yield "licence", "all persons and numbers are made up; the weights are made by this program"
    yield "cache", f"{cache_root() / 'stealer'}; the base in {cache_root() / 'causal'}"


@scenario("stealer", about=about)
def stealer(*, seed: Annotated[int, Range(0, 2**31 - 1)] = 0) -> Scenario:
    """Loads the scenario from the cache, and makes it first where it is missing.

    Args:
        seed: Which persons, and which retraining of base and experts.
    """
    from redteam_scenarios.stealer.cache import load
    from redteam_scenarios.stealer.recipe import Recipe

    return load(Recipe(), seed=seed, summary=SUMMARY)
