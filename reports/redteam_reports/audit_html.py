"""HTML: an audit as one offline page, with a picture of layers × sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from redteam.audit import Audit, SiteFinding, rows
from redteam.audit.words import STANDINGS, STATES, percent
from redteam.evaluation.store import write_atomically
from redteam_reports.pages import asset, environment

_CELL, _HEIGHT, _LABEL, _TOP = 46, 34, 118, 22
_FAINTEST = 1e-3  # distances from here to 1 get the ten steps of the scale, by their logarithm
_COLOURS = 8


@dataclass(frozen=True)
class Cell:
    """One site in a picture.

    Attributes:
        style: Class of its rectangle: `s0` … for groups, `h0` … for distances, `none`.
        text: One or two lines in it.
        told: What it shows, in words.
        mark: Whether additive shifts are there.
    """

    style: str
    text: tuple[str, ...]
    told: str
    mark: bool = False


@dataclass(frozen=True)
class Picture:
    """Layers × sites.

    Attributes:
        title: What it shows.
        cells: (row, layer) → cell.
        note: A line under it.
        legend: Style, text in the cell, and what it means.
    """

    title: str
    cells: dict[tuple[str, int], Cell]
    note: str
    legend: tuple[tuple[str, str, str], ...] = ()


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
        percent=lambda value: "–" if value is None else percent(value), svg=lambda picture: Markup(svg(picture))
    )
    states: dict[str, list[str]] = {}
    for tensor in audit.tensors:
        states.setdefault(tensor.state, []).append(tensor.name)
    return templates.get_template("audit.html.j2").render(
        a=audit, rows=rows(audit), states=states, pictures=pictures(audit), style=Markup(asset("page.css"))
    )


def pictures(audit: Audit) -> list[Picture]:
    """Which lock is where, how far it holds the weights from the base, what remains; and whether gauges are shared."""
    codes = _codes(dict.fromkeys(site.group for site in audit.sites if site.group))
    colours = {group: f"s{place % _COLOURS}" for place, group in enumerate(codes)}
    signs = {"unlocked": "–", "equal": "=", "unexplained": "?", "reshaped": "≠"}

    def lock(site: SiteFinding) -> Cell:
        extra = f"; shifts: {', '.join(shift.kind for shift in site.shifts)}" if site.shifts else ""
        if site.group is not None and site.comes_off is not None:
            told = f"{site.group} lock, {percent(site.comes_off)} of the distance comes off{extra}"
            return Cell(colours[site.group], (codes[site.group], percent(site.comes_off)), told, bool(site.shifts))
        return Cell(site.state, (signs[site.state],), f"{STATES[site.state]}{extra}", bool(site.shifts))

    present = dict.fromkeys(site.state for site in audit.sites if site.state != "locked")
    legend = (
        *((colours[group], code, f"{group} lock") for group, code in codes.items()),
        *((state, signs[state], STATES[state]) for state in present),
        *((("mark", "+", "additive shifts"),) if any(site.shifts for site in audit.sites) else ()),
    )
    made = [
        Picture("Which lock, and how much of the distance comes off", _grid(audit.sites, lock), "", legend),
        Picture(
            "Distance to the base as the weights are",
            _grid(audit.sites, lambda site: _distance(site.before)),
            "In units of the base's norm, additive shifts taken off. Networks with nothing in common are at 141 %.",
        ),
        Picture(
            "What remains after the best legal fit",
            _grid(audit.sites, lambda site: _distance(site.after)),
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
            _place(pair.site, pair.layer): Cell(
                shown.get(pair.standing, ("reshaped", "≠"))[0],
                (shown.get(pair.standing, ("", "≠"))[1],),
                STANDINGS[pair.standing],
            )
            for pair in audit.pairs
        }
        made.append(
            Picture("Do the two models share their gauges?", cells, "Where they do, they merge as if unlocked.")
        )
    return made


def svg(picture: Picture) -> str:
    """The picture, whose colours follow the page's light or dark scheme; every cell says in words what it is."""
    lines = list(dict.fromkeys(row for row, _ in picture.cells))
    layers = sorted({layer for _, layer in picture.cells})
    width, height = _LABEL + _CELL * len(layers) + 2, _TOP + _HEIGHT * len(lines) + 2
    drawn = [
        f'<svg class="sites" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(picture.title)}">'
    ]
    for place, layer in enumerate(layers):
        drawn.append(f'<text class="middle" x="{_LABEL + _CELL * (place + 0.5)}" y="15">{layer}</text>')
    for line, row in enumerate(lines):
        y = _TOP + _HEIGHT * line
        drawn.append(f'<text class="end" x="{_LABEL - 8}" y="{y + 21}">{escape(row)}</text>')
        for place, layer in enumerate(layers):
            cell = picture.cells.get((row, layer))
            if cell is not None:
                drawn.append(_drawn(cell, f"{row}, layer {layer}", _LABEL + _CELL * place, y))
    return "".join((*drawn, "</svg>"))


def _drawn(cell: Cell, where: str, x: int, y: int) -> str:
    first = y + (21 if len(cell.text) == 1 else 15)
    texts = "".join(
        f'<text class="middle{" small" if line else ""}" x="{x + _CELL / 2}" y="{first + 13 * line}">'
        f"{escape(text)}</text>"
        for line, text in enumerate(cell.text)
    )
    mark = f'<text class="plus" x="{x + _CELL - 12}" y="{y + 12}">+</text>' if cell.mark else ""
    return (
        f'<g class="cell {cell.style}"><title>{escape(where)}: {escape(cell.told)}</title>'
        f'<rect x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_HEIGHT - 2}"/>{texts}{mark}</g>'
    )


def _grid(sites: Iterable[SiteFinding], made: Callable[[SiteFinding], Cell]) -> dict[tuple[str, int], Cell]:
    return {_place(site.site, site.layer): made(site) for site in sites}


def _place(label: str, layer: int) -> tuple[str, int]:
    """`"norm/3/mlp"` → `("norm/mlp", 3)`: sites that differ in nothing but their layer stand in one row."""
    kind, _, *parts = label.split("/")
    return "/".join((kind, *parts)), layer


def _distance(value: float | None) -> Cell:
    if value is None:
        return Cell("none", ("",), "not measured")
    step = 0 if value <= _FAINTEST else min(10, max(0, round(10 * (1 - math.log(value) / math.log(_FAINTEST)))))
    short = f"{100 * value:.0f}%" if value >= 0.095 else f"{100 * value:.1f}%" if value >= 5e-4 else "0%"
    if value >= 10:
        short = f"{value:.0f}×"
    return Cell(f"h{step}", (short,), f"{percent(value)} of the base's norm")


def _codes(groups: Iterable[str]) -> dict[str, str]:
    """Short codes, none used twice: initials, with more letters of the first word where those are taken."""
    codes: dict[str, str] = {}
    for group in sorted(groups):
        first, *others = group.split("-")
        tail = "".join(word[0].upper() for word in others)
        spellings: Sequence[str] = [first[:length].capitalize() + tail for length in range(1, len(first) + 1)]
        codes[group] = next((code for code in spellings if code not in codes.values()), group)
    return codes
