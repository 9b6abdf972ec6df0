"""Permutation lock: neurons and head channels in a secret order."""

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.symmetry import Permutation
from redteam.views import DefenderView


@defense("permutation", exact=True, keyed=True, weakened={"sites": ("mlp",)})
def permutation(view: DefenderView, *, sites: Sites = ("qk", "vo", "mlp")) -> Checkpoint:
    """Uniformly random permutations.

    Args:
        view: The victim and its key.
        sites: Kinds of sites to lock.
    """
    return view.lock(sites, Permutation())
