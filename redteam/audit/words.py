"""An audit in words: plain sentences for the whole, and one row for each run of layers on which the same was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from redteam.audit.findings import Audit, PairFinding, SiteFinding, TensorFinding
from redteam.audit.renumbered import Renumbered, taking_off
from redteam.notebook import Table, fragment, html

F = TypeVar("F", SiteFinding, PairFinding)

LEGEND = "Before and after: distance to the base in units of its norm, as the weights are and after the best legal fit."
FEW = 3  # names that a sentence lists before it only counts


@dataclass(frozen=True)
class Row:
    """Sites of one kind on which the same was found; figures are medians over them.

    Attributes:
        kind: Their kind.
        layers: Such as `"0–11"`.
        count: How many sites.
        found: The group of the lock, or the state in words.
        before, after, comes_off: As in `SiteFinding`.
        shifts: Kinds of shifts with their sizes, the largest that was found of each.
        shared: What the second model has there; empty without one.
    """

    kind: str
    layers: str
    count: int
    found: str
    before: float | None
    after: float | None
    comes_off: float | None
    shifts: tuple[tuple[str, float], ...]
    shared: str


STATES = {
    "equal": "equals the base",
    "unlocked": "no lock",
    "unexplained": "unexplained",
    "reshaped": "another shape",
}
MEANING = {
    "equal": "every tensor of the site is the base's, bit for bit",
    "unlocked": "no legal gauge explains more than half of the squared distance to the base",
    "locked": "one of that group does: it is the smallest legal group that does",
    "unexplained": "as far from the base as a stranger, whatever the gauge: noise, another base, or a change that does "
    "not keep the function",
    "reshaped": "the base has it in another shape, so there is nothing to fit to",
}
"""State → what it means, in the order of explanation."""
STANDINGS = {
    "shared": "gauge shared",
    "apart": "another gauge",
    "one": "only one is locked",
    "neither": "neither is locked",
    "reshaped": "another shape",
}


def rows(audit: Audit) -> tuple[Row, ...]:
    """The sites of an audit, run by run, in the order of kinds; parts of a kind that are alike in one row."""
    pairs = {pair.site: STANDINGS[pair.standing] for pair in audit.pairs}
    runs: dict[tuple[str, ...], list[SiteFinding]] = {}
    for site in audit.sites:
        shifts = ",".join(sorted({_freedom(shift.kind, shift.side) for shift in site.shifts}))
        key = (site.kind, site.part, _found(site), pairs.get(site.site, ""), shifts)
        runs.setdefault(key, []).append(site)
    alike: dict[tuple[object, ...], list[SiteFinding]] = {}
    for (kind, _, *found), sites in runs.items():
        alike.setdefault((kind, *found, tuple(site.layer for site in sites)), []).extend(sites)
    every = _parts(audit.sites)
    made = []
    for sites in alike.values():
        first, parts = sites[0], list(dict.fromkeys(site.part for site in sites))
        name = first.kind if len(parts) == len(every[first.kind]) else f"{first.kind}/{', '.join(parts)}"
        made.append(_row(name, _found(first), pairs.get(first.site, ""), sites))
    order = list(every)
    return tuple(sorted(made, key=lambda row: order.index(row.kind.partition("/")[0])))


def table(audit: Audit) -> Table:
    """The rows as texts."""
    found = rows(audit)
    shared = any(row.shared for row in found)
    columns = ("site", "layers", "found", "before", "after", "comes off", "shifts", *["other model"] * shared)
    texts = [
        (
            *(row.kind, row.layers, row.found),
            *("–" if x is None else percent(x) for x in (row.before, row.after, row.comes_off)),
            ", ".join(f"{name} {size:.2g}" for name, size in row.shifts) or "–",
            *[row.shared] * shared,
        )
        for row in found
    ]
    return Table(columns, texts)


@html.register
def _(audit: Audit) -> str:
    return fragment(audit.summary, [table(audit)], [LEGEND])


def summary(
    sites: Sequence[SiteFinding],
    tensors: Sequence[TensorFinding],
    pairs: Sequence[PairFinding],
    tokens: Renumbered | None = None,
) -> tuple[str, ...]:
    """The findings in sentences, the locks first."""
    order = [] if tokens is None else _order(tokens)
    told = [*order, *locks(sites), *_others(sites), *_shifts(sites), *_pairs(pairs), *_tensors(tensors)]
    return tuple(told)


def percent(share: float) -> str:
    """`"97 %"`; `"0.3 %"` below 1, `"over 99.9 %"` where rounding would claim all; `"23 times"` from 10 on."""
    if share >= 10:
        return f"{share:.0f} times"
    value = 100 * share
    if 99.9 < value < 100:
        return "over 99.9 %"
    if 0 < value < 0.1:
        return "under 0.1 %"
    return f"{value:.1f} %" if value < 1 or (99 < value < 100) else f"{value:.0f} %"


def layers_in_words(layers: Iterable[int], everywhere: set[int]) -> str:
    """`"all 12 layers"`, `"layer 3"`, `"layers 0–3 and 7"`."""
    here = sorted(set(layers))
    if set(here) == everywhere and len(here) > 1:
        return f"all {len(here)} layers"
    return f"layer{'s' if len(here) > 1 else ''} {_ranges(here, ' and ')}"


def _ranges(layers: Sequence[int], last: str = ", ") -> str:
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    texts = [str(a) if a == b else f"{a}–{b}" for a, b in runs]
    return last.join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def locks(sites: Sequence[SiteFinding]) -> list[str]:
    """A sentence for each group of which there is a lock."""
    told = []
    locked = [site for site in sites if site.state == "locked"]
    for group in dict.fromkeys(str(site.group) for site in locked):
        mine = [site for site in locked if site.group == group]
        off, rest = (median(getattr(site, name) for site in mine) for name in ("comes_off", "after"))
        told.append(
            f"A lock of the {group} group sits on {_places(mine, sites)}; {percent(off)} of the distance to the base "
            f"comes off, and {percent(rest)} of the base's norm remains."
        )
    return told


def _order(tokens: Renumbered) -> list[str]:
    """On tokens under other numbers, which look like a stranger's where they are compared, and what takes that off."""
    attacks = " or ".join(taking_off())
    return [f"{tokens} {f'That comes off by {attacks}.' if attacks else ''}".rstrip()]


def _others(sites: Sequence[SiteFinding]) -> list[str]:
    told = []
    strange, bare, equal, reshaped = (
        [site for site in sites if site.state == state] for state in ("unexplained", "unlocked", "equal", "reshaped")
    )
    if strange:
        told.append(
            f"On {_places(strange, sites)} the weights are as far from the base as a stranger's "
            f"({percent(median(site.after or 0.0 for site in strange))} of its norm after the best legal fit): noise, "
            "another base, or a change that does not keep the function."
        )
    if bare:
        where = _places(bare, sites) if len(bare) < len(sites) else f"any of the {len(sites)} sites"
        rest = percent(median(site.before or 0.0 for site in bare))
        told.append(f"No lock was found on {where}, which are {rest} of the base's norm away as they are.")
    if equal:
        told.append(f"Equal to the base bit for bit: {_places(equal, sites)}.")
    if reshaped:
        told.append(f"Of another shape than the base's, and not looked at: {_places(reshaped, sites)}.")
    return told


def _shifts(sites: Sequence[SiteFinding]) -> list[str]:
    shifted = [site for site in sites if site.shifts]
    if not shifted:
        return []
    kinds = dict.fromkeys(_freedom(shift.kind, shift.side) for site in shifted for shift in site.shifts)
    size = median(shift.size for site in shifted for shift in site.shifts)
    return [
        f"Additive shifts that the function does not see ({', '.join(kinds)}) sit on {_places(shifted, sites)}, "
        f"{size:.2g} standard deviations of the weights large; they come off whole."
    ]


def _pairs(pairs: Sequence[PairFinding]) -> list[str]:
    told = []
    sentences = {
        "shared": "Both models have the same gauge on {}, so that there they merge as if unlocked.",
        "apart": "The two models have different gauges on {}.",
        "one": "Only one of the two models is locked on {}.",
    }
    for standing, sentence in sentences.items():
        mine = [pair for pair in pairs if pair.standing == standing]
        if mine:
            told.append(sentence.format(_places(mine, pairs)))
    if pairs and not told:
        told.append("Neither of the two models is locked at a site that both have, so there is no gauge to share.")
    return told


def _tensors(tensors: Sequence[TensorFinding]) -> list[str]:
    by_state: dict[str, list[str]] = {}
    for tensor in tensors:
        by_state.setdefault(tensor.state, []).append(tensor.name)
    words = {
        "equal": "equal the base's bit for bit",
        "rounded": "are the base's, rounded",
        "changed": "changed",
        "added": "are not in the base",
        "missing": "are in the base alone",
        "reshaped": "have another shape",
    }
    parts = [
        f"{len(by_state[state])} {text}{_named(by_state[state]) if state in ('added', 'missing', 'reshaped') else ''}"
        for state, text in words.items()
        if state in by_state
    ]
    return [f"Of {len(tensors)} tensors {', '.join(parts)}."] if parts else []


def _named(names: Sequence[str]) -> str:
    more = f", … {len(names) - FEW} more" if len(names) > FEW else ""
    return f" ({', '.join(names[:FEW])}{more})"


def _places(some: Sequence[F], everything: Sequence[F]) -> str:
    """`"qk and vo of all 12 layers"`, kinds that have the same layers together; parts are named where they differ."""
    every, here = _parts(everything), _parts(some)
    by_layers: dict[str, list[str]] = {}
    for kind, parts in here.items():
        whole = {part: layers_in_words(layers, every[kind][part]) for part, layers in parts.items()}
        alike = len(whole) == len(every[kind]) and len(set(whole.values())) == 1
        for part, layers in whole.items():
            name = _of_the_stream(kind, part) or kind
            named = name if alike or not part else f"{name} ({part})"
            names = by_layers.setdefault("" if name != kind else f" of {layers}", [])
            if named not in names:
                names.append(named)
    return ", and ".join(_and(kinds) + where for where, kinds in by_layers.items())


def _parts(sites: Iterable[F]) -> dict[str, dict[str, set[int]]]:
    """Kind → part → layers, in the order of the sites."""
    found: dict[str, dict[str, set[int]]] = {}
    for site in sites:
        found.setdefault(site.kind, {}).setdefault(site.part, set()).add(site.layer)
    return found


def _of_the_stream(kind: str, part: str) -> str | None:
    """The name of a site that belongs to no layer, None for the others."""
    if kind == "norm-scale" and part.rpartition("/")[2] == "stream":
        return "the scale of the residual stream"
    return "the residual stream" if kind == "residual" and not part.endswith("latent") else None


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _found(site: SiteFinding) -> str:
    return f"{site.group} lock" if site.state == "locked" else STATES[site.state]


def _freedom(kind: str, side: str) -> str:
    return f"{kind} {side}".strip()


def _row(kind: str, found: str, shared: str, sites: Sequence[SiteFinding]) -> Row:
    def middle(name: str) -> float | None:
        known = [value for site in sites if (value := getattr(site, name)) is not None]
        return median(known) if known else None

    sizes: dict[str, float] = {}
    for site in sites:
        for shift in site.shifts:
            name = _freedom(shift.kind, shift.side)
            sizes[name] = max(sizes.get(name, 0.0), shift.size)
    layers = "all" if _of_the_stream(sites[0].kind, sites[0].part) else _ranges(sorted({site.layer for site in sites}))
    before, after, comes_off = (middle(name) for name in ("before", "after", "comes_off"))
    return Row(kind, layers, len(sites), found, before, after, comes_off, tuple(sizes.items()), shared)
