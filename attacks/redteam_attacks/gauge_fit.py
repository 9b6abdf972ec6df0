"""Gauge fit: at every site the best legal gauge towards the base, additive freedoms removed and heads matched first."""

from redteam.anatomy import ORDER, Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry.fit_all import fit_all
from redteam.views import AttackerView
from redteam_attacks.tied import CLAIMS, LOCKS


@attack(
    "gauge-fit",
    breaks=CLAIMS,
    needs=Needs.ANCHOR,
    targets=(*LOCKS, "rebasin"),
    keeps_function=True,
)
def gauge_fit(view: AttackerView, *, sites: Sites = ORDER) -> Checkpoint:
    """The tied fit: min over G of ‖G·left − left₀‖² + ‖G⁻ᵀ·right − right₀‖² over everything that keeps the function.

    At every kind of sites the largest group that is legal there, in an order in which locks can lie on one another:
    the stream by the embeddings, experts by the router, heads by what no basis of theirs changes, then heads' bases,
    neurons, gains. A poor fit costs closeness to the base and never correctness. Kinds that the architecture lacks are
    passed over.

    Args:
        view: Grants the base.
        sites: Kinds of sites to fit.
    """
    return fit_all(view.protected, view.anchor, sites)
