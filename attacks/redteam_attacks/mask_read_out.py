"""Mask read-out: which coordinates were put back to the base is written in the weights; the others are scaled up."""

from typing import Annotated

import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView
from redteam_attacks.masked import kept_mask


@attack("mask-read-out", needs=Needs.ANCHOR, targets=("mergeguard",), paper="DARE's rescaling, arXiv:2311.03099")
def mask_read_out(view: AttackerView, *, least: Annotated[float, Range(0.0, 1.0)] = 0.01) -> Checkpoint:
    """τ ← τ ÷ p per tensor, p the share of coordinates that differ from the base's.

    With β = 1 what MergeGuard masks equals the base exactly, so the mask can be read off; what stood there is gone. For
    the rest this is what DARE does after its own random mask: the sum over a row is as large as before on average.
    Tensors with few such coordinates are left alone, since rounding puts some back to the base as well, and so are
    those of which nothing is left.

    Args:
        view: Grants the base.
        least: The share of masked coordinates below which a tensor counts as not masked.
    """
    restored = {}
    for name in shared_tensors(view.protected, view.anchor):
        ours, base = view.protected[name], view.anchor[name]
        if not ours.is_floating_point():
            continue
        share = float(kept_mask(ours, base).to(torch.float64).mean())
        if 0.0 < share <= 1.0 - least:
            start = base.to(torch.float64)
            restored[name] = (start + (ours.to(torch.float64) - start) / share).to(ours.dtype)
    return view.protected.replace(restored)
