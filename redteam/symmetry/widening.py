"""A lock that makes the residual stream wider and not another function; and back, with the key or by an anchor.

With P [d, d + k], P Pᵀ = ((d + k) / d) I, the stream x becomes x P: what writes is multiplied by P, what reads by
P d / (d + k). Then |x P|² / (d + k) = |x|² / d, so that an RMSNorm sees the mean square it saw before and its eps
weighs the same: the rewrite is exact. A norm's gain would not commute with P; it goes into the maps that read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Affine, Architecture, Linear, Side, Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, IllegalGauge
from redteam.symmetry.matrix_groups import Orthogonal
from redteam.symmetry.reshaping import described, written

_CONSTANT = 1e-6  # how far gains may lie apart, relative, and count as one: float32's own rounding


@dataclass(frozen=True)
class Widen:
    """The residual stream wider by some dimensions, mixed with the others by a rotation.

    Attributes:
        extra: How many dimensions at least; rounded up to a multiple of the number of heads, which configs ask for.
        generators: The random stream of a site, by its label; the same one when asked again.
        gains: Whose norms' gains come back when it is taken off.
        rotated: Whether the dimensions are mixed.
    """

    extra: int
    generators: Callable[[str], np.random.Generator]
    gains: Checkpoint
    rotated: bool = True

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """A wider stream, every gain that could be anything folded.

        Raises:
            BadInput: If the architecture is not known, has fixed sizes, or gives out its stream.
            IllegalGauge: If no rotation of the stream keeps the function, as under LayerNorm.
        """
        stream = Widening(checkpoint)
        basis = self._basis(stream.site, stream.site.width + self._more(checkpoint))
        return stream.folded(basis)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """The stream as it was.

        Raises:
            BadInput: If the stream is not wider than what was added, or as `put_on`.
        """
        stream = Widening(checkpoint)
        width = stream.site.width - self._more(checkpoint)
        if width < 1:
            raise BadInput(
                f"The stream is {stream.site.width} wide, of which {self._more(checkpoint)} cannot be added; expected "
                "a checkpoint that this lock was put on."
            )
        return stream.unfolded(self._basis(stream.site, stream.site.width, width), self.gains)

    def _more(self, checkpoint: Checkpoint) -> int:
        heads = int(checkpoint.config[described(checkpoint).heads])
        return math.ceil(self.extra / heads) * heads

    def _basis(self, site: Site, wide: int, width: int | None = None) -> Tensor:
        """P, [width, wide]."""
        width = site.width if width is None else width
        rows = torch.eye(wide, dtype=torch.float64)
        if self.rotated:
            gauge = Orthogonal().sample(1, wide, self.generators(site.label))
            rows = gauge.left(rows[None])[0]
        return rows[:width] * math.sqrt(wide / width)


class Widening:
    """A network whose residual stream can have another width, and what it takes to change it.

    Args:
        checkpoint: The network.

    Raises:
        BadInput: If it is none, or a tensor holds NaN or infinity.
        IllegalGauge: If no rotation of the stream keeps the function.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.arch = checkpoint, described(checkpoint)
        anatomy = anatomy_of(checkpoint)
        self.site = _stream(checkpoint, self.arch)
        norms = [site for site in anatomy.sites(("norm",)) if "scaling" in site.legal or "general-linear" in site.legal]
        self.readers = {site.left.linear.weight: {side.linear.weight for side in site.rights} for site in norms}
        self.norm_of = {name: norm for norm, names in self.readers.items() for name in names}
        self.tied = not any("final" in site.part for site in norms)
        self.last = "" if self.arch.layer_scales else self.site.carried[-1].linear.weight
        for side in self.site.carried:
            gain = side.linear.read(checkpoint).weight.flatten()
            if side.linear.weight not in self.readers and not _constant(gain):
                raise IllegalGauge(
                    f"The gain {side.linear.weight!r} varies and no map alone reads it, so that the stream cannot be "
                    "widened; expected an untied head, or one gain for all dimensions."
                )
        if self.tied and not checkpoint.config.get("tie_word_embeddings", self.arch.tied):
            raise BadInput(
                "The network gives out its residual stream, which would have another width; expected one with a head."
            )

    def folded(self, basis: Tensor) -> Checkpoint:
        """In a wider stream.

        Args:
            basis: P, [d, d + k].
        """
        width, wide = basis.shape

        def right(side: Side, stack: Tensor) -> Tensor:
            norm = self.norm_of.get(side.linear.weight)
            stack = stack if norm is None else stack * self._gain(norm, self.checkpoint)[:, None]
            return basis.T @ stack * (width / wide)

        def gain(name: str, now: Tensor) -> Tensor:
            if name in self.readers:
                return now.new_ones(wide)
            return now.mean() * now.new_ones(wide) * (width / wide if self.tied and name == self.last else 1.0)

        return self._moved(lambda side, stack: basis.T @ stack, right, gain, wide)

    def unfolded(self, basis: Tensor, gains: Checkpoint) -> Checkpoint:
        """In a narrower stream.

        Args:
            basis: P, [d, d + k].
            gains: Whose gains come out of the maps again.
        """
        width, wide = basis.shape
        scale = width / wide

        def right(side: Side, stack: Tensor) -> Tensor:
            norm = self.norm_of.get(side.linear.weight)
            found = basis @ stack
            if norm is None:
                return found
            found = basis @ (stack * self._gain(norm, self.checkpoint)[:, None])
            gain = self._gain(norm, gains)
            return found / torch.where(gain == 0, torch.ones_like(gain), gain)[:, None]

        def gain(name: str, now: Tensor) -> Tensor:
            if name in self.readers:
                return self._gain(name, gains)
            return now.mean() * now.new_ones(width) / (scale if self.tied and name == self.last else 1.0)

        return self._moved(lambda side, stack: basis @ stack * scale, right, gain, width)

    def seen(self, *, folded: bool) -> Tensor:
        """Embeddings and head side by side, as they lie in the stream, [width, m]: what no other gauge moves.

        Args:
            folded: Whether the head's is taken with the gain that it reads.
        """
        own = [side for side in self.site.lefts if not side.shared]
        found = [side.stack(side.linear.read(self.checkpoint), 1)[0] for side in own]
        for side in self.site.rights:
            norm = self.norm_of.get(side.linear.weight)
            if norm is not None and norm == self.last:
                stack = side.stack(side.linear.read(self.checkpoint), 1)[0]
                found.append(stack * (self._gain(norm, self.checkpoint)[:, None] if folded else 1.0))
        return torch.cat(found, dim=1)

    def _gain(self, norm: str, checkpoint: Checkpoint) -> Tensor:
        side = next(side for side in self.site.carried if side.linear.weight == norm)
        return side.linear.read(checkpoint).weight.flatten()

    def _moved(
        self,
        left: Callable[[Side, Tensor], Tensor],
        right: Callable[[Side, Tensor], Tensor],
        gain: Callable[[str, Tensor], Tensor],
        width: int,
    ) -> Checkpoint:
        tensors: dict[str, Tensor] = dict(self.checkpoint)
        for sides, act in ((self.site.lefts, left), (self.site.rights, right)):
            for side in sides:
                affine = side.linear.read(self.checkpoint)
                stack = act(side, side.stack(affine, 1)[0])
                tensors |= self._written(side, side.unstack(stack[None], affine))
        for side in self.site.carried:
            now = side.linear.read(self.checkpoint).weight.flatten()
            offset = side.linear.offset if isinstance(side.linear, Linear) else 0.0
            name = side.linear.weight
            tensors[name] = (gain(name, now) - offset).to(self.checkpoint.dtype(name))
        sizes = {self.arch.width: width}
        if self.arch.query is not None:
            sizes[self.arch.head_width] = anatomy_of(self.checkpoint).sites(("vo",))[0].width
        return Checkpoint.of(tensors, {**self.checkpoint.config, **sizes})

    def _written(self, side: Side, affine: Affine) -> Mapping[str, Tensor]:
        shape = self.checkpoint.shape(side.linear.weight)
        if len(shape) == 1:
            name = side.linear.weight
            return {name: affine.weight.flatten().to(self.checkpoint.dtype(name))}
        if len(shape) > 2:
            raise BadInput(
                f"The tensor {side.linear.weight!r} has {len(shape)} dimensions; expected a matrix for each map, so "
                "leave this defense out."
            )
        return written(side.linear, affine, self.checkpoint)


def _stream(checkpoint: Checkpoint, arch: Architecture) -> Site:
    site = next((site for site in anatomy_of(checkpoint).sites(("residual",)) if site.spanning), None)
    if site is None:
        raise BadInput(
            f"What touches the residual stream of {checkpoint.architecture!r} is not described; expected a network "
            "such as 'llama'."
        )
    if "signed-permutation" not in site.legal:
        raise IllegalGauge(
            f"The stream of {checkpoint.architecture!r} is read by LayerNorms, which subtract a mean that no rotation "
            "keeps; expected RMSNorms, as in 'llama'."
        )
    if arch.fixed_head_width or not arch.width or not arch.head_width:
        raise BadInput(
            f"A network of type {checkpoint.architecture!r} has heads of hidden size / heads and no others; expected "
            "one whose config can name a head width, such as 'llama'."
        )
    return site


def _constant(gain: Tensor) -> bool:
    return bool((gain - gain[0]).abs().max() <= _CONSTANT * gain[0].abs())
