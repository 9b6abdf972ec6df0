"""A small vision transformer and four experts: handwritten digits (the victim), letters, shapes and textures.

Pretrained on clean drawings of all 39 classes, then fine-tuned once per task with frozen heads. Seed 0 ships with the
package; other seeds are trained when first asked for, a minute or two each, and kept in the user's cache.
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
def digits(*, seed: Annotated[int, Range(0, 2**31 - 1)] = 0) -> Scenario:
    """Loads the scenario from the cache, and makes it first where it is missing.

    Args:
        seed: Which retraining of base and experts, on which draws of the data.
    """
    from redteam_scenarios.digits.cache import load
    from redteam_scenarios.digits.recipe import Recipe

    return load(Recipe(), seed=seed, summary=SUMMARY)
