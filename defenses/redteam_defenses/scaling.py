"""Scaling lock: every dimension of every head multiplied by a secret factor."""

from typing import Annotated

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import PositiveScaling, Scaling
from redteam.views import DefenderView


@defense(
    "scaling",
    exact=True,
    keyed=True,
    weakened={"scale": (0.5, 2.0)},
    paper="the diagonal form of PaRaMS, arXiv:2503.07661, which draws one factor per dimension from [0.05, 20]",
)
def scaling(
    view: DefenderView,
    *,
    sites: Sites = ("qk", "vo"),
    scale: Annotated[tuple[float, float], Range(1e-6, 1e6, log=True, rising=True)] = (0.05, 20.0),
    signed: bool = True,
) -> Checkpoint:
    """q ← α∘q, k ← k/α, and β likewise at value and output, with α, β log-uniform and independent.

    The range is that of the release of PaRaMS. There, the factors are uniform and positive and query/key and
    value/output share them; here they are log-uniform, so that small and large ones are as likely, and signed.

    Args:
        view: The victim and its key.
        sites: Kinds of sites to lock.
        scale: Between which the factors' sizes are drawn.
        signed: Whether factors have random signs; a ReLU allows positive ones alone.
    """
    return view.lock(sites, Scaling(scale=scale) if signed else PositiveScaling(scale=scale))
