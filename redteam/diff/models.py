"""Two models compared: as their weights are, and up to what no function sees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from redteam.anatomy import ORDER, Site, architecture_of
from redteam.audit.compared import compared, in_order, tensors_of
from redteam.audit.explain import square
from redteam.audit.findings import SiteFinding
from redteam.audit.walk import Progress
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.configs import disagreements
from redteam.checkpoint.vocabulary import in_common
from redteam.diff.findings import Entry, KindDistance, ModelDiff, Relation, ShapeChange, Share, TensorDistance
from redteam.diff.words import ROUNDING, summary
from redteam.doctor.descent import explained, some_layers
from redteam.doctor.gauges import COLUMNS, LAYERS
from redteam.doctor.weighed import FAR, Weighed, weigh
from redteam.errors import BadInput
from redteam.symmetry.fit_all import fit_all


def diff_models(
    one: Checkpoint,
    other: Checkpoint,
    base: Checkpoint | None = None,
    *,
    names: tuple[str, str, str] = ("A", "B", "the base"),
    progress: Progress | None = None,
) -> ModelDiff:
    """Compares two models, a tensor of each in memory at a time, and brings the first to the second's gauges.

    What is fitted keeps the first one's function, so that a distance up to gauge is never too small.

    Args:
        one: The model that is brought to the other's gauges.
        other: The other, with names of tensors that agree with the first's where they can.
        base: Both were made from it: says how much of one's task vector the other holds.
        names: What the three are called.
        progress: Called before every step with steps done, steps in all, and what comes next.

    Raises:
        BadInput: If a tensor cannot be read.
    """
    told = progress or (lambda *_: None)
    here, there = in_common(one, other)
    plain = weigh({names[0]: here}, there, told)[names[0]]
    why = _immeasurable(plain, there, names)
    fitted = _Fitted(None, why=why) if why else _Fitted.of(here, there, plain, told)
    found = ModelDiff(
        a=names[0],
        b=names[1],
        architectures=(one.architecture, other.architecture),
        relation="unknown" if why else _relation(one, other, plain, fitted),
        summary=(),
        only_a=tuple(name for name in one if name not in other),
        only_b=tuple(name for name in other if name not in one),
        shapes=tuple(
            ShapeChange(name=name, a=tuple(one.shape(name)), b=tuple(other.shape(name)))
            for name in one
            if name in other and one.shape(name) != other.shape(name)
        ),
        dtypes=_dtypes(one, other),
        settings=tuple(
            Entry(name=key, a=str(a), b=str(b)) for key, (a, b) in disagreements(one.config, other.config).items()
        ),
        shared=len(plain.shared),
        equal=len(plain.same),
        distance=None if why else plain.length,
        up_to_gauge=_least(plain.length, fitted.after.length) if fitted.after is not None else None,
        kinds=fitted.kinds,
        tensors=tuple(_tensors(plain, fitted.after)),
        share=None if base is None else share(one, other, base, name=names[2]),
    )
    return found.model_copy(update={"summary": tuple(summary(found, fitted.why))})


def _immeasurable(plain: Weighed, there: Checkpoint, names: tuple[str, str, str]) -> str:
    """Why no distance between two models means anything; empty where one does."""
    if plain.refused:
        return next(iter(plain.refused.values())).removeprefix("The expert ")
    for name in plain.shared:
        if name not in plain.apart and name not in plain.same and there.dtype(name).is_floating_point:
            return f"{names[1]} holds NaN or infinity in {name!r}; fetch or train it again"
    if plain.apart and not any(plain.size.values()) and not plain.is_base:
        return f"{names[1]} is zero in all tensors that the two share; fetch it again"
    return ""


class _Fitted:
    """The first model in the second's gauges, weighed.

    Attributes:
        after: Its distances, tensor by tensor; `None` where no fit was made.
        kinds: By kind of site.
        why: Why there is no fit, where it could not be made.
    """

    def __init__(self, after: Weighed | None, kinds: tuple[KindDistance, ...] = (), why: str = "") -> None:
        self.after, self.kinds, self.why = after, kinds, why

    @classmethod
    def of(cls, here: Checkpoint, there: Checkpoint, plain: Weighed, told: Progress) -> _Fitted:
        if not plain.shared:
            return cls(None)
        if plain.is_base:
            return cls(plain)
        try:
            if (types := {architecture_of(model)[0] for model in (here, there)}) and len(types) > 1:
                raise BadInput(f"they are of different architectures, {' and '.join(sorted(types))}")
            exact, anchor = here.recent().cast(torch.float64), there.recent().cast(torch.float64)
            fitted = fit_all(exact, anchor, ORDER).recent()
            kinds = tuple(_kinds(exact, fitted, anchor, told))
            after = weigh({"": fitted}, there, told)[""]
            groups = _groups(here, there, plain, after, told)
            return cls(after, tuple(kind.model_copy(update={"groups": groups.get(kind.kind, ())}) for kind in kinds))
        except BadInput as error:
            return cls(None, why=str(error))


def _kinds(plain: Checkpoint, fitted: Checkpoint, anchor: Checkpoint, told: Progress) -> Iterator[KindDistance]:
    sites: dict[str, list[Site]] = {}
    for site in in_order(plain):
        sites.setdefault(site.kind, []).append(site)
    done, steps = 0, sum(map(len, sites.values()))
    for kind, held in sites.items():
        before, after, size, furthest, equal = 0.0, 0.0, 0.0, 0.0, 0
        for site in held:
            told(done, steps, f"fit {site.label}")
            done += 1
            for member in site.members or (site,):
                moving, target = compared(member, plain, anchor)
                own, apart = square(target), moving.distance(target)
                moved, there = compared(member, fitted, anchor)
                left = min(apart, moved.distance(there))  # to leave it as it is is a gauge, too
                before, after, size = before + apart, after + left, size + own
                furthest = max(furthest, _ratio(left, own))
                equal += not apart
        yield KindDistance(
            kind=kind,
            sites=sum(len(site.members or (site,)) for site in held),
            equal=equal,
            as_is=_ratio(before, size),
            up_to_gauge=_ratio(after, size),
            furthest=furthest,
        )


def _groups(
    here: Checkpoint, there: Checkpoint, plain: Weighed, after: Weighed, told: Progress
) -> dict[str, tuple[str, ...]]:
    """Kind of site → groups of the gauges that lie between two models, as the doctor finds them on some layers.

    Only where the fit took half of a tensor's squared distance off: elsewhere there is none to be named.
    """
    off = {name for name in plain.apart if name in after.apart and 2 * after.apart[name] < plain.apart[name]}
    if not off:
        return {}
    layers, _ = some_layers(here, there, off, LAYERS)

    def among(site: Site) -> bool:
        return (site.spanning or site.layer in layers) and not off.isdisjoint(tensors_of(site, here, there))

    told(0, 1, f"which groups, on layers {', '.join(map(str, sorted(layers)))}")
    found = explained(here, there, columns=COLUMNS, among=among)
    locked: dict[str, dict[str, None]] = {}
    for site in found.sites:
        if site.state == "locked":
            locked.setdefault(site.kind, {})[str(site.group)] = None
        elif site.shifts:
            locked.setdefault(site.kind, {})[_shifted(site)] = None
    return {kind: tuple(groups) for kind, groups in locked.items()}


def _shifted(site: SiteFinding) -> str:
    return f"additive shifts ({', '.join(dict.fromkeys(shift.kind for shift in site.shifts))})"


def _relation(one: Checkpoint, other: Checkpoint, plain: Weighed, fitted: _Fitted) -> Relation:
    common = sum(math.prod(other.shape(name)) for name in plain.matrices)
    if 2 * common < min(sum(math.prod(model.shape(name)) for name in model) for model in (one, other)):
        return "apart"
    alike = set(one) == set(other) and all(one.shape(name) == other.shape(name) for name in one)
    if plain.is_base:
        return "same" if alike else "near"
    after = fitted.after
    if after is not None and alike and _only_rounding(after, one, other):
        return "regauged"
    if max(plain.over_matrices) <= FAR:
        return "near"
    if after is None:
        return "unknown"
    if max(after.over_matrices) <= FAR:
        return "near-regauged"
    # Independent networks are √2 of their norm apart, and a fit takes little off that.
    return "stranger" if min(plain.over_matrices[0], after.over_matrices[0]) >= 0.5**0.5 else "far"


def _only_rounding(after: Weighed, one: Checkpoint, other: Checkpoint) -> bool:
    """Whether no tensor differs by more than rounding, a vector in units of what the matrices' numbers are large."""
    weights = sum(math.prod(other.shape(name)) for name in after.matrices)
    usual = math.sqrt(sum(after.size[name] for name in after.matrices) / weights) if weights else 0.0
    for name in after.shared:
        if name not in after.apart:
            if name not in after.same:
                return False  # whole numbers, or what is not finite
            continue
        dtypes = [model.dtype(name) for model in (one, other)]
        limit = max(ROUNDING, *(torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point))
        unit = math.sqrt(after.size[name])
        if name not in after.matrices:
            unit = max(unit, usual * math.sqrt(math.prod(other.shape(name))))
        if math.sqrt(after.apart[name]) > limit * unit:
            return False
    return True


def _tensors(plain: Weighed, after: Weighed | None) -> Iterator[TensorDistance]:
    changed = [name for name in plain.apart if name not in plain.same]
    for name in sorted(changed, key=lambda name: -_distance(plain, name)):
        fitted = None if after is None or name not in after.apart else _distance(after, name)
        yield TensorDistance(name=name, as_is=_distance(plain, name), up_to_gauge=fitted)


def _least(before: float | None, after: float | None) -> float | None:
    """To leave a model as it is is a gauge, too, and nearer than a poor fit."""
    return min((value for value in (before, after) if value is not None), default=None)


def _distance(weighed: Weighed, name: str) -> float:
    return _ratio(weighed.apart[name], weighed.size[name])


def _ratio(squared: float, size: float) -> float:
    """A distance in units of a norm; of something that is zero, as it is."""
    return math.sqrt(squared / size) if size else math.sqrt(squared)


def _dtypes(one: Checkpoint, other: Checkpoint) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name in one:
        if name in other and one.dtype(name) != other.dtype(name):
            pair = " / ".join(str(model.dtype(name)).removeprefix("torch.") for model in (one, other))
            found.setdefault(pair, []).append(name)
    return {pair: tuple(names) for pair, names in found.items()}


def share(one: Checkpoint, other: Checkpoint, base: Checkpoint, *, name: str) -> Share:
    """How much of one model's task vector another holds, over the tensors that all three have; one at a time.

    Args:
        one: Fine-tuned from the base.
        other: Another one, or a merge.
        base: The base.
        name: What it is called.
    """
    tensors = [n for n in shared_tensors(one, base) if n in other and other.shape(n) == base.shape(n)]
    size = mine = theirs = both = 0.0
    for tensor in tensors:
        anchor = base[tensor]
        if not anchor.is_floating_point():
            continue
        for a, b, c in _slices(one[tensor], other[tensor], anchor):
            left, right = a.double() - c.double(), b.double() - c.double()
            size += float(c.double().square().sum())
            mine, theirs = mine + float(left.square().sum()), theirs + float(right.square().sum())
            both += float((left * right).sum())
    unit = math.sqrt(size) or 1.0
    return Share(
        base=name,
        length_a=math.sqrt(mine) / unit,
        length_b=math.sqrt(theirs) / unit,
        cosine=both / math.sqrt(mine * theirs) if mine and theirs else None,
        a_in_b=both / mine if mine else None,
        b_in_a=both / theirs if theirs else None,
    )


def _slices(*tensors: torch.Tensor) -> Iterator[Sequence[torch.Tensor]]:
    """Some numbers of each at a time: all of a large tensor in float64 would take gigabytes."""
    return zip(*(tensor.reshape(-1).split(2**18) for tensor in tensors), strict=True)
