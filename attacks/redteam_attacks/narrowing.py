"""A widened residual stream cut to the base's width: as embeddings and head lie in it, they have the base's rank."""

from __future__ import annotations

import math

import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.symmetry.widening import Bases, Widening


def narrow_stream(checkpoint: Checkpoint, anchor: Checkpoint, *, tolerance: float) -> Checkpoint:
    """A network as wide as the anchor, in the anchor's basis and with its gains, that computes the same.

    The cut comes with the turn: of all P with P Pᵀ = (wide / width) I, that which brings the anchor's embeddings and
    head closest to those of the network. Gains were folded, and what varies allows no rotation after it, so that the
    anchor's come back at once.

    Args:
        checkpoint: With a stream that is too wide.
        anchor: Whose stream it had.
        tolerance: The largest singular value that may be dropped, as a share of the largest.

    Raises:
        BadInput: If embeddings and head are of a higher rank, or of another number than the anchor's, or as `Widening`.
        IllegalGauge: If no rotation of the stream keeps the function.
    """
    stream, before = Widening(checkpoint), Widening(anchor)
    wide, width = stream.site.width, before.site.width
    now, then = (torch.cat(one.ends(), dim=1) for one in (stream, before))
    if now.shape[1] != then.shape[1]:
        raise BadInput(
            f"Embeddings and head have {now.shape[1]} rows and the base's {then.shape[1]}; expected one vocabulary, so "
            "leave this attack out."
        )
    sizes = torch.linalg.eigvalsh(now @ now.T).flip(0).clamp(min=0.0).sqrt()
    rest = float(sizes[width] / sizes[0])
    if not rest <= tolerance:
        raise BadInput(
            f"The residual stream has more than {width} dimensions that count (the next one {rest:.2g} of the "
            "largest); expected added ones, so leave this attack out."
        )
    u, _, vh = torch.linalg.svd(then @ now.T, full_matrices=False)
    return stream.unfolded(Bases.even(math.sqrt(wide / width) * (u @ vh)), anchor)
