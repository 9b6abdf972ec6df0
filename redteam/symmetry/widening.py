"""A lock that makes the residual stream wider and not another function; and back, with the key or by an anchor.

The stream x becomes x P: what writes is multiplied by P [d, d + k], what reads by Q with P Q = I (`Bases`). A norm's
gain would not commute with P; it goes into the maps that read it. `Widen` takes P Pᵀ = ((d + k) / d) I and
Q = Pᵀ d / (d + k). Then |x P|² / (d + k) = |x|² / d, so that an RMSNorm sees the mean square it saw before and its eps
weighs the same: the rewrite is exact.
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
class Bases:
    """What a stream is multiplied by, where it is written and where it is read.

    Attributes:
        write: The name of a tensor that writes → its P, [d, d + k].
        read: The name of a tensor that reads → its Q, [d + k, d]; P Q = I whichever two are taken.
        factor: The root mean square of x P over that of x, which norms have to be told.
    """

    write: Callable[[str], Tensor]
    read: Callable[[str], Tensor]
    factor: float = 1.0

    @classmethod
    def pair(cls, write: Tensor, read: Tensor) -> Bases:
        """One P and one Q for all; the factor is that of an x whose directions are all as likely."""
        return cls(lambda _: write, lambda _: read, float(write.norm()) / math.sqrt(write.shape[1]))

    @classmethod
    def even(cls, basis: Tensor) -> Bases:
        """Of a P whose P Pᵀ is a multiple of I, scaled so that no norm sees a difference."""
        width, wide = basis.shape
        return cls.pair(basis, basis.T * (width / wide))


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
        return stream.folded(Bases.even(basis))

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
        return stream.unfolded(Bases.even(self._basis(stream.site, stream.site.width, width)), self.gains)

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

    def folded(self, bases: Bases) -> Checkpoint:
        """In a wider stream.

        A tied head reads with Pᵀ, so that it comes out right where P Pᵀ is a multiple of I alone.
        """

        def right(side: Side, stack: Tensor) -> Tensor:
            norm = self.norm_of.get(side.linear.weight)
            stack = stack if norm is None else stack * self._gain(norm, self.checkpoint)[:, None]
            return bases.read(side.linear.weight).to(stack.device) @ stack

        width, wide = bases.write(self.site.left.linear.weight).shape

        def gain(name: str, now: Tensor) -> Tensor:
            ones = now.new_full((wide,), bases.factor)
            if name in self.readers:
                return ones
            return now.mean() * ones * (width / wide if self.tied and name == self.last else 1.0)

        def left(side: Side, stack: Tensor) -> Tensor:
            return bases.write(side.linear.weight).T.to(stack.device) @ stack

        return self._moved(left, right, gain, wide)

    def unfolded(self, bases: Bases, gains: Checkpoint) -> Checkpoint:
        """In a narrower stream.

        Args:
            bases: Those that it was folded by, or what an attack takes for them.
            gains: Whose gains come out of the maps again.
        """
        width, wide = bases.write(self.site.left.linear.weight).shape

        def right(side: Side, stack: Tensor) -> Tensor:
            norm, basis = self.norm_of.get(side.linear.weight), bases.write(side.linear.weight).to(stack.device)
            if norm is None:
                return basis @ stack
            found = basis @ (stack * self._gain(norm, self.checkpoint)[:, None]) / bases.factor
            gain = self._gain(norm, gains)
            return found / torch.where(gain == 0, torch.ones_like(gain), gain)[:, None]

        def gain(name: str, now: Tensor) -> Tensor:
            if name in self.readers:
                return self._gain(name, gains)
            scale = width / wide if self.tied and name == self.last else 1.0
            return now.mean() * now.new_ones(width) / scale / bases.factor

        def left(side: Side, stack: Tensor) -> Tensor:
            return bases.read(side.linear.weight).T.to(stack.device) @ stack

        return self._moved(left, right, gain, width)

    def ends(self) -> tuple[Tensor, Tensor]:
        """Embeddings and head as they lie in the stream, [width, m] each: what no other gauge moves.

        The head is taken with the gain that it reads, and is empty where there is none of its own.
        """
        own = [side for side in self.site.lefts if not side.shared]
        heads = [side for side in self.site.rights if self.norm_of.get(side.linear.weight) == self.last]
        lefts = [self.stack(side) for side in own]
        return torch.cat(lefts, dim=1), torch.cat([lefts[0][:, :0], *(self.stack(side) for side in heads)], dim=1)

    def stack(self, side: Side) -> Tensor:
        """One of the maps that write or read, with the gain that it reads, [width, m]."""
        found = side.stack(side.linear.read(self.checkpoint), 1)[0]
        norm = self.norm_of.get(side.linear.weight)
        return found if norm is None else found * self._gain(norm, self.checkpoint)[:, None]

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
