"""One model against its base, site by site, a layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from redteam.anatomy import Site, architecture_of
from redteam.audit.compared import compared, in_order, tensors_of
from redteam.audit.explain import STRANGER, Explained, Explainer, square
from redteam.audit.findings import SiteFinding, State
from redteam.audit.shifts import shifts_found
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.symmetry import Gauge, MonomialGauge
from redteam.symmetry.fitting import moved

_MIXING = {"orthogonal", "general-linear"}  # their fits take as many columns as rows


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


class Walk:
    """Goes through the sites of a model.

    Args:
        model: What may be locked.
        base: The public base.
        device: Where to compute.
        columns: About how many columns of a stack are looked at where no legal group mixes its rows, and there are more
            rows than that: each row is told by a part of it, and distances are of that part. All by default.
        among: Says which sites are looked at; all by default. A lock on one that is left out stays on.

    Raises:
        BadInput: If the architecture is not known, or the base is of another one.
    """

    def __init__(
        self,
        model: Checkpoint,
        base: Checkpoint,
        device: str = "cpu",
        *,
        columns: int | None = None,
        among: Callable[[Site], bool] = lambda _: True,
    ) -> None:
        mine, theirs = (architecture_of(checkpoint)[0] for checkpoint in (model, base))
        if mine != theirs:
            raise BadInput(f"The model is a {mine} and the base a {theirs}; expected the base that it was made from.")
        self.model, self.base = model, base
        self._view = model.cast(torch.float64, device)
        self._anchor = base.cast(torch.float64, device)
        self.sites = tuple(filter(among, in_order(model)))
        self.explainer = Explainer()
        self._columns = columns
        self._equal: dict[str, bool] = {}

    def __iter__(self) -> Iterator[Looked]:
        view = self._view
        for layer, sites in groupby(self.sites, key=lambda site: None if site.spanning else site.layer):
            here = view
            looked: list[Looked] = []
            for site in sites:
                found = [self._look(one, here) for one in site.members or (site,)]
                looked += found
                here = _taken_off(site, [one.gauge for one in found], here)
            view = here if layer is None else self._crossing(view, looked)
            for one in looked:
                yield self._with_shifts(one, here)

    def _crossing(self, view: Checkpoint, looked: list[Looked]) -> Checkpoint:
        """The model with a layer's locks taken off where a later layer's site has the same tensors.

        Maps of every decoder layer read the last norm of an encoder, which is compared by all of them.
        """
        for one in looked:
            later = (site for site in self.sites if not site.spanning and site.layer > one.site.layer)
            if one.gauge is not None and any(set(one.site.names) & set(site.names) for site in later):
                view = moved(view, (one.site,), _always(one.gauge))
        return view

    def _look(self, site: Site, view: Checkpoint) -> Looked:
        names = tensors_of(site, self.model, self.base)
        if any(name not in self.base or self.base.shape(name) != self.model.shape(name) for name in names):
            return Looked(site, _bare(site, "reshaped"), view, None)
        if all(self._same(name) for name in names):
            return Looked(site, _bare(site, "equal"), view, None)
        # A stream is looked at first, and its embeddings are the largest tensors: they need not be cast as a whole.
        whole = site.kind == "residual" and site.spanning
        view, anchor = (self.model, self.base) if whole else (view, self._anchor)
        moving, target = compared(site, view, anchor)
        if self._columns is not None and site.width > self._columns and site.legal.isdisjoint(_MIXING):
            moving, target = moving.part(self._columns), target.part(self._columns)
        found = self.explainer.explain(site, moving, target, precision=self._precision(names))
        return Looked(site, _finding(site, found, square(target)), view, found.gauge)

    def _with_shifts(self, one: Looked, view: Checkpoint) -> Looked:
        finding = one.finding
        if finding.after is None or not one.site.paired:
            return one
        shifts = shifts_found(one.site, view, self._anchor, finding.after)
        return Looked(one.site, finding.model_copy(update={"shifts": shifts}), one.view, one.gauge) if shifts else one

    def _same(self, name: str) -> bool:
        if name not in self._equal:  # experts in one tensor ask for it in turn
            self._equal[name] = same(self.model, self.base, name)
        return self._equal[name]

    def _precision(self, names: tuple[str, ...]) -> float:
        dtypes = [checkpoint.dtype(name) for checkpoint in (self.model, self.base) for name in names]
        return max((torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point), default=0.0)


def same(model: Checkpoint, base: Checkpoint, name: str) -> bool:
    """Whether a tensor equals the base's bit for bit."""
    return model.dtype(name) == base.dtype(name) and bool(torch.equal(model[name], base[name]))


def _taken_off(site: Site, gauges: Sequence[Gauge | None], view: Checkpoint) -> Checkpoint:
    """The model with a site moved by what was found there, or by what was found at each of its members."""
    if all(gauge is None for gauge in gauges):
        return view
    still = MonomialGauge.still(1, site.width)
    parts = [still if gauge is None else gauge for gauge in gauges]
    whole = MonomialGauge.of_each(parts) if site.members else parts[0]  # type: ignore[arg-type]
    return moved(view, (site,), _always(whole))


def _always(gauge: Gauge) -> Callable[[Site], Gauge]:
    return lambda site: gauge


def _bare(site: Site, state: State) -> SiteFinding:
    return SiteFinding(site=site.label, kind=site.kind, part=site.part, layer=site.layer, state=state)


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
        part=site.part,
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
