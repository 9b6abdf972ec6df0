"""Bias graft: the base's biases in place of the victim's, whose matrices stay."""

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView


@attack("bias-graft", needs=Needs.ANCHOR)
def bias_graft(view: AttackerView) -> Checkpoint:
    """Gives up the little skill that lives in the biases of linear maps; those of norms stay.

    Made for large null shifts in half precision, as `gauge-fit+bias-graft`: what rounding took from the matrices is
    less than what fine-tuning put there, but an output bias is a sum of products of two shifted tensors, and its
    rounding grows with the shifts' square. Where that has cost the victim its function, this gives it back.

    Args:
        view: Grants the base.
    """
    shared = set(shared_tensors(view.protected, view.anchor))
    matrices = {name.removesuffix(".weight") for name in shared if len(view.protected.shape(name)) > 1}
    return view.protected.replace(view.anchor.only([f"{name}.bias" for name in matrices if f"{name}.bias" in shared]))
