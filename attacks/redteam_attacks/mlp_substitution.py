"""MLP substitution: what has another form than the base's gives way to the base's, and the rest of the victim stays."""

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView
from redteam_attacks.reformed import reformed


@attack(
    "mlp-substitution",
    needs=Needs.ANCHOR | Needs.COMPANIONS,
    targets=("mergebarrier",),
    changes_architecture=True,
    paper="the way around the expanded MLPs of arXiv:2511.10712",
)
def mlp_substitution(view: AttackerView) -> Checkpoint:
    """Tensors that the base has and the victim lacks are the base's; those that nobody else has are dropped.

    Gives up the skill that lived in what was exchanged, and keeps the rest, as `graft` does with locked tensors, free
    of any fit and of data. What is left of a lock at queries and keys comes off in a chain,
    `mlp-substitution+gauge-fit`.

    Args:
        view: Grants the base, and companions, by whose names the task's own tensors (heads) are told.
    """
    return reformed(view.protected, view.anchor, tuple(view.companions.values()))
