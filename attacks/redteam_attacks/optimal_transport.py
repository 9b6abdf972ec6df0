"""Optimal transport: neurons and head channels carried to the base's, by a permutation or softly."""

from typing import Annotated, Literal

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.symmetry import Permutation, fit_gauges
from redteam.views import AttackerView
from redteam_attacks.transport import Transport, map_softly


@attack(
    "optimal-transport",
    breaks={("qk", Permutation), ("vo", Permutation), ("mlp", Permutation)},
    needs=Needs.ANCHOR,
    targets=("permutation",),
    paper="Singh and Jaggi, Model Fusion via Optimal Transport, arXiv:1910.05653; solvers from POT",
)
def optimal_transport(
    view: AttackerView,
    *,
    method: Literal["emd", "sinkhorn"] = "sinkhorn",
    reg: Annotated[float, Range(0.005, 1.0, log=True)] = 0.05,
    mapping: Literal["hard", "soft"] = "hard",
    sites: Sites = ("qk", "vo", "mlp"),
) -> Checkpoint:
    """min over T of ⟨T, M⟩ (+ reg · entropy), uniform marginals, M the squared distances of row-normalised stacks.

    The exact plan (`emd`) is a permutation, and the same as linear assignment finds; an entropic one can share a neuron
    out between several that nearly coincide. `hard` takes the permutation closest to the plan and keeps the function,
    `soft` takes barycentres and keeps it only roughly.

    Args:
        view: Grants the base.
        method: Exact, or entropic.
        reg: Weight of the entropy, in units of the mean cost. At 0.05 a pair of average distance counts e⁻²⁰ of one
            that coincides.
        mapping: What is made of the plan.
        sites: Kinds of sites to carry over.
    """
    transport = Transport(method, reg)
    if mapping == "hard":
        return fit_gauges(view.protected, view.anchor, sites, transport)
    return map_softly(view.protected, view.anchor, sites, transport)
