"""Residual alignment: the stream's dimensions put back in order, by the embeddings and then by all that uses them."""

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry.fit_all import fit_all
from redteam.views import AttackerView
from redteam_attacks.tied import STREAM


@attack(
    "residual-alignment",
    breaks={("residual", group) for group in STREAM},
    needs=Needs.ANCHOR,
    keeps_function=True,
)
def residual_alignment(view: AttackerView) -> Checkpoint:
    """max over Q of Σ ⟨Q E, E₀⟩, once over embeddings alone, then over all that reads and writes the stream.

    Q is a permutation, with one sign or a sign each, or a rotation, whichever is the largest that keeps the function:
    where norms subtract a mean or have gains, most rotations don't. Locks inside of heads or of MLPs stay on.

    Args:
        view: Grants the base.
    """
    return fit_all(view.protected, view.anchor, ("residual",))
