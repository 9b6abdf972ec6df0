"""HTML: an audit as one offline page, with a picture of layers × sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from redteam.audit import Audit, SiteFinding, rows
from redteam.audit.words import STANDINGS, STATES, percent
from redteam.files import write_atomically
from redteam_reports import charts
from redteam_reports.charts import Grid, Tile
from redteam_reports.templating import asset, environment

_FAINTEST = 1e-3  # distances from here to 1 get the ten steps of the scale, by their logarithm


def write(audit: Audit, path: Path) -> None:
    """Writes the page.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, render(audit))


def render(audit: Audit) -> str:
    """The page. The same audit gives the same text."""
    from markupsafe import Markup

    templates = environment(
        percent=lambda value: "–" if value is None else percent(value),
        svg=lambda picture: Markup(charts.grid_svg(picture)),
    )
    states: dict[str, list[str]] = {}
    for tensor in audit.tensors:
        states.setdefault(tensor.state, []).append(tensor.name)
    return templates.get_template("audit.html.j2").render(
        a=audit, rows=rows(audit), states=states, pictures=pictures(audit), style=Markup(asset("page.css"))
    )


def pictures(audit: Audit) -> list[Grid]:
    """Which lock is where, how far it holds the weights from the base, what remains; and whether gauges are shared."""
    codes = _codes(dict.fromkeys(site.group for site in audit.sites if site.group))
    colours = {group: f"s{place % charts.COLOURS}" for place, group in enumerate(codes)}
    signs = {"unlocked": "–", "equal": "=", "unexplained": "?", "reshaped": "≠"}

    def lock(site: SiteFinding) -> Tile:
        extra = f"; shifts: {', '.join(shift.kind for shift in site.shifts)}" if site.shifts else ""
        if site.group is not None and site.comes_off is not None:
            label = f"{site.group} lock, {percent(site.comes_off)} of the distance comes off{extra}"
            return Tile(colours[site.group], (codes[site.group], percent(site.comes_off)), label, bool(site.shifts))
        return Tile(site.state, (signs[site.state],), f"{STATES[site.state]}{extra}", bool(site.shifts))

    present = dict.fromkeys(site.state for site in audit.sites if site.state != "locked")
    legend = (
        *((colours[group], code, f"{group} lock") for group, code in codes.items()),
        *((state, signs[state], STATES[state]) for state in present),
        *((("mark", "+", "additive shifts"),) if any(site.shifts for site in audit.sites) else ()),
    )
    made = [
        Grid("Which lock, and how much of the distance comes off", _tiles(audit.sites, lock), "", legend),
        Grid(
            "Distance to the base as the weights are",
            _tiles(audit.sites, lambda site: _distance(site.before)),
            "In units of the base's norm, additive shifts taken off. Networks with nothing in common are at 141 %.",
        ),
        Grid(
            "What remains after the best legal fit",
            _tiles(audit.sites, lambda site: _distance(site.after)),
            "Training, noise, or a change of the function: what no legal gauge explains.",
        ),
    ]
    if audit.pairs:
        shown = {
            "shared": ("s1", "same"),
            "apart": ("s0", "other"),
            "one": ("unlocked", "one"),
            "neither": ("unlocked", "–"),
        }
        cells = {
            _place(pair.site, pair.layer): Tile(
                shown.get(pair.standing, ("reshaped", "≠"))[0],
                (shown.get(pair.standing, ("", "≠"))[1],),
                STANDINGS[pair.standing],
            )
            for pair in audit.pairs
        }
        made.append(Grid("Do the two models share their gauges?", cells, "Where they do, they merge as if unlocked."))
    return made


def _tiles(sites: Iterable[SiteFinding], made: Callable[[SiteFinding], Tile]) -> dict[tuple[str, int], Tile]:
    return {_place(site.site, site.layer): made(site) for site in sites}


def _place(label: str, layer: int) -> tuple[str, int]:
    """`"norm/3/mlp"` → `("norm/mlp", 3)`: sites that differ in nothing but their layer stand in one row."""
    kind, _, *parts = label.split("/")
    return "/".join((kind, *parts)), layer


def _distance(value: float | None) -> Tile:
    if value is None:
        return Tile("none", ("",), "not measured")
    step = 0 if value <= _FAINTEST else min(10, max(0, round(10 * (1 - math.log(value) / math.log(_FAINTEST)))))
    short = f"{100 * value:.0f}%" if value >= 0.095 else f"{100 * value:.1f}%" if value >= 5e-4 else "0%"
    if value >= 10:
        short = f"{value:.0f}×"
    return Tile(f"h{step}", (short,), f"{percent(value)} of the base's norm")


def _codes(groups: Iterable[str]) -> dict[str, str]:
    """Short codes, none used twice: initials, with more letters of the first word where those are taken."""
    codes: dict[str, str] = {}
    for group in sorted(groups):
        first, *others = group.split("-")
        tail = "".join(word[0].upper() for word in others)
        spellings: Sequence[str] = [first[:length].capitalize() + tail for length in range(1, len(first) + 1)]
        codes[group] = next((code for code in spellings if code not in codes.values()), group)
    return codes
