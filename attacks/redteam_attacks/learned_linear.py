"""Learned linear map: the invertible matrix of every head towards the base, by gradient descent."""

from typing import Annotated, Literal

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.symmetry import GeneralLinear, Orthogonal, Scaling
from redteam.views import AttackerView
from redteam_attacks.learned import LearnedLinear, fit_learned

_GROUPS = (Scaling, Orthogonal, GeneralLinear)  # the last contains all others


@attack(
    "learned-linear",
    breaks={(kind, group) for kind in ("qk", "vo") for group in _GROUPS},
    needs=Needs.ANCHOR,
    targets=("mergelock", "rotation", "scaling", "general-linear", "planar", "signed-permutation"),
    keeps_function=True,
)
def learned_linear(
    view: AttackerView,
    *,
    steps: Annotated[int, Range(10, 10_000, log=True)] = 300,
    rate: Annotated[float, Range(1e-4, 1.0, log=True)] = 0.05,
    parametrisation: Literal["free", "lu"] = "free",
    sites: Sites = ("qk", "vo"),
) -> Checkpoint:
    """min over invertible G of ‖G·left − left₀‖² + ‖G⁻ᵀ·right − right₀‖², by Adam: the check on the closed form.

    Args:
        view: Grants the base.
        steps: Optimizer steps for each kind of sites.
        rate: The first step as a share of the mean entry, falling to zero.
        parametrisation: The matrix itself, or its LU factors.
        sites: Kinds of sites to fit.
    """
    return fit_learned(view.protected, view.anchor, sites, LearnedLinear(steps, rate, parametrisation), view.steps)
