"""Locks that change shapes and not the function: heads padded with pairs that cancel, and what all such locks need.

A head gets dimensions in which query and key (value and output) are not both there, so that their product stays; all
dimensions are then mixed by a rotation. Wider MLPs are in `redteam.symmetry.neurons`, a wider stream in `widening`.

A network of another width is another config, so that these are no overlays: the tensors are held in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Affine, AnyLinear, Architecture, Linear, Site, Stacks, anatomy_of, architecture_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.known import completed
from redteam.errors import BadInput, IllegalGauge
from redteam.symmetry.matrix_groups import Orthogonal

_HEADS = ("qk", "vo")
_MLPS = re.compile(r"^(?!.*\.\d+\.).*(mlp|ffn|fc\d|feed_forward|(gate|up|down)_proj)")  # blocks have a tower's setting
_NEURONS = re.compile(r"intermediate_size$|^(n_inner|ffn_dim|ffn_hidden_size|dff)$")
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
            random = torch.from_numpy(draws.standard_normal(shape)).to(stack.device) * stack.square().mean().sqrt()
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
        if site.kind == "mlp" and site.heads > 1:
            raise BadInput(f"The experts at {site.label} lie in one tensor; expected tensors of their own for each.")
        maps = tuple(side.linear.read(checkpoint) for side in site.sides)
        if any(site.kind != "mlp" or gate.weight.shape != maps[0].weight.shape for gate in maps[2:]):
            raise BadInput(
                f"More than a gate goes with what is widened at {site.label}, such as a norm across it; expected maps "
                "alone, so leave this out."
            )
        for linear, affine in _whole(site, change(site, maps), checkpoint):
            tensors |= written(linear, affine, checkpoint)
    config = checkpoint.config
    if head_width is not None:
        config = _resized(config, architecture, {architecture.head_width: head_width})
    if neurons is not None:
        config = _resized(config, architecture, _neurons(checkpoint, architecture, neurons))
    return Checkpoint.of(tensors, config)


def _neurons(checkpoint: Checkpoint, architecture: Architecture, neurons: int) -> dict[str, Any]:
    """Settings by which all MLPs of a network get that many neurons, where it has but one number of them.

    Raises:
        BadInput: If no setting says what they have.
    """
    before = _width(checkpoint, "mlp")
    _require_alone(checkpoint, before)
    for read in (dict, completed):  # the latter imports transformers
        found: dict[str, Any] = {}
        for key, value in part_of(read(checkpoint.config), architecture).items():
            if key == architecture.neurons or _NEURONS.search(key):
                if value == before or (value is None and key == architecture.neurons):
                    found[key] = neurons
                elif isinstance(value, list) and set(value) == {before}:
                    found[key] = [neurons] * len(value)
        if found:
            return found
    raise BadInput(
        f"The config of a network of type {checkpoint.architecture!r} has no setting for the number of neurons, which "
        "must change; expected one that has, such as that of 'vit'."
    )


def _require_alone(checkpoint: Checkpoint, neurons: int) -> None:
    """Raises BadInput if a further MLP, in a head or a connector, has its width from the same setting."""
    sites = anatomy_of(checkpoint).sites(("mlp",))
    if sites[0].left.linear.read(checkpoint).weight.shape[1] == neurons:
        return  # then a width says nothing
    own = {name for site in sites for side in site.sides for name in side.linear.names}
    for name in checkpoint:
        if name not in own and _MLPS.search(name) and neurons in checkpoint.shape(name)[:2]:
            raise BadInput(
                f"{name!r} is as wide as the MLPs and none of theirs, and the config has one setting for both; "
                "expected MLPs alone, so leave this out."
            )


def part_of(config: Mapping[str, Any], architecture: Architecture) -> Mapping[str, Any]:
    """That part of a config which is about the stack."""
    for level in architecture.config:
        inner = config.get(level)
        config = inner if isinstance(inner, Mapping) else config
    return config


def with_activation(checkpoint: Checkpoint) -> Checkpoint:
    """One whose config names the activation that transformers takes where it is left out, so that sites know it."""
    architecture = described(checkpoint)
    if any(part_of(checkpoint.config, architecture).get(key) for key in architecture.activation):
        return checkpoint
    known = part_of(completed(checkpoint.config), architecture)
    found = {key: known[key] for key in architecture.activation if known.get(key)}
    return Checkpoint.of(dict(checkpoint), _resized(checkpoint.config, architecture, found)) if found else checkpoint


def _resized(config: Mapping[str, Any], architecture: Architecture, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The config with other sizes, in that part of it which is about the stack."""

    def inside(config: Mapping[str, Any], levels: tuple[str, ...]) -> dict[str, Any]:
        if not levels:
            return {**config, **sizes}
        inner = config.get(levels[0])
        if isinstance(inner, Mapping):
            return {**config, levels[0]: inside(inner, levels[1:])}
        return inside(config, levels[1:])

    return inside(config, architecture.config)


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


def stacked(site: Site, maps: Maps) -> Stacks:
    """The stacks of a site's maps on the CPU, where keys draw and rows are sorted out."""
    return site.stacked(*(Affine(x.weight.cpu(), None if x.bias is None else x.bias.cpu()) for x in maps))


def unstacked(site: Site, maps: Maps, stacks: Stacks) -> Maps:
    """The maps of a site with neurons from stacks that have another number of rows, where the maps are.

    Args:
        site: Of neurons, with a gate or none.
        maps: Of its sides, which give what stacks do not hold.
        stacks: [1, n, …], perhaps with another n than the site's.
    """
    carried = () if stacks.carried is None else stacks.carried.chunk(len(site.carried), dim=2)
    rows = [x.to(maps[0].weight.device) for x in (stacks.left, stacks.right, *carried)]
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


def _width(checkpoint: Checkpoint, kind: str) -> int:
    return anatomy_of(checkpoint).sites((kind,))[0].width


def _temperature(kind: str, width: int, wider: int) -> float:
    return math.sqrt(wider / width) if kind == "qk" else 1.0
