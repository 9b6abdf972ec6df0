"""Sites: the places of a network that have a symmetry, all of one form.

A site is a pair of stacks, `left` [B, n, a] and `right` [B, n, c], and the function stays the same under
`left ← G left, right ← G⁻ᵀ right`:

    qk       left = the r query heads of a key/value group side by side, a bias as one more column; right = the key head
    vo       left = the value head, with its bias; right = the r heads' columns of the output, transposed, side by side
    mlp      left = up, with its bias; right = down, transposed; one batch entry, n neurons; carried = the gate; with
             a squared ReLU between them, right takes the square of a factor
    heads    left = query, key and value, a row for all of a group; right = the output's columns; n groups
    queries  left = query, a row for each head of a group; right = the output's columns; n = r heads to a group
    norm-scale  left = all that writes what norms alone read; right = all that reads it without a norm; one factor
    norm     left = gain γ and shift β; right = the columns of every projection that reads them; n = the model's width
    qk-norm  left = the gains of the queries' norm, right = those of the keys'; n = the head's width
    experts  left = the router's rows and every expert's gate and up, right = their downs; n experts
    residual left = all that writes to the stream, right = all that reads it, carried = the norms' gains; n = the width

What is carried follows a gauge's permutation and nothing else of it: a gate is not scaled with its neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from redteam.anatomy.adapted import AnyLinear
from redteam.anatomy.legality import Layout, listed
from redteam.anatomy.linear import Affine, Draft, Linear
from redteam.anatomy.stacks import GaugeLike, Stacks
from redteam.errors import IllegalGauge


@dataclass(frozen=True)
class Side:
    """One side of a site: a linear map, and how it is cut into heads.

    Attributes:
        linear: The map.
        share: How many heads share one G (r).
        columns: Whether G acts on the map's input (its columns, transposed, are stacked) rather than on its output.
        unit: How many dimensions make one row of the stack: those of a whole head where heads are permuted.
        shared: Whether other sites move the map too: it says nothing of this one's gauge until theirs are found.
    """

    linear: AnyLinear
    share: int = 1
    columns: bool = False
    unit: int = 1
    shared: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that a gauge rewrites: where it acts on the input, the bias stays."""
        return (self.linear.weight,) if self.columns else self.linear.names

    def stack(self, affine: Affine, heads: int) -> Tensor:
        """[B, n, r·k] from a map whose stacked dimension is B·r·n units long; head h belongs to group h // r."""
        flat = affine.weight.T if self.columns else affine.weight
        if not self.columns and affine.bias is not None:
            flat = torch.cat([flat, affine.bias[:, None]], dim=1)
        cut = flat.reshape(heads, self.share, -1, self.unit * flat.shape[1])
        return cut.transpose(1, 2).reshape(heads, cut.shape[2], -1)

    def unstack(self, stack: Tensor, affine: Affine) -> Affine:
        """The reverse of `stack`; `affine` gives what the stack doesn't hold."""
        cut = stack.reshape(*stack.shape[:2], self.share, -1).transpose(1, 2)
        flat = cut.reshape(-1, cut.shape[-1] // self.unit)
        if self.columns:
            return Affine(flat.T, affine.bias)
        return Affine(flat, None) if affine.bias is None else Affine(flat[:, :-1], flat[:, -1])


@dataclass(frozen=True)
class Site:
    """A place with a symmetry.

    Attributes:
        kind: One of `redteam.anatomy.KINDS_OF_SITES`.
        layer: Counted from 0.
        heads: Batch size B of the stacks: key/value heads; 1 where there is one gauge for all.
        width: n, what a gauge mixes: the dimensions of a head, the neurons of an MLP, heads, the dimensions of a norm.
        left: The map that G multiplies.
        right: The map that G⁻ᵀ multiplies; None where G multiplies alone, since a norm takes it out again.
        legal: Names of the groups that keep the function here.
        left_too: Further maps that G multiplies.
        right_too: Further maps that G⁻ᵀ multiplies.
        carried: Maps that take G's permutation alone.
        planes: Layout of the rotary planes, if a rotary embedding follows; a planar gauge must have the same.
        turned: How many dimensions of a head the planes cover; all of them by default.
        power: By which power of a row's factor its right side must be divided: the degree of what stands between them.
        activation: What the config calls the function between an MLP's maps; empty where it is cut off or not known.
        part: Tells two sites of one kind in a layer apart.
        spanning: Whether it spans all layers; then its tensors are rewritten one by one.
    """

    kind: str
    layer: int
    heads: int
    width: int
    left: Side
    right: Side | None
    legal: frozenset[str]
    left_too: tuple[Side, ...] = ()
    right_too: tuple[Side, ...] = ()
    carried: tuple[Side, ...] = ()
    planes: Layout | None = None
    turned: int | None = None
    power: int = 1
    activation: str = ""
    part: str = ""
    spanning: bool = False
    still: ClassVar[bool] = True
    """That a neutral gauge leaves its tensors as they are."""

    @property
    def label(self) -> str:
        """For example `"qk/3"` or `"norm/3/mlp"`."""
        return "/".join(filter(None, (self.kind, str(self.layer), self.part)))

    @property
    def lefts(self) -> tuple[Side, ...]:
        """All that G multiplies."""
        return (self.left, *self.left_too)

    @property
    def rights(self) -> tuple[Side, ...]:
        """All that G⁻ᵀ multiplies."""
        return (*(() if self.right is None else (self.right,)), *self.right_too)

    @property
    def pair(self) -> tuple[Side, Side]:
        """`left` and `right`, of a site that has both."""
        assert self.right is not None, "asked of sites that are pairs"
        return self.left, self.right

    @property
    def sides(self) -> tuple[Side, ...]:
        """All sides: those that G multiplies, those that G⁻ᵀ does, those that are carried."""
        return (*self.lefts, *self.rights, *self.carried)

    @property
    def paired(self) -> bool:
        """Whether `left` and `right` are a pair of maps, with additive freedoms of their own: qk, vo and mlp."""
        return self.kind in ("qk", "vo", "mlp")

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that a gauge rewrites, each once."""
        return tuple(dict.fromkeys(name for side in self.sides for name in side.names))

    @cached_property
    def members(self) -> tuple[Site, ...]:
        """The site of each expert where all lie in one tensor, so that one need be held at a time; else none."""
        packed = self.paired and all(isinstance(side.linear, Linear) and side.linear.packed for side in self.sides)
        return tuple(self._member(place) for place in range(self.heads)) if packed and self.heads > 1 else ()

    def _member(self, place: int) -> Site:
        def own(side: Side) -> Side:
            assert isinstance(side.linear, Linear)
            assert side.linear.packed is not None
            return replace(side, linear=replace(side.linear, packed=replace(side.linear.packed, expert=place)))

        left, right = map(own, self.pair)
        part = "/".join(filter(None, (self.part, f"expert-{place}")))
        return replace(self, heads=1, left=left, right=right, carried=tuple(map(own, self.carried)), part=part)

    def parts(self, amount: Any) -> Iterator[tuple[Site, Any]]:
        """Each of `members` with its part of an amount, a gauge or None; the site itself where it has none."""
        if not self.members or not (amount is None or hasattr(amount, "part")):
            yield self, amount
            return
        yield from ((one, None if amount is None else amount.part(place)) for place, one in enumerate(self.members))

    def read(self, checkpoint: Mapping[str, Tensor]) -> tuple[Affine, Affine]:
        """The two maps `left` and `right`, in float64."""
        left, right = self.pair
        return left.linear.read(checkpoint), right.linear.read(checkpoint)

    def write(
        self, checkpoint: Mapping[str, Tensor], left: Affine, right: Affine, carried: Sequence[Affine] = ()
    ) -> dict[str, Tensor]:
        """The tensors of both maps, and of what is carried where it is given, in their own dtype."""
        sides = (*self.pair, *(self.carried if carried else ()))
        return _written(checkpoint, zip(sides, (left, right, *carried), strict=True))

    def stacks(self, checkpoint: Mapping[str, Tensor]) -> Stacks:
        """The stacks as they are in the checkpoint, float64.

        Raises:
            BadInput: If a tensor holds NaN or infinity.
        """
        return self.stacked(*(side.linear.read(checkpoint) for side in self.sides))

    def stacked(self, *maps: Affine) -> Stacks:
        """The stacks of some maps, one for each of `sides`; further maps are more columns."""
        cut = [side.stack(affine, self.heads) for side, affine in zip(self.sides, maps, strict=True)]
        lefts, rights = len(self.lefts), len(self.rights)
        left, right, carried = cut[:lefts], cut[lefts : lefts + rights], cut[lefts + rights :]
        right = right or [left[0][:, :, :0]]
        return Stacks(_beside(left), _beside(right), _beside(carried) if carried else None)

    def moved(self, maps: Sequence[Affine], gauge: GaugeLike) -> list[Affine]:
        """The maps of all `sides` under a gauge.

        Raises:
            IllegalGauge: If the gauge would change the function, or is for another number of heads or dimensions.
        """
        self.require(gauge)
        return [
            _turned(side, affine, self.heads, act) for (side, act), affine in zip(self._acts(gauge), maps, strict=True)
        ]

    def apply(self, checkpoint: Mapping[str, Tensor], gauge: GaugeLike) -> dict[str, Tensor]:
        """The tensors in `names` under a gauge, in their own dtype.

        Raises:
            BadInput: If a tensor holds NaN or infinity.
            IllegalGauge: See `moved`.
        """
        self.require(gauge)
        draft = Draft.of(checkpoint)
        for site, own in self.parts(gauge):
            for side, act in site._acts(own):
                side.linear.write(draft, _turned(side, side.linear.read(checkpoint), site.heads, act))
        return {name: draft.tensors[name] for name in self.names}

    @property
    def pieces(self) -> tuple[Rewrite, ...]:
        """What can be rewritten on its own, given the gauge: the site, or its single tensors where they are many."""
        if not self.spanning:
            return (self,)
        return tuple(Piece(self, place) for place in range(len(self.sides)))

    def _acts(self, gauge: GaugeLike) -> Iterator[tuple[Side, Act]]:
        for sides, act in ((self.lefts, gauge.left), (self.rights, gauge.right), (self.carried, gauge.carried)):
            yield from ((side, act) for side in sides)

    def require(self, gauge: GaugeLike) -> None:
        """Says why a gauge cannot be applied here.

        Raises:
            IllegalGauge: If it would change the function, or is for another number of heads or dimensions.
        """
        self.require_group(gauge.group, gauge.groups, gauge.layout, gauge.turned)
        if gauge.power != self.power and "permutation" not in gauge.groups:
            raise IllegalGauge(
                f"A gauge that divides the other side by its factors to the power {gauge.power} changes the function "
                f"at {self.label}; expected the power {self.power}."
            )
        if (gauge.batch, gauge.width) != (self.heads, self.width):
            raise IllegalGauge(
                f"A gauge for {gauge.batch} heads of {gauge.width} dimensions doesn't fit {self.label}; "
                f"expected {self.heads} of {self.width}."
            )

    def require_group(self, name: str, names: frozenset[str], layout: Layout | None, turned: int | None = None) -> None:
        """Says why no element of a group keeps the function here.

        Args:
            name: The group.
            names: It and all that contain it, or the groups that a gauge belongs to.
            layout: Of its rotary planes, if it has any.
            turned: How many dimensions those planes cover, if it has any and knows.

        Raises:
            IllegalGauge: If it would change the function.
        """
        if self.legal.isdisjoint(names):
            raise IllegalGauge(
                f"A gauge of the {name} group changes the function at {self.label}{self._why()}; legal there: "
                f"{listed(self.legal)}."
            )
        if self.planes is not None and layout != self.planes:
            raise IllegalGauge(
                f"A gauge for planes in the {layout!r} layout changes the function at {self.label}, where they lie in "
                f"the {self.planes!r} layout; name that one."
            )
        covered = self.width if self.turned is None else self.turned
        if self.planes is not None and turned not in (None, covered):
            raise IllegalGauge(
                f"A gauge for planes in {turned} dimensions changes the function at {self.label}, where a rotary "
                f"embedding turns {covered} of {self.width}; name that number."
            )

    def _why(self) -> str:
        if self.planes is not None and self.kind == "qk":
            normed = ", whose norm comes before it" if self.legal.isdisjoint(("planar", "partial-planar")) else ""
            return f", where a rotary embedding turns queries and keys by their position{normed}"
        if self.carried and self.kind == "mlp":
            return ", where a gate must keep its scale and sign"
        return ""


@dataclass(frozen=True)
class Piece:
    """One side of a site whose tensors are many, rewritten alone.

    Attributes:
        site: Whose gauge it takes.
        place: Which of its sides.
    """

    site: Site
    place: int
    still: ClassVar[bool] = True

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that a gauge rewrites."""
        return self.site.sides[self.place].names

    def apply(self, checkpoint: Mapping[str, Tensor], gauge: GaugeLike) -> dict[str, Tensor]:
        """Those tensors under a gauge; raises as `Site.apply`."""
        self.site.require(gauge)
        side, act = list(self.site._acts(gauge))[self.place]
        tensors = side.linear.write(checkpoint, _turned(side, side.linear.read(checkpoint), self.site.heads, act))
        return {name: tensors[name] for name in self.names}


Act = Callable[[Tensor], Tensor]
Rewrite = Site | Piece


def _written(checkpoint: Mapping[str, Tensor], sides: Iterable[tuple[Side, Affine]]) -> dict[str, Tensor]:
    draft = Draft.of(checkpoint)
    for side, affine in sides:
        side.linear.write(draft, affine)
    return draft.tensors


def _beside(stacks: list[Tensor]) -> Tensor:
    return stacks[0] if len(stacks) == 1 else torch.cat(stacks, dim=-1)


def _turned(side: Side, affine: Affine, heads: int, act: Act) -> Affine:
    return side.unstack(act(side.stack(affine, heads)), affine)
