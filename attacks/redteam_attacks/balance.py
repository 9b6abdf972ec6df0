"""Balance: both sides of every head brought to one Gram matrix, as any key leaves it, then turned to the base's."""

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry.balancing import PAIRS, Pairs, Turn, balanced_like
from redteam.views import AttackerView
from redteam_attacks.companions import mean_of
from redteam_attacks.tied import CLAIMS, LOCKS

_BREAKS = {claim for claim in CLAIMS if claim[0] in PAIRS}
_TARGETS = [name for name in LOCKS if name != "null-shift"]


@attack("balance", breaks=_BREAKS, needs=Needs.ANCHOR, targets=_TARGETS, keeps_function=True)
def balance(view: AttackerView, *, turn: Turn = "fit", sites: Pairs = PAIRS) -> Checkpoint:
    """S₀⁻¹ R S: S² = A^-½ (A^½ B A^½)^½ A^-½ of the victim's heads, S₀ the base's, R the closest rotation in between.

    In closed form, nothing is descended. Where less than a general linear gauge is legal, S is a length for each plane
    or row and R a phase, a sign, an order. Under `no-base` a companion stands in for the base. Methods that find
    rotations alone, from which a stretch hides the rest, may follow, as in `balance+procrustes`.

    Args:
        view: Grants the base, or what stands in for it.
        turn: R: `"fit"` to the base, or `"axes"`: both models in their own principal axes, and nothing is fitted.
        sites: Pairs of maps to balance.
    """
    return balanced_like(view.protected, view.anchor, sites, turn=turn)


@attack("balance-companions", breaks=_BREAKS, needs=Needs.COMPANIONS, targets=_TARGETS, keeps_function=True)
def balance_companions(view: AttackerView, *, turn: Turn = "fit", sites: Pairs = PAIRS) -> Checkpoint:
    """As `balance`, with the mean of the attacker's own experts in the base's place.

    Args:
        view: Grants the attacker's own experts.
        turn: As in `balance`.
        sites: Pairs of maps to balance.

    Raises:
        Inapplicable: If there is no expert.
    """
    return balanced_like(view.protected, mean_of(list(view.companions.values())), sites, turn=turn)
