"""Locks that change shapes and not the function: neurons split in two, heads padded with pairs that cancel; and back.

    split   neuron i becomes two with the same input, of whose outputs one has the share s and the other 1 − s
    pad     a head gets dimensions in which query and key (value and output) are not both there, so that their product
            stays; all dimensions are then mixed by a rotation

A network of another width is another config, so that these are no overlays: the tensors are held in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Affine, AnyLinear, Architecture, Linear, Site, anatomy_of, architecture_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, IllegalGauge
from redteam.symmetry.matrix_groups import Orthogonal

_HEADS = ("qk", "vo")
Maps = tuple[Affine, Affine]


@dataclass(frozen=True)
class Split:
    """Some neurons of every MLP doubled, their outputs shared out between the two, and all of them reordered.

    Attributes:
        share: How many neurons are doubled, as a share of those that are there; rounded up.
        generators: The random stream of a site, by its label; the same one when asked again.
    """

    share: float
    generators: Callable[[str], np.random.Generator]

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """Wider MLPs.

        Raises:
            BadInput: If the architecture is not known, or fuses the tensors concerned.
        """
        before = _width(checkpoint, "mlp")
        return reshaped(checkpoint, ("mlp",), self._split, neurons=before + self._extra(before))

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """The MLPs as they were.

        Raises:
            BadInput: If no width before gives the width that the MLPs have.
        """
        after = _width(checkpoint, "mlp")
        before = next((n for n in range(1, after + 1) if n + self._extra(n) == after), 0)
        if not before:
            raise BadInput(
                f"The MLPs have {after} neurons, which no doubling of a share of {self.share:g} makes; expected a "
                "checkpoint that this lock was put on."
            )
        return reshaped(checkpoint, ("mlp",), lambda site, maps: self._joined(site, maps, before), neurons=before)

    def _extra(self, neurons: int) -> int:
        return math.ceil(self.share * neurons)

    def _drawn(self, site: Site, neurons: int) -> tuple[Tensor, Tensor, Tensor]:
        """Which neurons are doubled, the first one's shares, and the order of all of them."""
        draws, extra = self.generators(site.label), self._extra(neurons)
        chosen = draws.choice(neurons, extra, replace=False)
        shares = draws.uniform(0.1, 0.9, extra)
        return tuple(map(torch.from_numpy, (chosen, shares, draws.permutation(neurons + extra))))  # type: ignore[return-value]

    def _split(self, site: Site, maps: Maps) -> Maps:
        up, down = maps
        chosen, shares, order = self._drawn(site, site.width)
        weight = torch.cat([up.weight, up.weight[chosen]])[order]
        bias = None if up.bias is None else torch.cat([up.bias, up.bias[chosen]])[order]
        kept = down.weight.clone()
        kept[:, chosen] *= shares
        out = torch.cat([kept, down.weight[:, chosen] * (1 - shares)], dim=1)[:, order]
        return Affine(weight, bias), Affine(out, down.bias)

    def _joined(self, site: Site, maps: Maps, neurons: int) -> Maps:
        up, down = maps
        chosen, _, order = self._drawn(site, neurons)
        first = order.argsort()
        out = down.weight[:, first]
        kept = out[:, :neurons].index_add(1, chosen, out[:, neurons:])
        weight, bias = (None if x is None else x[first][:neurons] for x in (up.weight, up.bias))
        assert weight is not None
        return Affine(weight, bias), Affine(kept, down.bias)


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
        return reshaped(checkpoint, _HEADS, self._padded, head_width=_width(checkpoint, "qk") + self.extra)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """The heads as they were.

        Raises:
            BadInput: If the heads are not wider than what was added.
        """
        width = _width(checkpoint, "qk") - self.extra
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
        change: Site and maps → maps of the new sizes.
        neurons: The new number of neurons.
        head_width: The new width of the heads.

    Raises:
        BadInput: If the architecture is not known, fuses the tensors concerned, or a tensor holds NaN or infinity.
    """
    tensors = dict(checkpoint)
    for site in anatomy_of(checkpoint).sites(kinds):
        if head_width is not None and "orthogonal" not in site.legal:
            raise IllegalGauge(f"Heads cannot be padded at {site.label}, since no rotation is legal there.")
        if site.carried:
            raise BadInput(
                f"The MLP at {site.label} has a gate or the like; expected one without, so leave this defense out."
            )
        for side, affine in zip(site.pair, change(site, site.read(checkpoint)), strict=True):
            tensors |= written(side.linear, affine, checkpoint)
    architecture = described(checkpoint)
    sizes = {architecture.neurons: neurons, architecture.head_width: head_width}
    return Checkpoint.of(tensors, {**checkpoint.config, **{k: v for k, v in sizes.items() if v is not None}})


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


def _width(checkpoint: Checkpoint, kind: str) -> int:
    return anatomy_of(checkpoint).sites((kind,))[0].width


def _temperature(kind: str, width: int, wider: int) -> float:
    return math.sqrt(wider / width) if kind == "qk" else 1.0
