"""Which form of sealing each matrix of a checkpoint has: fits of several forms, compared with what chance leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import ARCHITECTURES, KINDS, Affine, Draft, Gathered, Linear, anatomy_of
from redteam.anatomy.linear import read_float64
from redteam.checkpoint import Checkpoint
from redteam.symmetry.covers import uncovered
from redteam.symmetry.masks import unmasked, untwinned, without_outliers
from redteam.symmetry.one_sided import Unsealed, ordered, scaled, turned

Fit = Callable[[Tensor, Tensor], Unsealed]

AS_IT_IS = "as it is"
TWINNED = "twice the columns, half of them random, in another order"
_WIDEST = 8192  # rows or columns that are put in order: their cosines fill half a gigabyte
_BETTER = 0.5  # of what simpler forms leave: a form explains more than it leaves, or it is not believed


@dataclass(frozen=True)
class Form:
    """A way to seal a weight.

    Attributes:
        name: In words.
        fit: Undoes it; given the rounding of the weight's dtype it also says how chance is to be measured.
        orders: Which of a weight's two sizes are put in order.
    """

    name: str
    fit: Callable[[Tensor, Tensor, float], tuple[Unsealed, Fit]]
    orders: tuple[int, ...] = ()


def _by(fit: Fit) -> Callable[[Tensor, Tensor, float], tuple[Unsealed, Fit]]:
    """A fit that is as free on one tensor as on any other."""
    return lambda sealed, base, _: (fit(sealed, base), fit)


def _product(sealed: Tensor, base: Tensor, rounding: float) -> tuple[Unsealed, Fit]:
    """Chance may take off as many singular values, wherever its own gap lies."""
    unsealed, count = without_outliers(sealed, base, rounding=rounding)
    return unsealed, lambda other, there: without_outliers(other, there, count=count)[0]


SCALAR = Form("a scalar", _by(scaled))
FORMS: tuple[tuple[Form, ...], ...] = (
    (
        Form("columns in another order", _by(partial(ordered, side="columns")), (1,)),
        Form("rows in another order", _by(partial(ordered, side="rows")), (0,)),
        Form("columns scaled, in another order", _by(partial(ordered, side="columns", scales=True)), (1,)),
        Form("rows scaled, in another order", _by(partial(ordered, side="rows", scales=True)), (0,)),
    ),
    (
        Form("columns rotated", _by(partial(turned, side="columns"))),
        Form("rows rotated", _by(partial(turned, side="rows"))),
    ),
    (Form("a product of low rank added", _product),),
    (Form("a mask added to rows in another order", _by(unmasked), (0,)),),
    (Form("rows mixed in groups, columns in another order", _by(uncovered), (0, 1)),),
)
"""After a scalar, families of forms, cheapest first."""


@dataclass(frozen=True)
class Found:
    """What was found of one matrix.

    Attributes:
        form: Of sealing, in words; `AS_IT_IS` where none explains it.
        before: ‖W' − W₀‖ ÷ ‖W₀‖; NaN where the shapes differ.
        left: The same after the form is undone.
        chance: What the form leaves of the same tensor in random bases.
        unsealed: The weight without it; None where it stays.
    """

    form: str
    before: float
    left: float
    chance: float
    unsealed: Unsealed | None = None


@dataclass(frozen=True)
class Place:
    """Where a matrix lies: a map of a known architecture, perhaps in a fused tensor, or a slice of any other tensor.

    Attributes:
        name: The tensor.
        linear: The map, if one is known.
        slice: Of a stack of matrices, such as experts', where none is known.
    """

    name: str
    linear: Linear | None = None
    slice: int = 0

    @property
    def label(self) -> str:
        """Tells it from all others."""
        part = self.linear and (self.linear.rows or self.linear.packed)
        return f"{self.name}/{part.start if part else self.slice}"

    def read(self, checkpoint: Mapping[str, Tensor]) -> Tensor:
        """[out, in], float64; raises BadInput if it holds NaN or infinity."""
        if self.linear is not None:
            return self.linear.read(checkpoint).weight
        tensor = read_float64(checkpoint, self.name)
        return tensor.reshape(_stack(tuple(tensor.shape)))[self.slice]

    def write(self, draft: Draft, weight: Tensor) -> None:
        """Puts a matrix there, in the tensor's dtype."""
        if self.linear is not None:
            self.linear.write(draft, Affine(weight, None))
        else:
            whole = draft.begun(self.name)
            whole.view(_stack(tuple(whole.shape)))[self.slice] = weight.to(whole.dtype)


def places_of(protected: Checkpoint, anchor: Checkpoint) -> list[Place]:
    """All matrices that the two have in common, and those of which the protected model has twice the columns."""
    maps: dict[str, Place] = {}
    if anchor.architecture in ARCHITECTURES:
        for site in anatomy_of(anchor).sites(KINDS):
            for linear in (side.linear for side in site.sides):
                parts = linear.linears if isinstance(linear, Gathered) else (linear,)
                found = (Place(part.weight, part) for part in parts if isinstance(part, Linear))
                maps |= {place.label: place for place in found if _common(place.name, protected, anchor)}
    known = {place.name for place in maps.values()}
    for name in protected:
        if name in known or not _common(name, protected, anchor):
            continue
        count, rows, columns = _stack(anchor.shape(name))
        if min(rows, columns) > 1:
            maps |= {place.label: place for place in (Place(name, None, one) for one in range(count))}
    return list(maps.values())


def found_forms(
    protected: Checkpoint, anchor: Checkpoint, generator: Callable[[str], np.random.Generator], *, drift: float
) -> dict[Place, Found]:
    """The form of every matrix.

    Args:
        protected: The sealed model, with names of the base's.
        anchor: The public base.
        generator: Gives a random stream by a tag.
        drift: ‖W − W₀‖ ÷ ‖W₀‖ up to which a weight is near the base.

    Raises:
        BadInput: If a weight holds NaN or infinity.
    """
    found = {}
    for place in places_of(protected, anchor):
        base, random = place.read(anchor)[None], generator(place.label)
        if protected.shape(place.name) != anchor.shape(place.name):
            sealed = read_float64(protected, place.name)[None]
            found[place] = _untwinned(sealed, base, random)
        else:
            rounding = torch.finfo(protected.dtype(place.name)).eps
            found[place] = form_of(place.read(protected)[None], base, random, drift=drift, rounding=rounding)
    return found


def form_of(sealed: Tensor, base: Tensor, random: np.random.Generator, *, drift: float, rounding: float) -> Found:
    """The form that explains a weight, by the rule of `unseal`.

    Args:
        sealed: float64 [1, out, in].
        base: float64 [1, out, in].
        random: For the bases of what chance is measured on.
        drift: ‖W − W₀‖ ÷ ‖W₀‖ up to which no further form is tried.
        rounding: Of the dtype that the weight came in.
    """
    size = float(base.norm())
    if size == 0 or torch.equal(sealed, base):
        return Found(AS_IT_IS, 0.0 if size else float("nan"), 0.0, 0.0)
    null = in_random_bases(sealed, random)

    def share(weight: Tensor) -> float:
        return float((weight - base).norm()) / size

    widest = share(null)
    best = Found(AS_IT_IS, share(sealed), share(sealed), widest)
    for family in ((SCALAR,), *FORMS):
        for form in family:
            if any(sealed.shape[1 + side] > _WIDEST for side in form.orders):
                continue
            unsealed, again = form.fit(sealed, base, rounding)
            left = share(unsealed.weight)
            limit = _BETTER * (best.left / best.chance) ** 2
            if not (left < best.left and left**2 < limit * widest**2):
                continue
            chance = share(again(null, base).weight)
            if left**2 < limit * chance**2:
                best = Found(form.name, best.before, left, chance, unsealed)
        if best.left <= drift:
            break
    return best


def without_seals(protected: Checkpoint, found: Mapping[Place, Found]) -> Checkpoint:
    """The checkpoint with what was found undone."""
    draft, narrower = Draft(protected), {}
    for place, one in found.items():
        if one.unsealed is None:
            continue
        if one.form == TWINNED:
            narrower[place.name] = one.unsealed.weight[0].to(protected.dtype(place.name))
        else:
            place.write(draft, one.unsealed.weight[0])
    opened = draft.tensors | narrower
    return protected.replace(opened) if opened else protected


def in_random_bases(stack: Tensor, random: np.random.Generator) -> Tensor:
    """The same singular values between other vectors, [B, out, in]: signs, orders and cosine transforms on both sides.

    Its entries are those of an independent weight of the same spectrum, for the price of a few fast transforms.
    """
    from scipy.fft import dct

    mixed = stack.cpu().numpy()
    for axis in (1, 2):
        for _ in range(2):
            count = mixed.shape[axis]
            signs = random.choice([-1.0, 1.0], count).reshape([-1 if side == axis else 1 for side in range(3)])
            mixed = dct(np.take(mixed * signs, random.permutation(count), axis), norm="ortho", axis=axis)
    return torch.from_numpy(mixed).to(stack.device)


def _untwinned(sealed: Tensor, base: Tensor, random: np.random.Generator) -> Found:
    """Of another shape than the base's, so that there is no leaving it as it is to compare with."""
    unsealed, chance = untwinned(sealed, base), untwinned(in_random_bases(sealed, random), base)
    left, most = (float((one.weight - base).norm() / base.norm()) for one in (unsealed, chance))
    sure = left**2 < _BETTER * most**2
    return Found(TWINNED if sure else AS_IT_IS, float("nan"), left, most, unsealed if sure else None)


def _common(name: str, protected: Checkpoint, anchor: Checkpoint) -> bool:
    if name not in protected or name not in anchor or len(anchor.shape(name)) < 2:
        return False
    shape, wanted = protected.shape(name), anchor.shape(name)
    twinned = len(wanted) == 2 and shape == (wanted[0], 2 * wanted[1]) and max(shape) <= _WIDEST
    return protected.dtype(name).is_floating_point and (shape == wanted or twinned)


def _stack(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """[B, out, in]: a matrix, a stack of matrices, or a kernel with its input channels and places together."""
    if len(shape) == 3:
        return shape
    return 1, shape[0], math.prod(shape[1:])
