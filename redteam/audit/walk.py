"""One model against its base, site by site, a layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import torch

from redteam.anatomy import Site, Stacks, anatomy_of
from redteam.audit.explain import STRANGER, Explained, Explainer, square
from redteam.audit.findings import SiteFinding, State
from redteam.audit.shifts import shifts_found
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.symmetry import Gauge, comparable

FIRST = ("residual", "experts", "heads", "queries")
"""Kinds that are looked at first, since what they move hides other locks; and the last one, which others hide."""
LAST = ("norm",)


@dataclass(frozen=True, eq=False)
class Looked:
    """A site that was looked at.

    Attributes:
        site: The site.
        finding: What is on it, shifts not yet looked for.
        view: The model with the locks of earlier sites taken off.
        gauge: What takes this site's lock off, None where there is none.
    """

    site: Site
    finding: SiteFinding
    view: Checkpoint
    gauge: Gauge | None

    def pair(self, other: Checkpoint) -> tuple[Stacks, Stacks]:
        """The stacks of the view and of another checkpoint."""
        return comparable(self.site, self.view, other)


class Walk:
    """Goes through the sites of a model.

    Args:
        model: What may be locked.
        base: The public base.
        device: Where to compute.

    Raises:
        BadInput: If the architecture is not known, or the base is of another one.
    """

    def __init__(self, model: Checkpoint, base: Checkpoint, device: str = "cpu") -> None:
        if model.architecture != base.architecture:
            raise BadInput(
                f"The model's model_type is {model.architecture!r} and the base's {base.architecture!r}; expected the "
                "base that the model was made from."
            )
        self.model, self.base = model, base
        self._view = model.cast(torch.float64, device)
        self._anchor = base.cast(torch.float64, device)
        self.sites = in_order(model)
        self.explainer = Explainer()

    def __iter__(self) -> Iterator[Looked]:
        view = self._view
        for layer, sites in groupby(self.sites, key=lambda site: None if site.kind == "residual" else site.layer):
            here = view
            looked: list[Looked] = []
            for site in sites:
                one = self._look(site, here)
                looked.append(one)
                if one.gauge is not None:
                    here = here.transform(getattr(site, "pieces", (site,)), _always(one.gauge))
            if layer is None:
                view = here
            for one in looked:
                yield self._with_shifts(one, here)

    def _look(self, site: Site, view: Checkpoint) -> Looked:
        names = tensors_of(site)
        if any(name not in self.base or self.base.shape(name) != self.model.shape(name) for name in names):
            return Looked(site, _bare(site, "reshaped"), view, None)
        if all(same(self.model, self.base, name) for name in names):
            return Looked(site, _bare(site, "equal"), view, None)
        moving, target = comparable(site, view, self._anchor)
        found = self.explainer.explain(site, moving, target, precision=self._precision(names))
        return Looked(site, _finding(site, found, square(target)), view, found.gauge)

    def _with_shifts(self, one: Looked, view: Checkpoint) -> Looked:
        finding = one.finding
        if finding.after is None or not one.site.paired:
            return one
        shifts = shifts_found(one.site, view, self._anchor, finding.after)
        return Looked(one.site, finding.model_copy(update={"shifts": shifts}), one.view, one.gauge) if shifts else one

    def _precision(self, names: tuple[str, ...]) -> float:
        dtypes = [checkpoint.dtype(name) for checkpoint in (self.model, self.base) for name in names]
        return max((torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point), default=0.0)


def in_order(model: Checkpoint) -> tuple[Site, ...]:
    """All sites: those that are everywhere first, then layer by layer in the order in which locks come off."""

    def rank(site: Site) -> tuple[int, int, int]:
        first = FIRST.index(site.kind) if site.kind in FIRST else len(FIRST) + (site.kind in LAST)
        return (0 if site.kind == "residual" else 1, site.layer, first)

    return tuple(sorted(anatomy_of(model).places, key=rank))


def tensors_of(site: Site) -> tuple[str, ...]:
    """All tensors that the stacks of a site are made of, those of the norms that it reads included."""
    names: list[str] = []
    for side in site.sides:
        names += side.linear.names
        norm = getattr(side.linear, "norm", None)
        names += [name for name in (() if norm is None else (norm.weight, norm.bias)) if name is not None]
    return tuple(dict.fromkeys(names))


def same(model: Checkpoint, base: Checkpoint, name: str) -> bool:
    """Whether a tensor equals the base's bit for bit."""
    return model.dtype(name) == base.dtype(name) and bool(torch.equal(model[name], base[name]))


def _always(gauge: Gauge) -> Callable[[object], Gauge]:
    return lambda place: gauge


def _bare(site: Site, state: State) -> SiteFinding:
    return SiteFinding(site=site.label, kind=site.kind, layer=site.layer, state=state)


def _finding(site: Site, found: Explained, size: float) -> SiteFinding:
    state: State = "unlocked" if found.group is None else "locked"
    if found.after > STRANGER * size:
        state = "unexplained"
    locked = state == "locked"
    unit = size**0.5 or 1.0
    before, after = found.before**0.5, found.after**0.5
    return SiteFinding(
        site=site.label,
        kind=site.kind,
        layer=site.layer,
        state=state,
        group=found.group if locked else None,
        before=before / unit,
        after=after / unit,
        comes_off=1 - after / before if locked else None,
        tied_before=found.before,
        tied_after=found.after,
    )


Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and what is being looked at."""
