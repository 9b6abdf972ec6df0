"""HTML: a search as one offline page, with a picture of theft over cost."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from redteam.evaluation.store import write_atomically
from redteam.search.found import Found, Trial
from redteam_reports.charts import HEIGHT, WIDTH
from redteam_reports.pages import asset, environment

_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 16, 46
_KINDS = ("other trials", "on the front", "the winner")
_SHAPES = (
    "M{x:.1f} {y:.1f}m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "M{x:.1f} {y:.1f}m-4.5 -4.5h9v9h-9z",
    "M{x:.1f} {y:.1f}m0 -8l8 8l-8 8l-8 -8z",
)
_STYLES = (6, 0, 1)


def write(found: Found, path: Path) -> None:
    """Writes the page.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, render(found))


def render(found: Found) -> str:
    """The page. The same search gives the same text."""
    from markupsafe import Markup

    templates = environment(figure=lambda value: "–" if value is None else f"{value:.2f}", seconds=_seconds)
    legend = [(kind, Markup(_swatch(turn))) for turn, kind in enumerate(_KINDS)]
    return templates.get_template("search.html.j2").render(
        f=found,
        kind=lambda trial: _KINDS[_kind(found, trial)],
        plot=Markup(plot(found)) if found.front else "",
        legend=legend,
        style=Markup(asset("page.css")),
    )


def plot(found: Found) -> str:
    """Theft over seconds, whose colours follow the page's scheme; every mark says in words what it is.

    Colour is never the only difference: the front is drawn with squares and a line, the winner as a diamond.
    """
    trials = [trial for trial in found.trials if trial.theft is not None and trial.seconds is not None]
    powers = [math.log10(max(trial.seconds or 0.0, 1e-4)) for trial in trials]
    low, high = math.floor(min(powers)), max(math.ceil(max(powers)), math.floor(min(powers)) + 1)

    def place(trial: Trial) -> tuple[float, float]:
        share = (math.log10(max(trial.seconds or 0.0, 1e-4)) - low) / (high - low)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT), _height(trial.theft or 0.0)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_summary(found))}">',
        *_axes(found, low, high),
    ]
    front = [place(trial) for number in found.front for trial in trials if trial.number == number]
    stairs = f"M{front[0][0]:.1f} {front[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in front[1:])
    parts.append(f'<path class="s{_STYLES[1]}" d="{stairs}H{WIDTH - _RIGHT}" fill="none" stroke-dasharray="7 3"/>')
    for trial in sorted(trials, key=lambda one: _kind(found, one)):
        kind, (x, y) = _kind(found, trial), place(trial)
        told = f"{trial.pipeline}: theft {trial.theft:.2f} in {_seconds(trial.seconds)} s, {_KINDS[kind]}"
        parts.append(
            f'<path class="m{_STYLES[kind]}" d="{_SHAPES[kind].format(x=x, y=y)}"><title>{escape(told)}</title></path>'
        )
    return "".join([*parts, "</svg>"])


def _axes(found: Found, low: int, high: int) -> list[str]:
    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = []
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _height(level)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{level:g}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{floor}H{right}"/>')
    for power in range(low, high + 1):
        x = _LEFT + (power - low) / (high - low) * (right - _LEFT)
        parts.append(f'<path class="axis" d="M{x:.1f} {floor}v4"/>')
        parts.append(f'<text class="middle" x="{min(x, right - 8):.1f}" y="{floor + 17}">{10.0**power:g}</text>')
    middle, half, limit = (_LEFT + right) / 2, (_TOP + floor) / 2, _height(found.theft)
    parts.append(f'<text class="middle" x="{middle:.0f}" y="{HEIGHT - 8}">seconds</text>')
    parts.append(
        f'<text class="middle" transform="translate(11 {half:.0f}) rotate(-90)">theft on the tuning data</text>'
    )
    parts.append(f'<path class="limit" d="M{_LEFT} {limit:.1f}H{right}"/>')
    parts.append(f'<text class="end" x="{right}" y="{limit + 15:.1f}">wanted: {found.theft:g}</text>')
    return parts


def _summary(found: Found) -> str:
    """What stands in for the picture where it cannot be seen."""
    numbers = {trial.number: trial for trial in found.trials}
    ends = [
        f"theft {one.theft:.2f} in {_seconds(one.seconds)} s by {one.pipeline}"
        for one in (numbers[n] for n in found.front)
    ]
    return f"Theft over seconds of every trial. On the front: {'; '.join(ends)}. The table below has every figure."


def _kind(found: Found, trial: Trial) -> int:
    return 2 if trial.number == found.winner else int(trial.number in found.front)


def _swatch(kind: int) -> str:
    drawn = _SHAPES[kind].format(x=16.0, y=8.0)
    return (
        f'<svg class="swatch" viewBox="0 0 32 16" aria-hidden="true"><path class="m{_STYLES[kind]}" d="{drawn}"/></svg>'
    )


def _height(theft: float) -> float:
    return HEIGHT - _BOTTOM - theft * (HEIGHT - _BOTTOM - _TOP)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
