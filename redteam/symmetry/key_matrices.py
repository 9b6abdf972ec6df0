"""Key matrices after AloePri: a wider stream in which every map has a basis of its own, and norms see it nearly even.

    P = [B, C, E] Z,   Q = Zᵀ [B⁻¹; F; D],   B = U + λ V,   C F = 0,   E D = 0

U and Z are rotations, V, E and F random, E and F of half their rank. Then P Q = I whichever C and D are taken: each map
that writes draws a C, each that reads a D. P Pᵀ is no multiple of I, so that a norm sees |x P| where it saw |x|; one
number for all x stands in for that, which makes the rewrite approximate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.symmetry.reshaping import described
from redteam.symmetry.sampling import rotations
from redteam.symmetry.widening import Bases, Widening

_SHARE = 8  # a stream is widened by no more than twice its width over this, each way


@dataclass(frozen=True)
class KeyMatrices:
    """The residual stream wider by 2 h dimensions, under key matrices.

    Attributes:
        extra: h; no more than an eighth of the width is taken, and 2 h is rounded up to a multiple of the number of
            heads, which configs ask for.
        skew: λ, how far B is from a rotation.
        generators: The random stream of a matrix, by its label; the same one when asked again.
        gains: Whose norms' gains come back when it is taken off.
        even: Whether one rotation stands in for all matrices, as in `redteam.symmetry.widening.Widen`: then exact.
    """

    extra: int
    skew: float
    generators: Callable[[str], np.random.Generator]
    gains: Checkpoint
    even: bool = False

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """A wider stream, every gain that could be anything folded.

        Raises:
            BadInput: If the head is tied, or as `Widening`.
            IllegalGauge: As `Widening`.
        """
        stream = Widening(checkpoint)
        if stream.tied and not self.even:
            raise BadInput(
                "The head is tied to the embeddings, which would have to be written in one basis and read in another; "
                "expected an untied head (tie_word_embeddings = false, and a tensor of its own)."
            )
        return stream.folded(self.bases(checkpoint, stream.site.width))

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """The stream as it was.

        Raises:
            BadInput: If the stream is not as wide as the base's becomes, or as `put_on`.
        """
        stream, width = Widening(checkpoint), Widening(self.gains).site.width
        more = self.more(checkpoint, width)
        if stream.site.width != width + more:
            raise BadInput(
                f"The stream is {stream.site.width} wide and the base's {width}, which {more} are added to; expected a "
                "checkpoint that this lock was put on, and its base."
            )
        return stream.unfolded(self.bases(checkpoint, width), self.gains)

    def more(self, checkpoint: Checkpoint, width: int) -> int:
        """2 h for a stream of some width."""
        step = math.lcm(2, int(checkpoint.config[described(checkpoint).heads]))
        return math.ceil(2 * min(self.extra, max(1, width // _SHARE)) / step) * step

    def bases(self, checkpoint: Checkpoint, width: int) -> Bases:
        """P and Q for a stream of some width."""
        h = self.more(checkpoint, width) // 2
        z = rotations(1, width + 2 * h, self.generators("Z"))[0]
        if self.even:
            return Bases.even(z[:width] * math.sqrt((width + 2 * h) / width))
        half = max(1, h // 2)

        def normal(label: str, *shape: int) -> Tensor:
            drawn = self.generators(label).standard_normal(shape)
            return torch.from_numpy(np.asarray(drawn)) / math.sqrt(width)

        b = rotations(1, width, self.generators("U"))[0] + self.skew * normal("V", width, width)
        e = normal("E1", width, half) @ normal("E2", half, h)
        f = normal("F1", h, half) @ normal("F2", half, width)
        before_f, after_e = (torch.linalg.svd(x, full_matrices=False).Vh[half:] for x in (f.T, e))
        inverse = torch.linalg.inv(b)

        def write(name: str) -> Tensor:
            return torch.cat([b, normal(f"C {name}", width, len(before_f)) @ before_f, e], 1) @ z

        def read(name: str) -> Tensor:
            return z.T @ torch.cat([inverse, f, after_e.T @ normal(f"D {name}", len(after_e), width)])

        one = write("")
        return Bases(write, read, float(one.norm()) / math.sqrt(one.shape[1]))
