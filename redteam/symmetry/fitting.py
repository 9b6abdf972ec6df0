"""Whole checkpoints: sampling gauges (a lock), fitting gauges to an anchor (an attack), and how close a fit came."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from redteam.anatomy import Site, Stacks, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import IllegalGauge, Inapplicable
from redteam.symmetry.canonicals import canonical
from redteam.symmetry.gauges import Gauge
from redteam.symmetry.groups import Group
from redteam.symmetry.heads import Heads, paired_features
from redteam.symmetry.shifts import Parts, Whole, toward


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
    """

    sites: tuple[Site, ...]
    gauge: Callable[[Site], Gauge]

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every site moved by its gauge; lazy."""
        return checkpoint.transform(self.sites, self.gauge)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every site moved back; lazy."""
        return checkpoint.transform(self.sites, lambda site: self.gauge(site).inverse())


def sampled_locks(
    checkpoint: Checkpoint, kinds: Iterable[str], group: Group, generators: Callable[[str], np.random.Generator]
) -> list[Lock]:
    """Random elements of a group for every site of some kinds, to be put on in this order.

    Args:
        checkpoint: Says where the sites are; no tensor is read.
        kinds: Kinds of sites.
        group: Legal at all of them.
        generators: The random stream of a site, by its label; the same one when asked again (`Key.generator`).

    Raises:
        BadInput: If the architecture is not known.
        IllegalGauge: If the group is not legal at a kind, or the architecture has no such sites.
    """

    def gauge(site: Site) -> Gauge:
        return group.sample(site.heads, site.width, generators(site.label))

    return [Lock(sites, gauge) for sites in sites_by_kind(checkpoint, kinds, group)]


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


def fit_gauges(protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str], group: Group) -> Checkpoint:
    """Brings every site of some kinds as close to an anchor as a group and the additive freedoms allow.

    The function stays that of `protected`, so that a poor fit costs closeness and never correctness. Lazy: a site is
    fitted when one of its tensors is read. Where several locks may lie on one another, heads and queries are fitted
    first, since they are recognised in any gauge, then the pairs of maps, then norms, and `restore` ends it, since
    the gain says along which directions weights are free.

    Args:
        protected: What a lock may have moved.
        anchor: The public base, or another relative.
        kinds: Kinds of sites, fitted in this order.
        group: Where the gauge is looked for; legal at all of them.

    Raises:
        BadInput: If the architecture is not known, the anchor has other tensors, or, when a tensor is read, if one
            holds NaN or infinity.
        IllegalGauge: If the group is not legal at a kind, or the architecture has no such sites.
    """
    for sites in sites_by_kind(protected, kinds, group):
        require_same(sites, protected, anchor)
        protected = _fitted(protected, anchor, sites, group)
    return protected


def _fitted(protected: Checkpoint, anchor: Checkpoint, sites: tuple[Site, ...], group: Group) -> Checkpoint:
    """One kind of sites fitted. Kinds follow one another: where heads were reordered, the next kind finds them so."""
    if not sites[0].paired:
        return protected.transform(sites, lambda site: group.fit(*comparable(site, protected, anchor)))

    def fit(place: Whole) -> Gauge:
        return group.fit(*comparable(place.site, protected, anchor))

    def change(site: Site, parts: Parts, gauge: Gauge) -> Parts:
        left, right = site.moved(parts.left, parts.right, gauge)
        return toward(site, Parts(left, right, parts.null_left, parts.null_right), Parts.read(site, anchor))

    return protected.transform([Whole(site, change) for site in sites], fit)


def comparable(site: Site, protected: Checkpoint, anchor: Checkpoint) -> tuple[Stacks, Stacks]:
    """The stacks that a group fits at a site, of the protected model and of the anchor.

    They are the canonical ones, except where heads change places: there each head may have a gauge of its own, so that
    rows stand for what no such gauge changes (`redteam.symmetry.heads`).

    Raises:
        BadInput: If a tensor holds NaN or infinity.
    """
    if site.kind not in ("heads", "queries"):
        return canonical(site, protected), canonical(site, anchor)
    attention = anatomy_of(protected).sites(("heads",))[site.layer]
    return paired_features(site, *(Heads.read(attention, checkpoint) for checkpoint in (protected, anchor)))


def tied_cost(checkpoint: Checkpoint, anchor: Checkpoint, kinds: Iterable[str]) -> float:
    """`Σ ‖left − left0‖² + ‖right − right0‖²` over the sites of some kinds, on canonical stacks.

    Raises:
        BadInput: As `fit_gauges`.
    """
    sites = anatomy_of(checkpoint).sites(kinds)
    require_same(sites, checkpoint, anchor)
    return sum(canonical(site, checkpoint).distance(canonical(site, anchor)) for site in sites)


def sites_by_kind(checkpoint: Checkpoint, kinds: Iterable[str], group: Named) -> list[tuple[Site, ...]]:
    """The sites kind by kind, since two kinds can lie in one fused tensor and then follow one another.

    Raises:
        BadInput: If the architecture is not known.
        IllegalGauge: If the group is not legal at a kind, or the architecture has no such sites.
    """
    anatomy, found = anatomy_of(checkpoint), []
    for kind in dict.fromkeys(kinds):
        sites = anatomy.sites((kind,))
        if not sites:
            raise IllegalGauge(
                f"The architecture {checkpoint.architecture!r} has no sites of the kind {kind!r} in this checkpoint; "
                "leave that kind out."
            )
        for site in sites:
            site.require_group(group.name, frozenset({group.name}), getattr(group, "layout", None))
        found.append(sites)
    return found


def require_same(sites: Iterable[Site], checkpoint: Checkpoint, anchor: Checkpoint) -> None:
    """Raises Inapplicable if the anchor lacks a tensor of a site, or has it in another shape."""
    for site in sites:
        for linear in (side.linear for side in site.sides):
            norm = () if linear.norm is None else (linear.norm.weight, linear.norm.bias)
            for name in (*linear.names, *(name for name in norm if name is not None)):
                if name not in anchor or anchor.shape(name) != checkpoint.shape(name):
                    raise Inapplicable(
                        f"The anchor's tensor {name!r} is missing or has another shape; expected an anchor of the same "
                        "architecture and size, such as the public base."
                    )
