"""A vision transformer of 0.2 M parameters on 24×24 images: digits (the usual victim), letters, shapes and textures.

Pretrained on clean drawings of all 39 classes, then fine-tuned once per task with frozen heads. Seed 0 ships with the
package; other seeds are trained when first asked for, a minute or two each, and kept in the user's cache. So are
victims that drifted further from the base (`growth`), half a minute each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from redteam.errors import BadSetting
from redteam.plugins.contracts import scenario
from redteam.plugins.settings import Range
from redteam.tasks import Scenario

SUMMARY = (
    "A vision transformer (4 layers, width 64, 24×24 images) pretrained on clean drawings of digits, letters, shapes "
    "and textures, then fine-tuned per task with frozen heads. The victim reads handwritten digits (the UCI set that "
    "scikit-learn brings); its companions read letters in other fonts on stained paper, noisy outlines of shapes and "
    "noisy textures, all drawn by code. No handwriting was seen in pretraining."
)


def victims(*, seed: int = 0, growth: float = 1.0, victim: str = "digits") -> tuple[str, ...]:
    """The tasks that are the victim in turn.

    Raises:
        BadSetting: If the victim is no task, or another one than that which `growth` is of.
    """
    from redteam_scenarios.digits.recipe import CLASSES, VICTIM
    from redteam_scenarios.turns import turns

    if growth != 1 and victim != VICTIM:
        raise BadSetting(f"growth is of the expert for {VICTIM}; leave out victim={victim}, or growth.")
    return turns(victim, CLASSES, "digits")


def about(*, seed: int = 0, growth: float = 1.0, victim: str = "digits") -> Iterator[tuple[str, str]]:
    """What `redteam show` says of it."""
    from redteam_scenarios.caching import cache_root
    from redteam_scenarios.digits.recipe import CLASSES, VICTIM, Recipe

    recipe = Recipe()
    for task, classes in CLASSES.items():
        counts = recipe.real_counts if task == VICTIM else recipe.counts
        sizes = ", ".join(f"{count} {split}" for split, count in counts.items())
        role = "the victim; " if task == victim else ""
        yield task, f"{role}image classification: {sizes}; {len(classes)} classes, guessing {1 / len(classes):.2f}"
    yield (
        "licence",
        "handwriting: CC BY 4.0 (UCI, as scikit-learn brings it); all else is drawn, and the weights, are ours",
    )
    yield "cache", f"{cache_root() / 'digits'}, 27 MB a seed; seed 0 ships, others are trained in a minute or two"


@scenario("digits", about=about, victims=victims)
def digits(
    *,
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0,
    growth: Annotated[float, Range(1, 16)] = 1.0,
    victim: str = "digits",
) -> Scenario:
    """Loads the scenario from the cache, and makes it first where it is missing.

    Args:
        seed: Which retraining of base and experts, on which draws of the data.
        growth: The victim is trained on, on the same data, until its task vector is this many times as long; base,
            companions and data stay. 1 is the ordinary scenario.
        victim: Which task's expert is protected; `each` makes every task the victim in turn.
    """
    from redteam_scenarios.digits.cache import load
    from redteam_scenarios.digits.recipe import CLASSES, Recipe
    from redteam_scenarios.turns import required, with_victim

    drifted = f" The victim was trained on until its task vector was {growth:g} times as long." if growth != 1 else ""
    victims(growth=growth, victim=victim)
    required(victim, CLASSES, "digits")
    made = load(Recipe(), seed=seed, growth=growth, summary=SUMMARY + drifted)
    return with_victim(made, victim)
