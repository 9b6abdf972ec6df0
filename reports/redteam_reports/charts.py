"""Charts as inline SVG: lines over an axis, tiles in a grid. Their text is text, and colours come from the page's CSS.

Colour is never the only difference: every line has a marker and a dash of its own, every tile says in words what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 480, 300
COLOURS = 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 14, 46
_TILE, _ROW, _LABEL, _HEAD = 46, 34, 118, 22
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_MARKERS: tuple[Callable[[float, float], str], ...] = (
    lambda x, y: f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    lambda x, y: f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
    lambda x, y: f"M{x:.1f} {y - 5:.1f}l5 9h-10z",
    lambda x, y: f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    lambda x, y: f"M{x:.1f} {y + 5:.1f}l5 -9h-10z",
    lambda x, y: f"M{x - 5:.1f} {y - 1.5:.1f}h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5z",
)


@dataclass(frozen=True)
class Point:
    """A value, with its interval where it has one.

    Attributes:
        x: The tick it belongs to, or its position on the axis, 0 to 1.
        label: Shown when one points at it.
    """

    x: str | float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Line:
    """Points of one name.

    Attributes:
        style: Colour, marker and dash; the same name has the same one all over a page.
        shape: Markers joined by straight lines, markers alone, or steps without markers that go on to the right edge.
    """

    name: str
    style: int
    points: tuple[Point, ...]
    shape: Literal["line", "steps", "marks"] = "line"


@dataclass(frozen=True)
class Chart:
    """Lines over an axis.

    Attributes:
        title: What it shows.
        ticks: Label → position, 0 to 1.
        log: Whether the vertical axis is logarithmic.
        bottom, top: The ends of the vertical axis.
        limit: The value of a horizontal line and its label.
    """

    title: str
    x_label: str
    y_label: str
    ticks: Mapping[str, float]
    lines: tuple[Line, ...]
    log: bool = False
    bottom: float = 0.0
    top: float = 1.0
    limit: tuple[float, str] | None = None

    @property
    def summary(self) -> str:
        """The alternative text."""
        ends = [
            f"{line.name} from {line.points[0].y:.2g} at {line.points[0].x} to {line.points[-1].y:.2g} "
            f"at {line.points[-1].x}"
            for line in self.lines
            if line.points and line.shape == "line"
        ]
        ends += [f"{line.name}: {p.label}" for line in self.lines if line.shape == "steps" for p in line.points]
        return f"{self.title}. {self.y_label} over {self.x_label}: {'; '.join(ends)}. The table below has every figure."


@dataclass(frozen=True)
class Tile:
    """One square of a grid.

    Attributes:
        style: CSS class: `s0` … for categories, `h0` … `h10` for amounts, or a name of its own.
        text: Up to two lines.
        label: What it shows, in words.
        mark: Whether it has a plus in its corner.
    """

    style: str
    text: tuple[str, ...]
    label: str
    mark: bool = False


@dataclass(frozen=True)
class Grid:
    """Tiles by row and column.

    Attributes:
        tiles: (row, column) → tile.
        note: A line under it.
        legend: Style, text in the tile, and what it means.
    """

    title: str
    tiles: dict[tuple[str, int], Tile]
    note: str
    legend: tuple[tuple[str, str, str], ...] = ()


def positions(values: Sequence[float], *, log: bool, before: Sequence[str] = ()) -> dict[str, float]:
    """Ticks for numbers, after labels that have no place on the scale.

    Args:
        values: Sorted, distinct, positive if `log`.
        log: Whether the scale is logarithmic.
        before: Labels to the left of it.
    """
    room = 0.14 * len(before)
    placed = [math.log(value) for value in values] if log else list(values)
    span = (placed[-1] - placed[0]) or 1.0 if placed else 1.0
    made = {label: 0.03 + 0.14 * turn for turn, label in enumerate(before)}
    for value, place in zip(values, placed, strict=True):
        made[f"{value:g}"] = 0.03 + room + (0.94 - room) * (place - placed[0]) / span
    return made


def spread(labels: Sequence[str]) -> dict[str, float]:
    """Ticks for words, evenly spaced."""
    return {label: (turn + 0.5) / len(labels) for turn, label in enumerate(labels)}


def svg(chart: Chart) -> str:
    """The chart, without its legend."""
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.summary)}">',
        *_axes(chart),
    ]
    lines = [line for line in chart.lines if line.shape == "line"]
    for line in chart.lines:
        # Lines that would cover each other stand side by side.
        aside = min(5.0, 40.0 / len(lines)) * (lines.index(line) - (len(lines) - 1) / 2) if line in lines else 0.0
        parts += _line(chart, line, aside)
    return "".join([*parts, "</svg>"])


def swatch(style: int) -> str:
    """A line's sign in a legend."""
    colour, marker = style % COLOURS, _MARKERS[style % len(_MARKERS)](16, 7)
    line = f'<path class="s{colour}" d="M0 7H32"{_dash(style)}/><path class="m{colour}" d="{marker}"/>'
    return f'<svg class="swatch" viewBox="0 0 32 14" aria-hidden="true">{line}</svg>'


def grid_svg(grid: Grid) -> str:
    """The grid at its natural size, without its legend."""
    rows = list(dict.fromkeys(row for row, _ in grid.tiles))
    columns = sorted({column for _, column in grid.tiles})
    width, height = _LABEL + _TILE * len(columns) + 2, _HEAD + _ROW * len(rows) + 2
    parts = [
        f'<svg class="sites" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(grid.title)}">'
    ]
    for place, column in enumerate(columns):
        parts.append(_text("middle", _LABEL + _TILE * (place + 0.5), 15, str(column)))
    for turn, row in enumerate(rows):
        y = _HEAD + _ROW * turn
        parts.append(_text("end", _LABEL - 8, y + 21, row))
        for place, column in enumerate(columns):
            if (tile := grid.tiles.get((row, column))) is not None:
                parts.append(_tile(tile, f"{row}, layer {column}", _LABEL + _TILE * place, y))
    return "".join((*parts, "</svg>"))


def _tile(tile: Tile, where: str, x: int, y: int) -> str:
    first = y + (21 if len(tile.text) == 1 else 15)
    texts = [
        _text("middle small" if line else "middle", x + _TILE / 2, first + 13 * line, text)
        for line, text in enumerate(tile.text)
    ]
    mark = _text("plus", x + _TILE - 12, y + 12, "+") if tile.mark else ""
    return (
        f'<g class="cell {tile.style}"><title>{escape(where)}: {escape(tile.label)}</title>'
        f'<rect x="{x + 1}" y="{y + 1}" width="{_TILE - 2}" height="{_ROW - 2}"/>{"".join(texts)}{mark}</g>'
    )


def _axes(chart: Chart) -> list[str]:
    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = []
    for value in _levels(chart):
        y = _y(chart, value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(_text("end", _LEFT - 6, y + 4, f"{value:g}"))
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{floor}H{right}"/>')
    taken = -99.0
    for label, place in sorted(chart.ticks.items(), key=lambda item: item[1]):
        x = _x(place)
        parts.append(f'<path class="axis" d="M{x:.1f} {floor}v4"/>')
        if x - taken >= 4 + 4.4 * len(label):
            parts.append(_text("middle", min(x, right - 8), floor + 17, label))
            taken = x + 4.4 * len(label)
    middle, half = (_LEFT + right) / 2, (_TOP + floor) / 2
    parts.append(_text("middle", middle, HEIGHT - 8, chart.x_label))
    turned = f'transform="translate(11 {half:.0f}) rotate(-90)"'
    parts.append(f'<text class="middle" {turned}>{escape(chart.y_label)}</text>')
    if chart.limit is not None:
        value, label = chart.limit
        y = _y(chart, value)
        parts.append(f'<path class="limit" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(_text("end", right, y - 4, label))
    return parts


def _line(chart: Chart, line: Line, aside: float) -> list[str]:
    colour = line.style % COLOURS
    places = [_x(p.x if isinstance(p.x, float) else chart.ticks[p.x]) + aside for p in line.points]
    heights = [_y(chart, p.y) for p in line.points]
    parts = []
    if line.shape == "line" and len(places) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(places, heights, strict=True))
        parts.append(f'<path class="s{colour}" d="M{path}"{_dash(line.style)}/>')
    if line.shape == "steps" and places:
        steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in zip(places[1:], heights[1:], strict=True))
        path = f"M{places[0]:.1f} {heights[0]:.1f}{steps}H{WIDTH - _RIGHT}"
        parts.append(f'<path class="s{colour}" d="{path}" stroke-dasharray="{_DASHES[1]}"/>')
        return parts
    for x, y, point in zip(places, heights, line.points, strict=True):
        if point.low is not None and point.high is not None:
            low, high = _y(chart, point.low), _y(chart, point.high)
            bar = f"M{x:.1f} {low:.1f}V{high:.1f}m-3 0h6M{x - 3:.1f} {low:.1f}h6"
            parts.append(f'<path class="s{colour} bar" d="{bar}"/>')
        title = f"<title>{escape(point.label)}</title>" if point.label else ""
        parts.append(f'<path class="m{colour}" d="{_MARKERS[line.style % len(_MARKERS)](x, y)}">{title}</path>')
    return parts


def _text(style: str, x: float, y: float, text: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _dash(style: int) -> str:
    dash = _DASHES[style % len(_DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _x(place: float) -> float:
    return _LEFT + place * (WIDTH - _LEFT - _RIGHT)


def _y(chart: Chart, value: float) -> float:
    value = min(max(value, chart.bottom), chart.top)
    low, high = (math.log(chart.bottom), math.log(chart.top)) if chart.log else (chart.bottom, chart.top)
    share = ((math.log(value) if chart.log else value) - low) / (high - low)
    return HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP)


def _levels(chart: Chart) -> list[float]:
    if not chart.log:
        return [chart.bottom + k * (chart.top - chart.bottom) / 4 for k in range(5)]
    first, last = round(math.log10(chart.bottom)), round(math.log10(chart.top))
    return [10.0**power for power in range(first, last + 1, max(1, (last - first) // 4))]
