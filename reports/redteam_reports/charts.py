"""Charts as small SVGs whose colours follow the page's light or dark scheme; all text in them is text.

Colour is never the only difference: every line has a marker and a dash of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 14, 46
COLOURS = 8
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
    """A figure at a tick, with its interval where it has one."""

    tick: str
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """What one attack, or one defense, does along the axis.

    Attributes:
        style: Which colour, marker and dash; the same name has the same all over the page.
    """

    name: str
    style: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """Lines over ticks.

    Attributes:
        title: What it shows, in words.
        ticks: Label → where it stands, 0 to 1.
        lines: What is drawn.
        log: Whether the vertical axis is logarithmic.
        bottom, top: Where the vertical axis begins and ends.
        limit: A horizontal line, and what it says.
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
        """What stands in for the picture where it cannot be seen."""
        ends = [
            f"{line.name} from {line.points[0].y:.2g} at {line.points[0].tick} to {line.points[-1].y:.2g} "
            f"at {line.points[-1].tick}"
            for line in self.lines
            if line.points
        ]
        return f"{self.title}. {self.y_label} over {self.x_label}: {'; '.join(ends)}. The table below has every figure."


def positions(values: Sequence[float], *, log: bool, before: Sequence[str] = ()) -> dict[str, float]:
    """Where ticks stand: labels without a place on the scale first, then the values.

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
    """Ticks for words, evenly apart."""
    return {label: (turn + 0.5) / len(labels) for turn, label in enumerate(labels)}


def svg(chart: Chart) -> str:
    """The picture, without its legend."""
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.summary)}">',
        *_axes(chart),
    ]
    for turn, line in enumerate(chart.lines):
        aside = min(5.0, 40.0 / len(chart.lines)) * (turn - (len(chart.lines) - 1) / 2)
        parts += _line(chart, line, aside)
    return "".join([*parts, "</svg>"])


def swatch(style: int) -> str:
    """The sign of a line for a legend."""
    colour, marker = style % COLOURS, _MARKERS[style % len(_MARKERS)](16, 7)
    line = f'<path class="s{colour}" d="M0 7H32"{_dash(style)}/><path class="m{colour}" d="{marker}"/>'
    return f'<svg class="swatch" viewBox="0 0 32 14" aria-hidden="true">{line}</svg>'


def _axes(chart: Chart) -> list[str]:
    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = []
    for value in _levels(chart):
        y = _y(chart, value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{floor}H{right}"/>')
    taken = -99.0
    for label, place in sorted(chart.ticks.items(), key=lambda item: item[1]):
        x = _x(place)
        parts.append(f'<path class="axis" d="M{x:.1f} {floor}v4"/>')
        if x - taken >= 4 + 4.4 * len(label):
            parts.append(f'<text class="middle" x="{x:.1f}" y="{floor + 17}">{escape(label)}</text>')
            taken = x + 4.4 * len(label)
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="middle" x="{middle:.0f}" y="{HEIGHT - 8}">{escape(chart.x_label)}</text>')
    half = (_TOP + floor) / 2
    parts.append(
        f'<text class="middle" transform="translate(11 {half:.0f}) rotate(-90)">{escape(chart.y_label)}</text>'
    )
    if chart.limit is not None:
        value, told = chart.limit
        y = _y(chart, value)
        parts.append(f'<path class="limit" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="end" x="{right}" y="{y - 4:.1f}">{escape(told)}</text>')
    return parts


def _line(chart: Chart, line: Line, aside: float) -> list[str]:
    colour = line.style % COLOURS
    placed = [(_x(chart.ticks[p.tick]) + aside, p) for p in line.points]
    path = "L".join(f"{x:.1f} {_y(chart, p.y):.1f}" for x, p in placed)
    parts = [f'<path class="s{colour}" d="M{path}"{_dash(line.style)}/>'] if len(placed) > 1 else []
    for x, point in placed:
        if point.low is not None and point.high is not None:
            low, high = _y(chart, point.low), _y(chart, point.high)
            parts.append(
                f'<path class="s{colour} bar" d="M{x:.1f} {low:.1f}V{high:.1f}m-3 0h6M{x - 3:.1f} {low:.1f}h6"/>'
            )
        parts.append(f'<path class="m{colour}" d="{_MARKERS[line.style % len(_MARKERS)](x, _y(chart, point.y))}"/>')
    return parts


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
