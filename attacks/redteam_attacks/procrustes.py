"""Orthogonal Procrustes (Kabsch): the rotation of every head that brings it closest to the base."""

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import Orthogonal, Permutation, SignedPermutation, fit_gauges
from redteam.views import AttackerView


@attack(
    "procrustes",
    breaks={(kind, group) for kind in ("qk", "vo") for group in (Permutation, SignedPermutation, Orthogonal)},
    needs=Needs.ANCHOR,
    targets=("rotation", "signed-permutation"),
    keeps_function=True,
    paper="Schönemann, A generalized solution of the orthogonal Procrustes problem, Psychometrika 1966",
)
def procrustes(view: AttackerView, *, sites: Sites = ("qk", "vo")) -> Checkpoint:
    """Undoes rotations, reflections and permutations inside heads; a diagonal defeats it.

    Args:
        view: Grants the base.
        sites: Kinds of sites to fit.
    """
    return fit_gauges(view.protected, view.anchor, sites, Orthogonal())
