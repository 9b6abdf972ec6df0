"""Seals: what is done to single weight matrices that nobody can run with before it is undone.

Sealed are the weights of attention and MLPs, since it is their products that are left to hardware nobody trusts.
Biases, norms, embeddings and heads are released as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from torch import Tensor

from redteam.anatomy import KINDS, Affine, Draft, Linear, anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.settings import Range
from redteam.views import DefenderView

Factors = Annotated[tuple[float, float], Range(0.01, 100.0, log=True, rising=True)]
"""Between which factors are drawn."""


@dataclass(frozen=True)
class Matrix:
    """A weight matrix, [out, in].

    Attributes:
        linear: Where it lies.
        kind: Of the site that it is a part of.
        layer: Counted from 0.
        writes: Whether it writes to the residual stream; else it reads from it.
        rows: How many outputs it has.
        columns: How many inputs.
    """

    linear: Linear
    kind: str
    layer: int
    writes: bool
    rows: int
    columns: int

    @property
    def label(self) -> str:
        """Tells it from all others, those that lie in the same tensor included."""
        part = self.linear.rows or self.linear.packed
        return f"{self.linear.weight}/{0 if part is None else part.start}"

    def read(self, checkpoint: Checkpoint) -> Tensor:
        """Its numbers in float64.

        Raises:
            BadInput: If one of them is NaN or infinite.
        """
        return self.linear.read(checkpoint).weight


class Veil(Protocol):
    """What is done to one matrix, and undone."""

    def put(self, weight: Tensor) -> Tensor:
        """The matrix under it, [out, in]."""

    def take(self, sealed: Tensor) -> Tensor:
        """The matrix without it, given that it is on."""


@dataclass(frozen=True)
class Reordered:
    """Columns, or rows, multiplied by a factor each and then exchanged.

    Attributes:
        order: int64 [n]; place i of the result is place `order[i]` of what was scaled.
        scale: float64 [n]; 1 by default.
        dim: 1 for columns, 0 for rows.
    """

    order: Tensor
    scale: Tensor | None = None
    dim: int = 1

    def put(self, weight: Tensor) -> Tensor:
        scaled = weight if self.scale is None else weight * self._factors(self.scale).to(weight.device)
        return scaled.index_select(self.dim, self.order.to(weight.device))

    def take(self, sealed: Tensor) -> Tensor:
        back = sealed.index_select(self.dim, self.order.argsort().to(sealed.device))
        return back if self.scale is None else back / self._factors(self.scale).to(sealed.device)

    def _factors(self, scale: Tensor) -> Tensor:
        return scale[None, :] if self.dim == 1 else scale[:, None]


@dataclass(frozen=True)
class Rotated:
    """W Q.

    Attributes:
        turn: Q, orthogonal [in, in].
    """

    turn: Tensor

    def put(self, weight: Tensor) -> Tensor:
        return weight @ self.turn.to(weight.device)

    def take(self, sealed: Tensor) -> Tensor:
        return sealed @ self.turn.T.to(sealed.device)


@dataclass(frozen=True)
class Scaled:
    """W times a number.

    Attributes:
        factor: The number.
    """

    factor: float

    def put(self, weight: Tensor) -> Tensor:
        return weight * self.factor

    def take(self, sealed: Tensor) -> Tensor:
        return sealed / self.factor


@dataclass(frozen=True)
class Added:
    """W + A.

    Attributes:
        amount: A, [out, in].
    """

    amount: Tensor

    def put(self, weight: Tensor) -> Tensor:
        return weight + self.amount.to(weight.device)

    def take(self, sealed: Tensor) -> Tensor:
        return sealed - self.amount.to(sealed.device)


@dataclass(frozen=True)
class Mixed:
    """Groups of rows, each multiplied by a matrix of its own.

    Attributes:
        groups: Which rows, int64 [B, g], and by what they are multiplied, [B, g, g]; no row is in two of them.
    """

    groups: tuple[tuple[Tensor, Tensor], ...]

    def put(self, weight: Tensor) -> Tensor:
        mixed = weight.clone()
        for rows, matrices in self.groups:
            mixed[rows] = matrices.to(weight.device) @ weight[rows]
        return mixed

    def take(self, sealed: Tensor) -> Tensor:
        bare = sealed.clone()
        for rows, matrices in self.groups:
            bare[rows] = torch.linalg.solve(matrices.to(sealed.device), sealed[rows])
        return bare


@dataclass(frozen=True)
class Exchanged:
    """Another matrix in W's place; W stays inside.

    Attributes:
        inside: W.
        shown: The other.
    """

    inside: Tensor
    shown: Tensor

    def put(self, weight: Tensor) -> Tensor:
        return self.shown

    def take(self, sealed: Tensor) -> Tensor:
        return self.inside


@dataclass(frozen=True)
class Sealing:
    """Veils on some matrices; `redteam.symmetry.Reversible`.

    Attributes:
        matrices: Which.
        veils: Those of a matrix, the first one put on first; the same ones when asked again.
    """

    matrices: tuple[Matrix, ...]
    veils: Callable[[Matrix], Sequence[Veil]]

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """With them; lazy."""

        def veiled(matrix: Matrix, weight: Tensor) -> Tensor:
            for veil in self.veils(matrix):
                weight = veil.put(weight)
            return weight

        return self._rewritten(checkpoint, veiled)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """Without them; lazy."""

        def bare(matrix: Matrix, weight: Tensor) -> Tensor:
            for veil in reversed(self.veils(matrix)):
                weight = veil.take(weight)
            return weight

        return self._rewritten(checkpoint, bare)

    def _rewritten(self, checkpoint: Checkpoint, act: Callable[[Matrix, Tensor], Tensor]) -> Checkpoint:
        lying_in: dict[str, list[Matrix]] = {}
        for matrix in self.matrices:
            lying_in.setdefault(matrix.linear.weight, []).append(matrix)

        def rewritten(name: str) -> Tensor:
            draft = Draft.of(checkpoint)
            for matrix in lying_in[name]:
                matrix.linear.write(draft, Affine(act(matrix, matrix.read(checkpoint)), None))
            return draft.tensors[name]

        return checkpoint.replace(Checkpoint.computed(checkpoint.outline(lying_in), rewritten))


def in_base(view: DefenderView) -> Callable[[Matrix], bool]:
    """Whether the base has a matrix, too, for schemes that start from it."""
    shared = set(shared_tensors(view.victim, view.base))
    return lambda matrix: matrix.linear.weight in shared


def sealed(
    view: DefenderView,
    veils: Callable[[Matrix], Sequence[Veil]],
    only: Callable[[Matrix], bool] = lambda matrix: True,
) -> Checkpoint:
    """The victim with veils on its matrices, which whoever holds the view's key takes off.

    Args:
        view: The victim.
        veils: As in `Sealing`.
        only: Which matrices are sealed; all by default.

    Raises:
        BadInput: If the architecture is not known.
    """
    lock = Sealing(tuple(filter(only, matrices(view.victim))), veils)
    view.locks.append(lock)
    return lock.put_on(view.victim)


def matrices(checkpoint: Checkpoint) -> Iterator[Matrix]:
    """All weight matrices of attention and MLPs, each once, however many layers share it.

    Raises:
        BadInput: If the architecture is not known.
    """
    found: dict[str, Matrix] = {}
    for site in anatomy_of(checkpoint).sites(KINDS):
        for side in site.sides:
            whole = side.linear
            for linear in (whole,) if isinstance(whole, Linear) else whole.linears:
                shape = checkpoint.shape(linear.weight)
                size = (linear.outputs(shape), linear.inputs(shape))
                matrix = Matrix(linear, site.kind, site.layer, side.columns, *size)
                found.setdefault(matrix.label, matrix)
    yield from found.values()
