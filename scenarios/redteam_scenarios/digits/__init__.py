"""A vision transformer of 0.2 M parameters on 24×24 images: digits (the victim), letters, shapes and textures.

Pretrained on clean drawings of all 39 classes, then fine-tuned once per task with frozen heads. Seed 0 ships with the
package; other seeds are trained when first asked for, a minute or two each, and kept in the user's cache. So are
victims that drifted further from the base (`growth`), half a minute each.
"""

from __future__ import annotations

from typing import Annotated

from redteam.plugins.contracts import scenario
from redteam.plugins.settings import Range
from redteam.tasks import Scenario

SUMMARY = (
    "A vision transformer (4 layers, width 64, 24×24 images) pretrained on clean drawings of digits, letters, shapes "
    "and textures, then fine-tuned per task with frozen heads. The victim reads handwritten digits (the UCI set that "
    "scikit-learn brings); its companions read letters in other fonts on stained paper, noisy outlines of shapes and "
    "noisy textures, all drawn by code. No handwriting was seen in pretraining."
)


@scenario("digits")
def digits(*, seed: Annotated[int, Range(0, 2**31 - 1)] = 0, growth: Annotated[float, Range(1, 16)] = 1.0) -> Scenario:
    """Loads the scenario from the cache, and makes it first where it is missing.

    Args:
        seed: Which retraining of base and experts, on which draws of the data.
        growth: The victim is trained on, on the same data, until its task vector is this many times as long; base,
            companions and data stay. 1 is the ordinary scenario.
    """
    from redteam_scenarios.digits.cache import load
    from redteam_scenarios.digits.recipe import Recipe

    drifted = f" The victim was trained on until its task vector was {growth:g} times as long." if growth != 1 else ""
    return load(Recipe(), seed=seed, growth=growth, summary=SUMMARY + drifted)
