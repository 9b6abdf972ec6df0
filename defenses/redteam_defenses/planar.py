"""Planar lock: one secret complex number per rotary plane, what rotary embeddings leave of the general linear lock."""

from typing import Annotated, Literal

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import Planar
from redteam.views import DefenderView


@defense("planar", exact=True, keyed=True, adapts=True, weakened={"scale": (0.5, 2.0)})
def planar(
    view: DefenderView,
    *,
    sites: Sites = ("qk", "vo"),
    scale: Annotated[tuple[float, float], Range(1e-6, 1e6, log=True, rising=True)] = (0.1, 10.0),
    layout: Literal["auto", "half", "interleaved"] = "auto",
) -> Checkpoint:
    """(q_p, q_p′) ← (a q_p − b q_p′, b q_p + a q_p′), the key the same over a² + b²; angle uniform.

    Args:
        view: The victim and its key.
        sites: Kinds of sites to lock.
        scale: Between which the moduli √(a² + b²) are drawn.
        layout: Which rows make a plane: i and i + n/2 (`"half"`, Hugging Face), or 2i and 2i + 1 (`"interleaved"`). The
            architecture's own with `"auto"`, `"half"` where it has none; under a norm of queries and keys, signs alone.
    """
    if layout == "auto":
        return view.lock(sites, Planar(scale=scale), adapts=True)
    return view.lock(sites, Planar(scale=scale, layout=layout))
