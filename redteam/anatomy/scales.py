"""What norms leave free beside their own gain: one positive factor on all that they alone read (kind `norm-scale`).

A norm divides by the size of what it reads, so that a factor on it goes unseen, up to the norm's eps: whatever writes
there is multiplied, and whatever reads the same without a norm is divided. Where that is, by the place of the norms:

    before the blocks    one factor for the residual stream, from the embeddings to the last norm (Llama, ViT, GPT-2)
    after the addition   one for the embeddings, and one behind each norm, on its gain and shift and on the output
                         that is added, divided out of the projections that read the stream (BERT)
    on a block's output  one for each output (Gemma 2, OLMo 2); the stream's is then on the norm's gain
    on queries and keys  one for each head, or for all heads where one norm spans them (Qwen 3, Gemma 3, OLMo 2)

A head that is tied to the embedding sees the stream's factor, which the last norm's gain and shift then take out.
"""

from __future__ import annotations

from collections.abc import Iterable

from redteam.anatomy.adapted import AnyLinear
from redteam.anatomy.legality import subgroups
from redteam.anatomy.linear import Linear, Norm
from redteam.anatomy.site import Side, Site


def scale_site(
    layer: int,
    part: str,
    rows: int,
    own: Iterable[AnyLinear],
    also: Iterable[Linear] = (),
    readers: Iterable[Linear] = (),
    *,
    gains: Iterable[Norm] = (),
    heads: int = 1,
    spanning: bool = False,
) -> Site:
    """A site with one factor for each head.

    Args:
        layer: For its label.
        part: For its label.
        rows: How many outputs of a writer, or inputs of a reader, have one factor.
        own: Maps that are multiplied and tell the factor; at least one.
        also: Maps that are multiplied and that other sites move too.
        readers: Maps whose inputs are divided.
        gains: Norms whose gain and shift are divided.
        heads: How many factors.
        spanning: As in `Site`.
    """
    left, *left_too = (Side(linear, unit=rows) for linear in own)
    left_too += [Side(linear, unit=rows, shared=True) for linear in also]
    rights = [Side(linear, columns=True, unit=rows, shared=True) for linear in readers]
    rights += [Side(gain_of(norm), unit=rows, shared=True) for norm in gains]
    return Site(
        "norm-scale",
        layer,
        heads,
        1,
        left,
        rights[0] if rights else None,
        subgroups("positive-scaling"),
        tuple(left_too),
        tuple(rights[1:]),
        part=part,
        spanning=spanning,
    )


def gain_of(norm: Norm) -> Linear:
    """Gain and shift of a norm as a map: one number in, the width out."""
    return Linear(norm.weight, norm.bias, offset=norm.offset)
