"""What a comparison comes to, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redteam.diff.findings import ModelDiff, OnlyIn, RunDiff
from redteam.doctor.weighed import FAR
from redteam.notebook import Table, fragment, html

ROUNDING = 1e-5
"""Distance, in units of the norm, that rounding to float32 leaves of a lock that is taken off; the dtype's own epsilon
where that is more."""
_AS_STORED = " as far as numbers of this dtype tell"
_WIDE = 60  # characters of a long text
_FEW = 3  # names that a sentence lists before it only counts


def summary(found: ModelDiff, why: str = "") -> Iterator[str]:
    """The findings in plain sentences, what the two are to each other first.

    Args:
        found: What was found.
        why: Why no fit could be made, where that is so.
    """
    yield _relation(found, why)
    yield from _share(found)
    yield from _headers(found)


def distance(value: float | None) -> str:
    """A distance in units of a norm: `"1.41"`, `"2.1e-07"`, `"0"`."""
    return "–" if value is None else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def _relation(found: ModelDiff, why: str) -> str:
    a, b = found.a, found.b
    apart, after = distance(found.distance), distance(found.up_to_gauge)
    if found.relation == "same":
        rounded = ", rounded" if found.dtypes else ", bit for bit"
        config = "; their configs differ in what the weights mean" if found.settings else ""
        return f"{a} and {b} hold the same weights{rounded}{config}."
    if found.relation == "apart":
        return (
            f"{a} and {b} have too few tensors of one name and shape to be compared: they are different networks, or a "
            "lock has reshaped one of them."
        )
    if found.relation == "regauged":
        but = (
            f", but their configs differ in what weights compute ({_entries(found)})"
            if found.settings
            else ", and they compute the same" + ("" if (found.up_to_gauge or 0) <= ROUNDING else _AS_STORED)
        )
        return (
            f"{a} is {b} in another basis{but}: {apart} of {b}'s norm lies between the weights as they are, and "
            f"{after} up to gauge, which is rounding{_groups(found)}."
        )
    if found.relation == "near":
        off = f", {after} up to gauge" if found.up_to_gauge is not None and found.up_to_gauge else ""
        return (
            f"{a} and {b} are as near as fine-tunes of one model are ({apart} of {b}'s norm{off}): one was made from "
            "the other, or both from one base, and weights don't tell which."
        )
    if found.relation == "near-regauged":
        return (
            f"{a} is as near to {b} as fine-tuned models are, in another basis: {apart} of {b}'s norm lies between "
            f"the weights as they are, and {after} up to gauge{_groups(found)}. One was made from the other, or "
            "both from one base."
        )
    if found.relation == "stranger":
        return (
            f"No sign that {a} and {b} have anything in common: {apart} of {b}'s norm lies between them, and {after} "
            "after the best legal gauges, as between networks that were trained apart."
        )
    if found.relation == "far":
        return (
            f"{a} and {b} are further apart than fine-tunes of one model are ({apart} of {b}'s norm, {after} after the "
            f"best legal gauges; matrices of fine-tuned ones stay below {FAR:g}): much training, noise, or parts of "
            "another model."
        )
    reason = f" ({why.rstrip('.')})" if why else ""
    if found.distance is None:
        return f"How far {a} and {b} are apart cannot be told{reason}."
    return f"{apart} of {b}'s norm lies between {a} and {b}, and what of it is a gauge cannot be told{reason}."


def _groups(found: ModelDiff) -> str:
    told = [f"{kind.kind}: {' and '.join(kind.groups)}" for kind in found.kinds if kind.groups]
    return f"; between them lie gauges ({'; '.join(told)})" if told else ""


def _share(found: ModelDiff) -> Iterator[str]:
    share = found.share
    if share is None:
        return
    if share.a_in_b is None or share.b_in_a is None or share.cosine is None:
        which = found.a if share.a_in_b is None else found.b
        yield f"Over {share.base}: {which} has learned nothing, so that no task vectors can be compared."
        return
    yield (
        f"Over {share.base}: {found.b} holds {share.a_in_b:.0%} of {found.a}'s task vector, and {found.a} "
        f"{share.b_in_a:.0%} of {found.b}'s (cosine {share.cosine:.2f}; they are {distance(share.length_a)} and "
        f"{distance(share.length_b)} of its norm long)."
    )


def _headers(found: ModelDiff) -> Iterator[str]:
    if found.architectures[0] != found.architectures[1]:
        mine, theirs = (name or "without a model_type in its config" for name in found.architectures)
        yield f"{found.a} is {mine}, {found.b} {theirs}."
    for name, only in ((found.a, found.only_a), (found.b, found.only_b)):
        if only:
            yield f"{_tensors(len(only))} only in {name}: {_named(only)}."
    if found.shapes:
        told = [f"{one.name} {list(one.a)} / {list(one.b)}" for one in found.shapes]
        yield f"{_tensors(len(told))} of other shapes: {_named(told)}."
    for pair, names in found.dtypes.items():
        yield f"{_tensors(len(names))} stored as {pair}: {_named(names)}."
    if found.settings and found.relation != "regauged":
        yield f"Their configs differ in what weights compute: {_entries(found)}."
    if found.shared:
        yield f"Of {_tensors(found.shared)} of one name and shape {found.equal or 'none'} {_are(found.equal)} the same."


def _entries(found: ModelDiff) -> str:
    return _named([f"{entry.name} {entry.a} / {entry.b}" for entry in found.settings])


def _named(names: Sequence[str]) -> str:
    more = f", … {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"{', '.join(names[:_FEW])}{more}"


def _tensors(count: int) -> str:
    return _many(count, "tensor")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def run_summary(found: RunDiff) -> Iterator[str]:
    """What a comparison of two runs comes to."""
    words = [verdict for verdict in found.verdicts if verdict.before != verdict.after]
    counted = sum(verdict.counts for verdict in words)
    total = found.agreeing + len(words)
    if not words:
        yield f"Of {_many(total, 'verdict')} that both have none changed."
    else:
        free = f" ({len(words) - counted} of a defense that protects nothing, which does not count)"
        yield f"Of {_many(total, 'verdict')} that both have {len(words)} changed{free if counted < len(words) else ''}."
    if flagged := len(found.verdicts) - len(words):
        yield f"{_many(flagged, 'verdict')} kept the word and changed flags."
    yield (
        f"Of {_many(found.compared, 'figure')} that both have {found.moved or 'none'} moved, and the intervals of "
        f"{len(found.figures) or 'none'} part."
    )
    if found.controls:
        yield f"{_many(len(found.controls), 'control')} came out otherwise."
    if found.engine or found.plan:
        told = [name for name, differs in (("the plan", found.plan), ("what made them", found.engine)) if differs]
        yield f"The two runs differ in {' and '.join(told)}."


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def run_tables(found: RunDiff) -> Iterator[Table]:
    """What changed between two runs, a sentence in a row, under a title for each kind of change."""
    lists = (
        (
            "Verdicts:",
            [
                f"{v.defense} on {v.scenario} under {v.threat}: {v.before} → {v.after}"
                f"{''.join(f', +{flag}' for flag in v.raised)}{''.join(f', -{flag}' for flag in v.dropped)}"
                f"{'' if v.counts else ' (does not count)'}"
                for v in found.verdicts
            ],
        ),
        (
            "Figures whose intervals part:",
            [
                f"{f.figure} of {' with '.join(filter(None, (f.attack, f.merger))) or 'the verdict'} on {f.defense}, "
                f"{f.scenario} under {f.threat}: {f.before} → {f.after}"
                for f in found.figures
            ],
        ),
        (
            "Controls that came out otherwise:",
            [
                f"{' '.join(filter(None, (c.control, c.attack, c.site, c.group)))} on "
                f"{', '.join(filter(None, (c.defense, c.scenario)))}: {c.before} → {c.after}"
                for c in found.controls
            ],
        ),
        (f"Only in {found.a}:", list(map(_row, found.only_a))),
        (f"Only in {found.b}:", list(map(_row, found.only_b))),
        ("The plans differ:", [f"{one.name}: {' / '.join(_cut(one.a, one.b))}" for one in found.plan]),
        ("What made them differs:", [f"{one.name}: {' / '.join(_cut(one.a, one.b))}" for one in found.engine]),
    )
    yield from (Table((), [(line,) for line in lines], title) for title, lines in lists if lines)


def _cut(a: str, b: str) -> tuple[str, str]:
    """Two texts, of long ones the part where they begin to differ."""
    if max(len(a), len(b)) <= _WIDE:
        return a or "–", b or "–"
    same = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, same - _WIDE // 3)
    a, b = (f"{'…' * bool(start)}{one[start : start + _WIDE]}{'…' * (len(one) > start + _WIDE)}" for one in (a, b))
    return a or "–", b or "–"


def _row(one: OnlyIn) -> str:
    place = f"{one.defense} on {one.scenario} under {one.threat}"
    return f"{one.attack} with {one.merger} on {place}" if one.attack else f"the verdict on {place}"


def kinds_table(found: ModelDiff) -> Table:
    """Distances of two models by kind of site, as texts."""
    columns = ("site", "count", "equal", "as they are", "up to gauge", "furthest", "gauge")
    rows = [
        (
            *(kind.kind, str(kind.sites), str(kind.equal)),
            *(distance(value) for value in (kind.as_is, kind.up_to_gauge, kind.furthest)),
            " and ".join(kind.groups) or "–",
        )
        for kind in found.kinds
    ]
    return Table(columns, rows)


def legend(found: ModelDiff) -> str:
    """What the figures of that table are."""
    return f"Distances are in units of {found.b}'s norm, by kind of site; furthest: the largest of a single one."


@html.register
def _(found: RunDiff) -> str:
    return fragment(run_summary(found), run_tables(found))


@html.register
def _(found: ModelDiff) -> str:
    return fragment(found.summary, [kinds_table(found)], [legend(found)] if found.kinds else [])
