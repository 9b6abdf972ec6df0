"""Anchor alignment (AGA): query, key, value and output each brought to the base's alone, by least squares."""

from typing import Literal

from redteam.anatomy import Sites, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import GeneralLinear, Orthogonal, Permutation, Scaling, fit_gauges, remove_shifts, restore
from redteam.views import AttackerView
from redteam_attacks.untied import align_untied

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
def anchor_alignment(
    view: AttackerView, *, shifts: Literal["kept", "settled"] = "kept", sites: Sites = ("qk", "vo", "mlp")
) -> Checkpoint:
    """W ← W₀ W⁺ W on the rows of every head of query, key and value, W ← W W⁺ W₀ on its columns of the output.

    Any invertible lock comes off, and the part of the task vector inside the head's row space goes with it. The factors
    of query and key (value and output) no longer cancel, so that the function stays only roughly. Neurons are matched
    as `hungarian` does; MLPs that a defense gave another form stay as they are.

    Args:
        view: Grants the base.
        shifts: Whether additive freedoms are taken off before and given the base's amounts after. As published they are
            kept, and a lock that hides behind them (`mergelock+null-shift`) is not undone.
        sites: Kinds of sites to align.
    """
    heads = [kind for kind in sites if kind in ("qk", "vo")]
    aligned = view.protected
    if shifts == "settled":
        aligned = align_untied(remove_shifts(aligned, heads), remove_shifts(view.anchor, heads), heads)
        aligned = restore(aligned, view.anchor, heads)
    else:
        aligned = align_untied(aligned, view.anchor, heads)
    neurons = [kind for kind in sites if kind == "mlp" and anatomy_of(aligned).sites((kind,))]
    return fit_gauges(aligned, view.anchor, neurons, Permutation(scale_free=True))
