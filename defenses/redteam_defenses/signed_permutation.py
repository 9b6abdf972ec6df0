"""Signed permutation lock: head channels in a secret order, some of them turned round."""

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.symmetry import SignedPermutation
from redteam.views import DefenderView


@defense("signed-permutation", exact=True, keyed=True, weakened={"sites": ("vo",)})
def signed_permutation(view: DefenderView, *, sites: Sites = ("qk", "vo")) -> Checkpoint:
    """Uniformly random permutations, each sign as likely. A match on signed correlations misses half of the rows.

    Args:
        view: The victim and its key.
        sites: Kinds of sites to lock.
    """
    return view.lock(sites, SignedPermutation())
