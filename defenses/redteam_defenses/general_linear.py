"""General linear lock: every head in a secret basis, drawn without MergeLock's composition of three factors."""

from typing import Annotated, Literal

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import GeneralLinear, Orthogonal
from redteam.views import DefenderView


@defense("general-linear", exact=True, keyed=True, weakened={"matrix": "conditioned", "scale": (0.5, 2.0)})
def general_linear(
    view: DefenderView,
    *,
    sites: Sites = ("qk", "vo"),
    matrix: Literal["gaussian", "conditioned"] = "gaussian",
    scale: Annotated[tuple[float, float], Range(1e-6, 1e6, log=True, rising=True)] = (0.1, 10.0),
) -> Checkpoint:
    """Wq ← G Wq, Wk ← G⁻ᵀ Wk, Wv ← H Wv, Wo ← Wo H⁻¹ with G, H invertible, one each per head.

    Args:
        view: The victim and its key.
        sites: Kinds of sites to lock.
        matrix: `"gaussian"` draws independent normal entries over √n, whose condition number is about n and has no
            bound; `"conditioned"` draws U S Vᵀ with Haar-distributed U, V, whose condition number is at most high/low.
        scale: Between which the singular values S of `"conditioned"` are drawn, log-uniformly.
    """
    if matrix == "gaussian":
        return view.lock(sites, GeneralLinear(scale=(1.0, 1.0), factor="gaussian"))
    inner = view.lock(sites, GeneralLinear(scale=scale, factor="rotation"))
    return view.lock(sites, Orthogonal(), checkpoint=inner)
