"""Hungarian matching: the assignment of neurons and head channels to the base's that correlates best."""

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import Permutation, fit_gauges
from redteam.views import AttackerView


@attack(
    "hungarian",
    breaks={("qk", Permutation), ("vo", Permutation), ("mlp", Permutation)},
    needs=Needs.ANCHOR,
    targets=("permutation",),
    keeps_function=True,
    paper="Ainsworth et al., Git Re-Basin, arXiv:2209.04836, weight matching",
)
def hungarian(view: AttackerView, *, sites: Sites = ("qk", "vo", "mlp")) -> Checkpoint:
    """Undoes permutations, whatever the scale of the rows; leaves rotations and general linear locks on.

    Args:
        view: Grants the base.
        sites: Kinds of sites to fit.
    """
    return fit_gauges(view.protected, view.anchor, sites, Permutation(scale_free=True))
