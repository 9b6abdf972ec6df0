"""Locks that widen MLPs and do not change what they compute: neurons doubled, or joined by groups that cancel.

    split       neuron i becomes two with the same input, of whose outputs one has the share s and the other 1 − s
    clique      groups join that read the same and whose outputs add up to zero (arXiv:2303.09732)
    dependent   groups join no two of which read the same, and which what stands between the maps makes linearly
                dependent; their outputs cancel in that dependence
    opposite    the same behind gates no two of which are the same either

Dependent are, with rows aⱼ = Σ cⱼᵢ bᵢ of some basis b: neurons with one gate and the rows aⱼ, since a gate's neuron is
linear in the other; pairs with the rows aⱼ and −aⱼ, of which `f(x) − f(−x)` is linear (`ODD`) or `f(x) + f(−x)` is
quadratic (`SQUARE`) in aⱼ; pairs with the gates gⱼ and −gⱼ, of which the former makes products gⱼ aⱼ. Where neurons
have scales, those of a group get some.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Site, Stacks, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.symmetry.gauges import MonomialGauge
from redteam.symmetry.reshaping import Maps, described, part_of, reshaped, stacked, unstacked, with_activation
from redteam.symmetry.scalings import PositiveScaling, Scaling

ODD = {"relu", "leaky_relu", "silu", "swish", "hardswish", "quick_gelu", "gelu", "gelu_python", "gelu_accurate"}
ODD |= {"gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "linear"}
"""Activations f of which f(x) − f(−x) is a multiple of x: all that are x times what adds up to one at x and −x."""
SQUARE = {"relu2"}
"""Activations f of which f(x) + f(−x) is x²."""

Form = Literal["clique", "dependent", "opposite"]
_SCALE = (0.5, 2.0)  # of the factors in a group: neurons of one layer differ by as much
_SPREAD = 4  # how many more members than it must have a group may have


@dataclass(frozen=True)
class Wider(ABC):
    """MLPs with more neurons, in a secret order.

    Attributes:
        share: How many neurons come to those that are there, as a share of them; rounded up.
        generators: The random stream of a site, by its label; the same one when asked again.
    """

    share: float
    generators: Callable[[str], np.random.Generator]

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """Wider MLPs.

        Raises:
            BadInput: If the architecture is not known, fuses the tensors concerned, has MLPs of several widths, or none
                of this form.
        """
        checkpoint = self._known(checkpoint)
        site = _first(checkpoint)
        wider = site.width + self.extra(site, site.width)
        return reshaped(
            checkpoint, ("mlp",), lambda site, maps: self._changed(site, maps, self._widened), neurons=wider
        )

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """The MLPs as they were.

        Raises:
            BadInput: If no width before gives the width that the MLPs have.
        """
        checkpoint = self._known(checkpoint)
        site = _first(checkpoint)
        before = next((n for n in range(1, site.width) if n + self.extra(site, n) == site.width), 0)
        if not before:
            raise BadInput(
                f"The MLPs have {site.width} neurons, to which no share of {self.share:g} adds up; expected a "
                "checkpoint that this lock was put on."
            )

        def narrowed(site: Site, stacks: Stacks) -> Stacks:
            return self._narrowed(replace(site, width=before), stacks)

        return reshaped(checkpoint, ("mlp",), lambda site, maps: self._changed(site, maps, narrowed), neurons=before)

    def _known(self, checkpoint: Checkpoint) -> Checkpoint:
        return checkpoint

    def _changed(self, site: Site, maps: Maps, change: Callable[[Site, Stacks], Stacks]) -> Maps:
        return unstacked(site, maps, change(site, stacked(site, maps)))

    @abstractmethod
    def extra(self, site: Site, neurons: int) -> int:
        """How many neurons come to so many; depends on nothing secret.

        Raises:
            BadInput: If the site has no neurons of this form.
        """

    @abstractmethod
    def _widened(self, site: Site, stacks: Stacks) -> Stacks:
        """Of the site as it is."""

    @abstractmethod
    def _narrowed(self, site: Site, stacks: Stacks) -> Stacks:
        """Of the site as it was."""


@dataclass(frozen=True)
class Split(Wider):
    """Some neurons doubled, their outputs shared out between the two."""

    def extra(self, site: Site, neurons: int) -> int:
        """As in `Wider`."""
        return math.ceil(self.share * neurons)

    def _drawn(self, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        """Which neurons are doubled, the first one's shares, and the order of all of them."""
        draws, extra = self.generators(site.label), self.extra(site, site.width)
        chosen = draws.choice(site.width, extra, replace=False)
        shares = draws.uniform(0.1, 0.9, extra)
        return tuple(map(torch.from_numpy, (chosen, shares, draws.permutation(site.width + extra))))  # type: ignore[return-value]

    def _widened(self, site: Site, stacks: Stacks) -> Stacks:
        chosen, shares, order = self._drawn(site)
        kept = stacks.right.clone()
        kept[:, chosen] *= shares[:, None]
        twins = rows_of(stacks, chosen)
        twins = replace(twins, right=twins.right * (1 - shares)[:, None])
        return rows_of(joined(replace(stacks, right=kept), twins), order)

    def _narrowed(self, site: Site, stacks: Stacks) -> Stacks:
        chosen, _, order = self._drawn(site)
        first = rows_of(stacks, order.argsort())
        kept = rows_of(first, torch.arange(site.width))
        return replace(kept, right=kept.right.index_add(1, chosen, first.right[:, site.width :]))


@dataclass(frozen=True)
class Cliques(Wider):
    """Groups of neurons that cancel, among those that are there.

    Attributes:
        form: What makes them cancel.
    """

    form: Form = "clique"

    def _known(self, checkpoint: Checkpoint) -> Checkpoint:
        return checkpoint if self.form == "clique" else with_activation(checkpoint)

    def extra(self, site: Site, neurons: int) -> int:
        """As in `Wider`."""
        least, unit, _ = self._form(site)
        return unit * max(least, math.ceil(self.share * neurons / unit))

    def _form(self, site: Site) -> tuple[int, int, Callable[[Tensor, Tensor], Tensor]]:
        """The fewest rows of a group, the neurons to a row, and in what of its rows and gates the outputs cancel.

        Raises:
            BadInput: If its neurons are never dependent without reading the same.
        """
        gated = bool(site.carried) and "scaling" in site.legal
        if self.form == "clique":
            return 2, 1, lambda rows, _: torch.ones_like(rows[:, :1])
        if self.form == "opposite" and gated and site.activation in ODD:
            return 4, 2, _products
        if self.form == "dependent" and gated:
            return 3, 1, lambda rows, _: rows
        if self.form == "dependent" and not site.carried and site.activation in ODD:
            return 3, 2, lambda rows, _: rows
        if self.form == "dependent" and not site.carried and site.activation in SQUARE:
            return 4, 2, lambda rows, _: _products(rows, rows)
        there = f"{'a gate and ' * bool(site.carried)}{site.activation or 'nothing that is known'}"
        needed = f"{'a gate and ' * (self.form == 'opposite')}an activation such as 'silu'"
        raise BadInput(
            f"No neurons at {site.label} are {self.form} with what stands there ({there}); expected {needed}, so "
            "choose form=clique."
        )

    def _drawn(self, site: Site) -> tuple[np.random.Generator, list[int], Tensor]:
        """The stream, how many rows each group has, and the order of all neurons."""
        draws, extra = self.generators(site.label), self.extra(site, site.width)
        least, unit, _ = self._form(site)
        order = torch.from_numpy(draws.permutation(site.width + extra))
        left, sizes = extra // unit, list[int]()
        while left:
            size = min(left, int(draws.integers(least, least + _SPREAD)))
            sizes.append(size if left - size >= least else left)
            left -= sizes[-1]
        return draws, sizes, order

    def _widened(self, site: Site, stacks: Stacks) -> Stacks:
        draws, sizes, order = self._drawn(site)
        return rows_of(joined(stacks, *(self._group(site, stacks, size, draws) for size in sizes)), order)

    def _narrowed(self, site: Site, stacks: Stacks) -> Stacks:
        return rows_of(stacks, self._drawn(site)[2].argsort()[: site.width])

    def _group(self, site: Site, real: Stacks, size: int, draws: np.random.Generator) -> Stacks:
        """A group of so many rows, made of the rows that are there, so that it looks as they do."""
        _, unit, cancelled = self._form(site)
        rows, gates = (_directions(size, draws) for _ in range(2))
        if self.form == "clique":
            rows = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(size, -1)
        if self.form != "opposite":
            gates = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(size, -1)
        spanned = cancelled(rows, gates)
        null = torch.linalg.svd(spanned)[0][:, spanned.shape[1] :]

        basis = _mixed(site.width, 2, draws)
        read = real.left[0]
        if self.form == "opposite":  # products commute, so that both sides are of one basis
            assert real.carried is not None
            read = real.carried[0]
        left = rows @ basis(read)
        right = null @ _mixed(site.width, null.shape[1], draws)(real.right[0])
        carried = None if real.carried is None else gates @ basis(real.carried[0])
        if unit == 2:
            right = torch.cat([right, right if site.activation in SQUARE else -right])
            left = torch.cat([left, left if carried is not None else -left])
            carried = None if carried is None else torch.cat([carried, -carried])
        group = Stacks(left[None], right[None], None if carried is None else carried[None])
        return group.moved(_scales(site, len(left), draws))


def _directions(size: int, draws: np.random.Generator) -> Tensor:
    """Rows [size, 2] of length one."""
    angle = torch.from_numpy(draws.uniform(0, 2 * math.pi, size))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def _products(rows: Tensor, gates: Tensor) -> Tensor:
    """[k, 3], the quadratic form that is the product of a row and a gate."""
    mixed = rows[:, 0] * gates[:, 1] + rows[:, 1] * gates[:, 0]
    return torch.stack([rows[:, 0] * gates[:, 0], rows[:, 1] * gates[:, 1], mixed], dim=1)


def _scales(site: Site, neurons: int, draws: np.random.Generator) -> MonomialGauge:
    if "scaling" in site.legal:
        return Scaling(_SCALE).sample(1, neurons, draws)
    if "positive-scaling" in site.legal:
        return PositiveScaling(_SCALE, site.power).sample(1, neurons, draws)
    return MonomialGauge.still(1, neurons)


def _mixed(neurons: int, count: int, draws: np.random.Generator) -> Callable[[Tensor], Tensor]:
    """Takes a stack [n, k] to rows [count, k] each of which lies between two of its own, of about their length."""
    pairs = torch.from_numpy(draws.integers(neurons, size=(count, 2)))
    angle = torch.from_numpy(draws.uniform(0, math.pi / 2, (count, 1)))
    return lambda stack: angle.cos() * stack[pairs[:, 0]] + angle.sin() * stack[pairs[:, 1]]


def rows_of(stacks: Stacks, index: Tensor) -> Stacks:
    """Some neurons of those in stacks, in that order."""
    carried = None if stacks.carried is None else stacks.carried[:, index]
    return Stacks(stacks.left[:, index], stacks.right[:, index], carried)


def joined(*groups: Stacks) -> Stacks:
    """The neurons of all groups, one after the other."""
    left = torch.cat([group.left for group in groups], dim=1)
    right = torch.cat([group.right for group in groups], dim=1)
    carried = [group.carried for group in groups if group.carried is not None]
    return Stacks(left, right, torch.cat(carried, dim=1) if carried else None)


def _first(checkpoint: Checkpoint) -> Site:
    """One MLP, which stands for all.

    Raises:
        BadInput: If there is none, they have several widths, or a neuron's output depends on the others.
    """
    sites = anatomy_of(checkpoint).sites(("mlp",))
    widths = sorted({site.width for site in sites})
    if len(widths) != 1:
        found = " and ".join(map(str, widths)) or "no"
        raise BadInput(f"The network has MLPs with {found} neurons; expected MLPs, and all of one width.")
    sparse = part_of(checkpoint.config, described(checkpoint)).get("activation_sparsity_pattern")
    if any(sparse if isinstance(sparse, list) else [sparse]):
        raise BadInput(
            "The network's MLPs cut off neurons by the mean of all (activation_sparsity_pattern); expected neurons "
            "that do not see one another, so leave this defense out."
        )
    return sites[0]
