"""Gauge fit: at every site the best legal gauge towards the base, additive freedoms removed first."""

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import GeneralLinear, Orthogonal, Permutation, fit_gauges
from redteam.views import AttackerView


@attack(
    "gauge-fit",
    breaks={("qk", GeneralLinear), ("vo", GeneralLinear), ("qk", Orthogonal), ("vo", Orthogonal), ("mlp", Permutation)},
    needs=Needs.ANCHOR,
    targets=("mergelock", "rotation", "permutation"),
    keeps_function=True,
)
def gauge_fit(view: AttackerView, *, sites: Sites = ("qk", "vo", "mlp")) -> Checkpoint:
    """The tied fit: min over G of ‖G·left − left₀‖² + ‖G⁻ᵀ·right − right₀‖² over everything that keeps the function.

    Heads are fitted over the general linear group and neurons over permutations. A poor fit costs closeness to the base
    and never correctness.

    Args:
        view: Grants the base.
        sites: Kinds of sites to fit.
    """
    fitted = fit_gauges(view.protected, view.anchor, [kind for kind in sites if kind != "mlp"], GeneralLinear())
    return fit_gauges(fitted, view.anchor, [kind for kind in sites if kind == "mlp"], Permutation())
