"""Unseal: for each tensor the form of sealing that brings it nearest to the base, beyond what chance would bring."""

from typing import Annotated

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView
from redteam_attacks.unsealing import found_forms, without_seals


@attack(
    "unseal",
    needs=Needs.ANCHOR,
    targets=("translinkguard", "shadownet", "obfuscatune", "soter", "loro", "groupcover", "arrowcloak"),
    changes_architecture=True,
    paper="ArrowMatch, the mask's direction after arXiv:2608.21615, the matching of columns after arXiv:1907.08880",
)
def unseal(view: AttackerView, *, drift: Annotated[float, Range(0.0, 2.0)] = 0.5) -> Checkpoint:
    """Tries a scalar, orders of columns and rows, scales, rotations, a product, a mask and groups, cheapest first.

    Weights that do not run alone were changed one by one, so that nothing but the base says how. A form counts where it
    leaves less than half of what simpler ones leave, each measured by what it would leave of the same tensor in random
    bases, which has nothing to do with the base: what fits anything explains nothing. A matrix that no form explains
    stays as it is, bit for bit, and so does everything that is no matrix.

    Args:
        view: Grants the base.
        drift: ‖weight − base‖ ÷ ‖base‖ up to which a weight counts as found, as in `graft`. Only a scalar is looked
            for nearer than that.
    """
    found = found_forms(view.protected, view.anchor, view.generator, drift=drift)
    return without_seals(view.protected, found)
