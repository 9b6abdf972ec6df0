"""Anchor alignment (AGA): query, key, value and output each brought to the base's alone, by least squares."""

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import (
    GeneralLinear,
    Orthogonal,
    Permutation,
    Scaling,
    fit_gauges,
)
from redteam.symmetry.untied import align_untied
from redteam.views import AttackerView

_GROUPS = (Scaling, Orthogonal, GeneralLinear)  # the last contains all others


@attack(
    "anchor-alignment",
    breaks={*((kind, group) for kind in ("qk", "vo") for group in _GROUPS), ("mlp", Permutation)},
    needs=Needs.ANCHOR,
    targets=(
        "mergelock",
        "rotation",
        "permutation",
        "scaling",
        "general-linear",
        "planar",
        "signed-permutation",
    ),
    paper="AGA, arXiv:2606.30360",
)
def anchor_alignment(view: AttackerView, *, sites: Sites = ("qk", "vo", "mlp")) -> Checkpoint:
    """W ← W₀ W⁺ W on the rows of every head of query, key and value, W ← W W⁺ W₀ on its columns of the output.

    Any invertible lock comes off, and the part of the task vector inside the head's row space goes with it. The factors
    of query and key (value and output) no longer cancel, so that the function stays only roughly. Neurons are matched
    as `hungarian` does.

    Args:
        view: Grants the base.
        sites: Kinds of sites to align.
    """
    aligned = align_untied(view.protected, view.anchor, [kind for kind in sites if kind in ("qk", "vo")])
    return fit_gauges(aligned, view.anchor, [kind for kind in sites if kind == "mlp"], Permutation(scale_free=True))
