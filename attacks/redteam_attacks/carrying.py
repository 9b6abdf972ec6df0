"""Gauges that are found on one pair of checkpoints and applied to a third: what one lock on two models gives away."""

from __future__ import annotations

from collections.abc import Iterable

from redteam.anatomy import Site
from redteam.checkpoint import Checkpoint
from redteam.symmetry.alignment import Comparison
from redteam.symmetry.fitting import moved, require_same, sites_by_kind
from redteam.symmetry.gauges import Gauge
from redteam.symmetry.groups import largest_legal_group


def carried_over(
    locked: Checkpoint, plain: Checkpoint, other: Checkpoint, kinds: Iterable[str], *, again: bool = False
) -> tuple[Checkpoint, Checkpoint]:
    """The gauges that bring a locked checkpoint to what it was before, applied to it and to another one.

    Where the same gauges lie on both, both are what they were, up to rounding: no task vector stands between `locked`
    and `plain`. The functions of both stay, whatever lies on them. Each site is fitted once.

    Args:
        locked: A checkpoint under a lock.
        plain: The same checkpoint without it.
        other: Perhaps under the same lock.
        kinds: Kinds of sites, in this order.
        again: As in `fit_gauges`.

    Returns:
        `locked` and `other`, each without the gauges.

    Raises:
        BadInput: As `fit_gauges`.
        Inapplicable: If one of the three has other tensors at a site than another.
    """
    for sites in sites_by_kind(locked, kinds, None):
        require_same(sites, locked, plain)
        require_same(sites, locked, other)
        compare = Comparison(locked, plain, again=again)
        found: dict[str, Gauge] = {}
        for site in sites:
            gauge = largest_legal_group(site).fit(*compare(site))
            found[site.label] = gauge

        def gauge_of(site: Site, found: dict[str, Gauge] = found) -> Gauge:
            return found[site.label]

        locked, other = moved(locked, sites, gauge_of), moved(other, sites, gauge_of)
    return locked, other
