"""Locks that change shapes and not the function: heads padded with pairs that cancel, and what all such locks need.

A head gets dimensions in which query and key (value and output) are not both there, so that their product stays; all
dimensions are then mixed by a rotation. Wider MLPs are in `redteam.symmetry.neurons`, a wider stream in `widening`.

A network of another width is another config, so that these are no overlays: the tensors are held in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Affine, AnyLinear, Architecture, Linear, Site, Stacks, anatomy_of, architecture_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.known import completed
from redteam.errors import BadInput, IllegalGauge
from redteam.symmetry.matrix_groups import Orthogonal

_HEADS = ("qk", "vo")
Maps = tuple[Affine, ...]
"""One for each of a site's sides."""


@dataclass(frozen=True)
class Pad:
    """Every head wider by some dimensions that change nothing, mixed with the others by a rotation.

    In every second of them the query (value) is random and the key (output) zero, in the others it is the other way
    round. Queries grow by √(wider / narrower), since attention divides by the root of the head's width.

    Attributes:
        extra: How many dimensions.
        generators: The random stream of a site, by its label; the same one when asked again.
        rotated: Whether the dimensions are mixed.
    """

    extra: int
    generators: Callable[[str], np.random.Generator]
    rotated: bool = True

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """Wider heads.

        Raises:
            BadInput: If the architecture is not known, fuses the tensors concerned, or knows no other width.
            IllegalGauge: If it allows no rotation there.
        """
        if described(checkpoint).fixed_head_width:
            raise BadInput(
                f"A network of type {checkpoint.architecture!r} has heads of hidden size / heads and no others; "
                "expected one whose config can name a head width, such as 'vit'."
            )
        return reshaped(checkpoint, _HEADS, self._padded, head_width=_width(checkpoint) + self.extra)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """The heads as they were.

        Raises:
            BadInput: If the heads are not wider than what was added.
        """
        width = _width(checkpoint) - self.extra
        if width < 1:
            raise BadInput(
                f"The heads are {width + self.extra} wide, of which {self.extra} cannot be padding; expected a "
                "checkpoint that this lock was put on."
            )
        return reshaped(checkpoint, _HEADS, lambda site, maps: self._narrowed(site, maps, width), head_width=width)

    def _padded(self, site: Site, maps: Maps) -> Maps:
        stacks, draws = site.stacked(*maps), self.generators(site.label)
        sides = []
        for turn, stack in enumerate((stacks.left, stacks.right)):
            shape = (stack.shape[0], self.extra, stack.shape[2])
            random = torch.from_numpy(draws.standard_normal(shape)) * stack.square().mean().sqrt()
            random[:, turn::2] = 0.0
            sides.append(torch.cat([stack, random], dim=1))
        left = sides[0] * _temperature(site.kind, site.width, site.width + self.extra)
        right = sides[1]
        if self.rotated:
            gauge = Orthogonal().sample(site.heads, site.width + self.extra, draws)
            left, right = gauge.left(left), gauge.right(right)
        return site.left.unstack(left, maps[0]), site.pair[1].unstack(right, maps[1])

    def _narrowed(self, site: Site, maps: Maps, width: int) -> Maps:
        stacks, draws = site.stacked(*maps), self.generators(site.label)
        for stack in (stacks.left, stacks.right):  # passed over, to come to the rotation in the stream
            draws.standard_normal((stack.shape[0], self.extra, stack.shape[2]))
        left, right = stacks.left, stacks.right
        if self.rotated:
            gauge = Orthogonal().sample(site.heads, site.width, draws).inverse()
            left, right = gauge.left(left), gauge.right(right)
        left = left[:, :width] / _temperature(site.kind, width, site.width)
        return site.left.unstack(left, maps[0]), site.pair[1].unstack(right[:, :width], maps[1])


def reshaped(
    checkpoint: Checkpoint,
    kinds: Iterable[str],
    change: Callable[[Site, Maps], Maps],
    *,
    neurons: int | None = None,
    head_width: int | None = None,
) -> Checkpoint:
    """A checkpoint whose sites of some kinds have maps of other sizes, with the config to go with them; in memory.

    Args:
        checkpoint: The original.
        kinds: Kinds of sites.
        change: Site and the maps of its sides → maps of the new sizes.
        neurons: The new number of neurons.
        head_width: The new width of the heads.

    Raises:
        BadInput: If the architecture is not known, fuses the tensors concerned, or a tensor holds NaN or infinity.
        IllegalGauge: If heads are to be wider where no rotation is legal.
    """
    architecture, tensors = described(checkpoint), dict(checkpoint)
    for site in anatomy_of(checkpoint).sites(kinds):
        if head_width is not None and "orthogonal" not in site.legal:
            raise IllegalGauge(f"Heads cannot be padded at {site.label}, since no rotation is legal there.")
        maps = tuple(side.linear.read(checkpoint) for side in site.sides)
        if any(site.kind != "mlp" or gate.weight.shape != maps[0].weight.shape for gate in maps[2:]):
            raise BadInput(
                f"More than a gate goes with what is widened at {site.label}, such as a norm across it; expected maps "
                "alone, so leave this out."
            )
        for linear, affine in _whole(site, change(site, maps), checkpoint):
            tensors |= written(linear, affine, checkpoint)
    sizes = {} if head_width is None else {architecture.head_width: head_width}
    if neurons is not None:
        known = completed(checkpoint.config)
        key = next((key for key in (architecture.neurons, "intermediate_size") if key in known), None)
        if key is None:
            raise BadInput(
                f"The config of a network of type {checkpoint.architecture!r} has no setting for the number of "
                "neurons, which must change; expected one that has, such as that of 'vit'."
            )
        sizes[key] = neurons
    return Checkpoint.of(tensors, {**checkpoint.config, **sizes})


def _whole(site: Site, maps: Maps, checkpoint: Checkpoint) -> Iterator[tuple[AnyLinear, Affine]]:
    """Each map of a site; a gate and what it multiplies, where they fill one tensor, as one."""
    beside: dict[str, list[tuple[Linear, Affine]]] = {}
    for side, affine in zip(site.sides, maps, strict=True):
        linear = side.linear
        if isinstance(linear, Linear) and linear.rows is not None and not linear.rows.block and linear.packed is None:
            beside.setdefault(linear.weight, []).append((linear, affine))
        else:
            yield linear, affine
    for name, parts in beside.items():
        parts.sort(key=lambda part: part[0].rows.start)  # type: ignore[union-attr]
        first = parts[0][0]
        count = sum(linear.rows.count for linear, _ in parts if linear.rows is not None)
        biases = [affine.bias for _, affine in parts if affine.bias is not None]
        if count == checkpoint.shape(name)[1 if first.transposed else 0] and len(biases) in (0, len(parts)):
            weight = torch.cat([affine.weight for _, affine in parts])
            yield replace(first, rows=None), Affine(weight, torch.cat(biases) if biases else None)
        else:
            yield from parts


def unstacked(site: Site, maps: Maps, stacks: Stacks) -> Maps:
    """The maps of a site with neurons from stacks that have another number of rows.

    Args:
        site: Of neurons, with a gate or none.
        maps: Of its sides, which give what stacks do not hold.
        stacks: [1, n, …], perhaps with another n than the site's.
    """
    carried = () if stacks.carried is None else stacks.carried.chunk(len(site.carried), dim=2)
    rows = (stacks.left, stacks.right, *carried)
    return tuple(side.unstack(x, affine) for side, x, affine in zip(site.sides, rows, maps, strict=True))


def described(checkpoint: Checkpoint) -> Architecture:
    """What a checkpoint of a single stack is described by.

    Raises:
        BadInput: If it has several, or its architecture is not known.
    """
    name, architecture = architecture_of(checkpoint)
    if not isinstance(architecture, Architecture):
        raise BadInput(
            f"A network of type {name!r} has several stacks, whose shapes this cannot change; expected one of a single "
            "stack, such as 'vit'."
        )
    return architecture


def written(linear: AnyLinear, affine: Affine, checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """The tensors of a map of another size, in their own dtype.

    Raises:
        BadInput: If the map is a part of a tensor.
    """
    if not isinstance(linear, Linear) or linear.rows is not None or linear.packed is not None:
        raise BadInput(f"{linear.weight!r} holds several projections in one; expected a tensor of its own for each.")
    weight = affine.weight.T if linear.transposed else affine.weight
    found = {linear.weight: weight.to(checkpoint.dtype(linear.weight)).contiguous()}
    if linear.bias is not None and affine.bias is not None:
        found[linear.bias] = affine.bias.to(checkpoint.dtype(linear.bias))
    return found


def _width(checkpoint: Checkpoint) -> int:
    return anatomy_of(checkpoint).sites(("qk",))[0].width


def _temperature(kind: str, width: int, wider: int) -> float:
    return math.sqrt(wider / width) if kind == "qk" else 1.0
