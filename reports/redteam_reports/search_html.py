"""HTML: a search as one offline page, with a picture of theft over cost."""

from __future__ import annotations

import math
from pathlib import Path

from redteam.files import write_atomically
from redteam.search.results import SearchResults, Trial
from redteam_reports import charts
from redteam_reports.charts import Chart, Line, Point
from redteam_reports.templating import asset, environment

_KINDS = ("other trials", "on the front", "the winner")
_STYLES = (6, 1, 3)
_LEAST = 1e-4  # seconds: where the axis begins at the latest


def write(found: SearchResults, path: Path) -> None:
    """Writes the page.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, render(found))


def render(found: SearchResults) -> str:
    """The page. The same search gives the same text."""
    from markupsafe import Markup

    templates = environment(figure=lambda value: "–" if value is None else f"{value:.2f}", seconds=_seconds)
    return templates.get_template("search.html.j2").render(
        f=found,
        kind=lambda trial: _KINDS[_kind(found, trial)],
        plot=Markup(charts.svg(plot(found))) if found.front else "",
        legend=[(kind, Markup(charts.swatch(style))) for kind, style in zip(_KINDS, _STYLES, strict=True)],
        style=Markup(asset("page.css")),
    )


def plot(found: SearchResults) -> Chart:
    """Theft over seconds of every trial that has both, the front joined by steps."""
    trials = [trial for trial in found.trials if trial.theft is not None and trial.seconds is not None]
    powers = {trial.number: math.log10(max(trial.seconds or 0.0, _LEAST)) for trial in trials}
    first = math.floor(min(powers.values()))
    last = max(math.ceil(max(powers.values())), first + 1)

    def place(power: float) -> float:
        return 0.03 + 0.94 * (power - first) / (last - first)

    def point(trial: Trial) -> Point:
        kind = _KINDS[_kind(found, trial)]
        label = f"{trial.pipeline}: theft {trial.theft:.2f} in {_seconds(trial.seconds)} s, {kind}"
        return Point(place(powers[trial.number]), trial.theft or 0.0, label=label)

    by_number = {trial.number: trial for trial in trials}
    front = tuple(point(by_number[number]) for number in found.front)
    marks = [
        Line(name, style, tuple(point(t) for t in trials if _kind(found, t) == kind), "marks")
        for kind, (name, style) in enumerate(zip(_KINDS, _STYLES, strict=True))
    ]
    return Chart(
        "Theft over seconds of every trial",
        "seconds",
        "theft on the tuning data",
        {f"{10.0**power:g}": place(power) for power in range(first, last + 1)},
        (Line("the front", _STYLES[1], front, "steps"), *marks),
        limit=(found.theft, f"wanted: {found.theft:g}"),
    )


def _kind(found: SearchResults, trial: Trial) -> int:
    return 2 if trial.number == found.winner else int(trial.number in found.front)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
