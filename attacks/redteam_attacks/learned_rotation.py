"""Learned rotation: the rotation of every head towards the base, by gradient descent along the manifold."""

from typing import Annotated, Literal

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.symmetry import Orthogonal, SignedPermutation
from redteam.views import AttackerView
from redteam_attacks.learned import LearnedRotation, fit_learned


@attack(
    "learned-rotation",
    breaks={(kind, group) for kind in ("qk", "vo") for group in (SignedPermutation, Orthogonal)},
    needs=Needs.ANCHOR,
    targets=("rotation", "signed-permutation"),
    keeps_function=True,
)
def learned_rotation(
    view: AttackerView,
    *,
    steps: Annotated[int, Range(10, 10_000, log=True)] = 300,
    rate: Annotated[float, Range(1e-3, 1.0, log=True)] = 0.1,
    chart: Literal["exponential", "cayley"] = "exponential",
    sites: Sites = ("qk", "vo"),
) -> Checkpoint:
    """min over rotations R of ‖R·left − left₀‖² + ‖R·right − right₀‖², R ← e^S R by Adam on the skew S.

    What Procrustes solves in closed form, and the check that it does. A diagonal defeats both.

    Args:
        view: Grants the base.
        steps: Optimizer steps for each kind of sites.
        rate: The first step in radians per pair of dimensions, falling to zero: steps · rate / 2 is the longest way,
            five half turns by default.
        chart: e^S, or Cayley's (I − S/2)⁻¹ (I + S/2).
        sites: Kinds of sites to fit.
    """
    return fit_learned(view.protected, view.anchor, sites, LearnedRotation(steps, rate, chart), view.steps)
