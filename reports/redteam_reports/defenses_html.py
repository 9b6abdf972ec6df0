"""HTML: a search for a defense as one offline page, with a picture of theft over fidelity."""

from __future__ import annotations

from pathlib import Path

from redteam.files import write_atomically
from redteam.search.defenders.results import Defenses, Trial
from redteam_reports import charts
from redteam_reports.charts import Chart, Line, Point
from redteam_reports.templating import asset, environment

PRICES = ((1 / 32, "costs next to nothing"), (0.3, "under 0.3"), (1.0, "under 1"), (float("inf"), "1 or more"))
"""Upper ends of the owner's price, and what they are called."""
_STYLES = (1, 0, 4, 2)
_BEATEN, _NAIVE = 6, 3


def write(found: Defenses, path: Path) -> None:
    """Writes the page.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, render(found))


def render(found: Defenses) -> str:
    """The page. The same search gives the same text."""
    from markupsafe import Markup

    templates = environment(
        figure=lambda value: "–" if value is None else f"{value:.3f}", interval=lambda value: str(value or "–")
    )
    named = [(f"on the front, price {name}", style) for (_, name), style in zip(PRICES, _STYLES, strict=True)]
    legend = [*named, ("beaten by another", _BEATEN), ("the victim as it is", _NAIVE)]
    return templates.get_template("defenses.html.j2").render(
        f=found,
        numbers={trial.number for trial in found.on_front},
        plot=Markup(charts.svg(plot(found))) if found.front else "",
        legend=[(name, Markup(charts.swatch(style))) for name, style in legend],
        style=Markup(asset("page.css")),
    )


def plot(found: Defenses) -> Chart:
    """The upper bound of theft over fidelity of every trial that has both; marks say what the owner pays."""
    trials = [trial for trial in (found.naive, *found.trials) if trial.values is not None]
    kept = [trial.values[1] for trial in trials if trial.values is not None]
    least = min(0.9, *(10 * value // 1 / 10 for value in kept)) if kept else 0.0

    def place(fidelity: float) -> float:
        return 0.03 + 0.94 * (fidelity - least) / (1.0 - least)

    def marks(name: str, style: int, chosen: list[Trial]) -> Line:
        points = []
        for trial in chosen:
            assert trial.values is not None
            theft, fidelity, _ = trial.values
            points.append(Point(place(fidelity), theft, label=f"{trial.pipeline}: {trial.figures}"))
        return Line(name, style, tuple(points), "marks")

    front = set(found.front)
    lines = [
        marks("beaten by another", _BEATEN, [t for t in trials if t.number not in front and t is not found.naive]),
        marks("the victim as it is", _NAIVE, [t for t in trials if t is found.naive]),
    ]
    low = float("-inf")
    for (high, name), style in zip(PRICES, _STYLES, strict=True):
        priced = [t for t in trials if t.number in front and t.values is not None and low <= t.values[2] < high]
        lines.append(marks(name, style, priced))
        low = high
    steps = 5 if least < 0.9 else 4
    values = [least + (1.0 - least) * turn / steps for turn in range(steps + 1)]
    return Chart(
        "Theft over fidelity of every defense that could be judged",
        "fidelity",
        "theft, upper bound, on the tuning data",
        {f"{value:.3g}": place(value) for value in values},
        tuple(lines),
        limit=(found.line, f"imitation: {found.line:.2f}" if found.imitation is not None else f"half: {found.line:g}"),
    )
