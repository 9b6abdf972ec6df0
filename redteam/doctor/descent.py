"""What moved a model further from its base than training does: a lock, another training, or what cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from redteam.anatomy import Site
from redteam.audit.compared import LAST, in_order, tensors_of
from redteam.audit.findings import SiteFinding
from redteam.audit.walk import Walk
from redteam.audit.words import locks
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.vocabulary import in_common
from redteam.errors import BadInput


@dataclass(frozen=True)
class Descent:
    """What explains the distance.

    Attributes:
        kind: `"locked"`; `"stranger"`: most sites are as far away as another network's; `"far"`: neither;
            `"unknown"`: the fits cannot be made.
        told: Sentences on the locks, or why nothing can be told; empty otherwise.
        sites: What was found on each site that was looked at.
    """

    kind: Literal["locked", "stranger", "far", "unknown"]
    told: str
    sites: tuple[SiteFinding, ...] = ()


def explained(
    model: Checkpoint, base: Checkpoint, *, columns: int | None = None, among: Callable[[Site], bool] = lambda _: True
) -> Descent:
    """Fits the sites of a model to its base's.

    Args:
        model: A model that is far from its base.
        base: The base.
        columns: As of `redteam.audit.walk.Walk`.
        among: Says which sites are looked at; all by default.
    """
    try:
        sites = tuple(looked.finding for looked in Walk(*in_common(model, base), columns=columns, among=among))
    except BadInput as error:
        return Descent("unknown", str(error))
    if any(site.state == "locked" for site in sites):
        return Descent("locked", " ".join(locks(sites)), sites)
    changed = [site for site in sites if site.state != "equal"]
    strange = bool(changed) and 2 * sum(site.state == "unexplained" for site in changed) >= len(changed)
    return Descent("stranger" if strange else "far", "", sites)


def some_layers(model: Checkpoint, base: Checkpoint, far: Iterable[str], most: int) -> tuple[set[int], int]:
    """Layers that stand for all that have a tensor far from the base's, and how many these are.

    For each kind of site that such a tensor belongs to: the first layer, the last one, and those between that are
    spread evenly, up to `most`. Norms, which many tensors belong to, follow the others.

    Raises:
        BadInput: If the architecture is not known.
    """
    names, layers = set(far), dict[str, list[int]]()
    for site in in_order(model):
        if not site.spanning and site.kind not in LAST and names & set(tensors_of(site, model, base)):
            layers.setdefault(site.kind, []).append(site.layer)
    chosen = set[int]()
    for found in layers.values():
        held = sorted(set(found))
        steps = min(most, len(held))
        chosen |= {held[round(i * (len(held) - 1) / max(1, steps - 1))] for i in range(steps)}
    return chosen, len({layer for found in layers.values() for layer in found})
