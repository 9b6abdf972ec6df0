"""Whole checkpoints: sampling gauges (a lock), fitting gauges to an anchor (an attack), and how close a fit came."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from redteam.anatomy import Piece, Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.vocabulary import in_common
from redteam.errors import BadInput, IllegalGauge, Inapplicable
from redteam.symmetry.alignment import Comparison, distance, shared_sides
from redteam.symmetry.gauges import Gauge, MonomialGauge
from redteam.symmetry.groups import Group, adapted, at, largest_legal_group
from redteam.symmetry.permutations import Permutation
from redteam.symmetry.rotary import PlaneScaling
from redteam.symmetry.scalings import Monomial, PositiveMonomial, Scaling
from redteam.symmetry.screening import of_its_size, shown_order
from redteam.symmetry.shifts import SiteMaps, SiteRewrite, shifts_of, toward

HEADED = ("residual", "norm", "norm-scale")
"""Kinds of sites to which heads of the network can belong, which the anchor need not have."""


class Named(Protocol):
    """What says whether a group is legal somewhere."""

    @property
    def name(self) -> str:
        """As in `Site.legal`."""


@dataclass(frozen=True)
class Lock:
    """Gauges that can be put on a checkpoint and taken off again; the function stays either way.

    Attributes:
        sites: Where; no two of them share a tensor.
        gauge: Gives the gauge of a site, the same one whenever it is asked.
        groups: By a site's label the group that its gauge is from.
        wanted: The group that was asked for.
    """

    sites: tuple[Site, ...]
    gauge: Callable[[Site], Gauge]

    groups: Mapping[str, str] = field(default_factory=dict)
    wanted: str = ""

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every site moved by its gauge; lazy."""
        return moved(checkpoint, self.sites, self.gauge)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every site moved back; lazy."""
        return moved(checkpoint, self.sites, lambda site: self.gauge(site).inverse())


def moved(checkpoint: Checkpoint, sites: Iterable[Site], gauge: Callable[[Site], Gauge]) -> Checkpoint:
    """A checkpoint with a gauge at every site; lazy.

    Args:
        checkpoint: To be moved.
        sites: No two of them share a tensor.
        gauge: Must be pure. It is asked once for a site that is rewritten piece by piece, else when a tensor is read.
    """
    streams: dict[str, Gauge] = {}  # asked for by each of their tensors

    def of(piece: Site | Piece) -> Gauge:
        if not isinstance(piece, Piece):
            return gauge(piece)
        if piece.site.label not in streams:
            streams[piece.site.label] = gauge(piece.site)
        return streams[piece.site.label]

    return checkpoint.transform([piece for site in sites for piece in site.pieces], of)


def apply_gauges(
    checkpoint: Checkpoint, sites: Sequence[Site], gauge: Callable[[Site], Gauge], anchor: Checkpoint
) -> Checkpoint:
    """A checkpoint with a gauge at every site, moved along the additive freedoms to where the anchor is; lazy.

    Args:
        checkpoint: To be moved.
        sites: Of one kind; no two of them share a tensor.
        gauge: As in `moved`.
        anchor: Whose null parts, key biases and value biases to take, with the same tensors at these sites.
    """

    def change(site: Site, parts: SiteMaps, gauge: Gauge) -> SiteMaps:
        return toward(site, parts.moved(site, gauge), SiteMaps.read(site, anchor))

    def place(site: Site) -> Site | SiteRewrite:
        return SiteRewrite(site, change) if shifts_of(site) else site

    if not sites[0].paired:
        return moved(checkpoint, sites, gauge)
    return checkpoint.transform([place(site) for site in sites], lambda place: gauge(getattr(place, "site", place)))


def looked_up(gauges: Mapping[str, Gauge]) -> Callable[[Site], Gauge]:
    """Gauges by a site's label, as a function of the site."""
    return lambda site: gauges[site.label]


def sampled_locks(
    checkpoint: Checkpoint,
    kinds: Iterable[str],
    group: Group,
    generators: Callable[[str], np.random.Generator],
    *,
    adapts: bool = False,
) -> list[Lock]:
    """Random elements of a group for every site of some kinds, to be put on in this order.

    Args:
        checkpoint: Says where the sites are; no tensor is read.
        kinds: Kinds of sites.
        group: Legal at all of them.
        generators: The random stream of a site, by its label; the same one when asked again (`Key.generator`).
        adapts: Whether to take the largest legal part of the group where the whole of it is not legal.

    Raises:
        BadInput: If the architecture is not known.
        IllegalGauge: If the group is not legal at a kind, or the architecture has no such sites.
    """

    def legal(site: Site) -> Group:
        return adapted(group, site) if adapts else at(group, site)

    def gauge(site: Site) -> Gauge:
        return legal(site).sample(site.heads, site.width, generators(site.label))

    found = sites_by_kind(checkpoint, kinds, None if adapts else group)
    return [Lock(sites, gauge, {site.label: legal(site).name for site in sites}, group.name) for sites in found]


def sample_gauges(
    checkpoint: Checkpoint, kinds: Iterable[str], group: Group, generators: Callable[[str], np.random.Generator]
) -> Checkpoint:
    """A checkpoint with `sampled_locks` put on; lazy.

    Raises:
        BadInput: As `sampled_locks`, or, when a tensor is read, if one holds NaN or infinity.
        IllegalGauge: As `sampled_locks`.
    """
    for lock in sampled_locks(checkpoint, kinds, group, generators):
        checkpoint = lock.put_on(checkpoint)
    return checkpoint


def fit_gauges(
    protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str], group: Group | None, *, again: bool = False
) -> Checkpoint:
    """Brings every site of some kinds as close to an anchor as a group and the additive freedoms allow.

    The function stays that of `protected`, so that a poor fit costs closeness and never correctness. Lazy: a site is
    fitted when one of its tensors is read. Where several locks may lie on one another, the stream is fitted first, then
    experts, heads and queries, since they are recognised in any gauge, then the pairs of maps, then norms, and
    `restore` ends it, since the gain says along which directions weights are free.

    Args:
        protected: What a lock may have moved.
        anchor: The public base, or another relative.
        kinds: Kinds of sites, fitted in this order.
        group: Where the gauge is looked for; legal at all of them. None for the largest legal one of every site, and
            for leaving alone what shows no lock (`redteam.symmetry.screening`).
        again: Whether all other sites have been fitted, so that what they share with one is compared too: where gauges
            lie on one another, fits alternate.

    Raises:
        BadInput: If the architecture is not known, the anchor has other tensors, or, when a tensor is read, if one
            holds NaN or infinity.
        IllegalGauge: If the group is not legal at a kind, or the architecture has no such sites.
    """
    for sites in sites_by_kind(protected, kinds, group):
        require_same(sites, *in_common(protected, anchor))
        protected = _fitted(protected, anchor, sites, group, again)
    return protected


def _fitted(
    protected: Checkpoint, anchor: Checkpoint, sites: tuple[Site, ...], group: Group | None, again: bool
) -> Checkpoint:
    """One kind of sites fitted. Kinds follow one another: where heads were reordered, the next kind finds them so.

    A gauge is kept, unlike what it rewrites: what spans all layers reads everything below it once more.
    """
    compare = Comparison(*in_common(protected, anchor), again=again)
    kept: dict[str, Gauge] = {}

    def gauge(site: Site) -> Gauge:
        if site.label not in kept:
            kept[site.label] = fitted(site)
        return kept[site.label]

    def fitted(site: Site) -> Gauge:
        if site.members:  # neurons, so that each gauge is one of rows
            return MonomialGauge.of_each([fitted(one) for one in site.members])  # type: ignore[misc]
        if group is not None:
            return at(group, site).fit(*compare(site))
        return _quickly(site, compare) or largest_legal_group(site).fit(*compare(site))

    return apply_gauges(protected, sites, gauge, anchor)


def _quickly(site: Site, compare: Comparison) -> MonomialGauge | None:
    """The gauge that a look at samples shows, with fitted factors; None where only the whole fit will do."""
    both, largest = (compare.protected, compare.anchor), largest_legal_group(site)
    if site.kind in ("residual", "norm-scale"):
        still = compare.unturned(site) if site.kind == "residual" else compare.scales.unscaled(site)
        return MonomialGauge.still(site.heads, site.width) if still else None
    if isinstance(largest, Scaling | PlaneScaling):
        return MonomialGauge.still(site.heads, site.width) if of_its_size(site, *both) else None
    if not isinstance(largest, Permutation | PositiveMonomial | Monomial):
        return None
    order = shown_order(site, *both)
    if order is None:
        return None
    gauge = MonomialGauge(order[None])
    if isinstance(largest, Permutation) or (gauge.stays and of_its_size(site, *both)):
        return gauge
    return largest.scaled(gauge, *compare(site))


def tied_cost(checkpoint: Checkpoint, anchor: Checkpoint, kinds: Iterable[str]) -> float:
    """`Σ ‖left − left0‖² + ‖right − right0‖²` over the sites of some kinds, on canonical stacks.

    What only norms read is compared without a factor that training may have left there: none is told from 1 by a fit,
    how far it lies from 1 is chance, and it shows at every kind of site that embeds or writes.

    Raises:
        BadInput: As `fit_gauges`.
    """
    checkpoint, anchor = in_common(checkpoint, anchor)
    return _tied_cost(_without_trained_factors(checkpoint, anchor), anchor, kinds)


def tied_costs(checkpoint: Checkpoint, anchor: Checkpoint) -> dict[str, float]:
    """`tied_cost` by kind of site, of all that the anchor has; without those at which the two differ in shape.

    Raises:
        BadInput: If the architecture is not known, or NaN or infinity is among what is read.
    """
    checkpoint, anchor = in_common(checkpoint, anchor)
    plain, costs = _without_trained_factors(checkpoint, anchor), {}
    for kind in dict.fromkeys(site.kind for site in anatomy_of(anchor).places):
        with suppress(BadInput):
            costs[kind] = _tied_cost(plain, anchor, (kind,))
    return costs


def _tied_cost(checkpoint: Checkpoint, anchor: Checkpoint, kinds: Iterable[str]) -> float:
    sites = anatomy_of(checkpoint).sites(kinds)
    require_same(sites, checkpoint, anchor)
    return sum(distance(site, checkpoint, anchor) for site in sites)


def _without_trained_factors(checkpoint: Checkpoint, anchor: Checkpoint) -> Checkpoint:
    for site in anatomy_of(checkpoint).sites(("norm-scale",)):
        if shared_sides(site, checkpoint, anchor):
            compare = Comparison(checkpoint, anchor)
            if compare.scales.unscaled(site):
                gauge = largest_legal_group(site).fit(*compare(site))
                checkpoint = moved(checkpoint, (site,), looked_up({site.label: gauge}))
    return checkpoint


def sites_by_kind(checkpoint: Checkpoint, kinds: Iterable[str], group: Named | None) -> list[tuple[Site, ...]]:
    """The sites kind by kind, and apart, since two kinds can lie in one fused tensor and then follow one another.

    Raises:
        BadInput: If the architecture is not known.
        IllegalGauge: If the group is not legal at a kind, or the architecture has no such sites.
    """
    anatomy, found = anatomy_of(checkpoint), []
    for kind in dict.fromkeys(kinds):
        sites = anatomy.sites((kind,))
        if not sites:
            there = ", ".join(dict.fromkeys(site.kind for site in anatomy.places))
            raise IllegalGauge(
                f"The architecture {checkpoint.architecture!r} has no sites of the kind {kind!r} in this checkpoint, "
                f"only of {there}; choose among those, or take a plugin for them."
            )
        for site in sites:
            if group is not None:
                turned = getattr(group, "turned", None)
                site.require_group(group.name, frozenset({group.name}), getattr(group, "layout", None), turned)
        found += apart(sites)
    return found


def apart(sites: Iterable[Site]) -> list[tuple[Site, ...]]:
    """Sites in batches that follow one another: those that share a tensor with an earlier one come in a later batch.

    What spans all layers has a batch to itself, since it bears on what others are compared by.
    """
    batches: list[list[Site]] = []
    last: dict[str, int] = {}
    least = 0
    for site in sites:
        least = len(batches) if site.spanning else least
        batch = max(least, 1 + max((last.get(name, -1) for name in site.names), default=-1))
        last |= dict.fromkeys(site.names, batch)
        least = batch + 1 if site.spanning else least
        if batch == len(batches):
            batches.append([])
        batches[batch].append(site)
    return [tuple(batch) for batch in batches]


def require_same(sites: Iterable[Site], checkpoint: Checkpoint, anchor: Checkpoint) -> None:
    """Raises Inapplicable if the anchor lacks a tensor of a site, or has it in another shape.

    Where heads of the network or further tokens belong to a site, they may be the expert's own, as long as the anchor
    has something that nothing else moves.
    """
    for site in sites:
        if site.kind in HEADED and shared_sides(site, checkpoint, anchor):
            continue
        for linear in (side.linear for side in site.sides):
            norm = () if linear.norm is None else (linear.norm.weight, linear.norm.bias)
            for name in (*linear.names, *(name for name in norm if name is not None)):
                if name not in anchor or anchor.shape(name) != checkpoint.shape(name):
                    raise Inapplicable(
                        f"The anchor's tensor {name!r} is missing or has another shape; expected an anchor of the same "
                        "architecture and size, such as the public base."
                    )
