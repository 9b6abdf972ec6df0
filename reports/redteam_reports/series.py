"""Which charts a run has: theft over budget, fidelity by dtype, and one for every setting that was swept.

No plugin is known by name: a setting is swept if it takes three or more numeric values among the references of the plan
that are otherwise alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redteam.errors import BadInput
from redteam.evaluation.results import Figure, Results
from redteam.evaluation.statistics import Interval
from redteam.plugins.reference import Reference, chain_text, parse_chain
from redteam_reports.charts import Chart, Line, Point, positions, spread
from redteam_reports.wording import sealed

DEFAULT = "default"
_CURVE = 3  # values of a setting, below which there is no curve to look at


@dataclass(frozen=True)
class Panel:
    """Charts under one heading.

    Attributes:
        kind: Of what the setting is, `"defense"` or `"scenario"`.
        charts: What is looked at first.
        more: The same under other threat models, and for defenses of which no gate speaks.
    """

    heading: str
    kind: str
    charts: tuple[Chart, ...]
    more: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """A setting and the references that differ in it alone.

    Attributes:
        kind: `"defense"` or `"scenario"`.
        name: The plugin that has it.
        setting: Its name.
        ranges: Whether its values are ranges, of which the upper end is drawn.
        ticks: Label → where it stands.
        texts: Text as in figures → label.
    """

    kind: str
    name: str
    setting: str
    ranges: bool
    ticks: Mapping[str, float]
    texts: Mapping[str, str]

    @property
    def label(self) -> str:
        """The horizontal axis in words."""
        return f"{'upper end of ' if self.ranges else ''}{self.setting} of {self.name}"


class Series:
    """The charts of a run.

    Args:
        results: Its results.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        plain = next((f.attack for f in results.figures if f.role == "naive"), "")
        self.figures = [
            f
            for f in results.figures
            if f.choice == "attack" and not f.whole and f.theft is not None and (f.role != "naive" or f.attack == plain)
        ]
        self.styles = {name: k for k, name in enumerate(dict.fromkeys(f.attack for f in results.figures))}
        self.limit = (float(results.thresholds.get("stolen", 0.5)), "counts as broken")

    def budget(self) -> list[Chart]:
        """Theft over labels, for every scenario and defense where an attack was given several numbers of them."""
        return [
            chart
            for scenario, defense in dict.fromkeys((f.scenario, f.defense) for f in self.figures)
            if (chart := self._budget(scenario, defense)) is not None
        ]

    def fidelity(self) -> list[Chart]:
        """Fidelity over dtypes, a line per defense, for every scenario."""
        made = []
        defenses = list(dict.fromkeys(v.defense for v in self.results.verdicts))
        for scenario in dict.fromkeys(v.scenario for v in self.results.verdicts):
            by_defense: dict[str, dict[str, Interval]] = {}
            for verdict in self.results.verdicts:
                if verdict.scenario == scenario and verdict.fidelity:
                    by_defense.setdefault(verdict.defense, verdict.fidelity)
            dtypes = list(dict.fromkeys(dtype for fidelity in by_defense.values() for dtype in fidelity))
            lines = [
                Line(defense, defenses.index(defense), tuple(_point(dtype, value) for dtype, value in fidelity.items()))
                for defense, fidelity in by_defense.items()
            ]
            if lines:
                alone = "" if sealed(v.threat for v in self.results.verdicts if v.scenario == scenario) else " alone"
                title = f"Fidelity of the protected model{alone} by dtype: {scenario}"
                made.append(_framed(title, "stored in", "fidelity", spread(dtypes), lines))
        return made

    def sweeps(self) -> list[Panel]:
        """For every swept setting: theft, residual, and for defenses fidelity."""
        panels = []
        for sweep in self._swept("defense") + self._swept("scenario"):
            first, more = self._charts(sweep)
            if first or more:
                panels.append(
                    Panel(
                        f"`{sweep.setting}` of `{sweep.name}`",
                        sweep.kind,
                        tuple(first or more),
                        tuple(more if first else ()),
                    )
                )
        return panels

    def _budget(self, scenario: str, defense: str) -> Chart | None:
        here = [f for f in self.figures if (f.scenario, f.defense) == (scenario, defense) and f.labels is not None]
        here = _first([f for f in here if f.role in ("naive", "recovery")])
        paid = [f for f in here if f.labels]
        curves = {
            attack: {f.labels: f for f in paid if f.attack == attack}
            for attack in dict.fromkeys(f.attack for f in paid)
        }
        curves = {attack: curve for attack, curve in curves.items() if len(curve) > 1}
        if not curves:
            return None
        free = {f.attack: f for f in reversed(here) if not f.labels}
        best = max((f for f in free.values() if f.role == "recovery"), key=_counted, default=None)
        naive = next((f for f in free.values() if f.role == "naive"), None)
        values = sorted({float(labels) for curve in curves.values() for labels in curve if labels})
        ticks = positions(values, log=True, before=("0",))
        lines = [Line(f.attack, self.styles[f.attack], (_point("0", f.theft),)) for f in (naive, best) if f and f.theft]
        for attack, curve in curves.items():
            ordered = sorted(curve.items(), key=lambda item: item[0] or 0.0)
            thefts = tuple(_point(f"{labels:g}", f.theft) for labels, f in ordered if f.theft)
            lines.append(Line(attack, self.styles[attack], thefts))
            counted = tuple(_point(f"{labels:g}", f.counted) for labels, f in ordered if f.counted)
            if any(f.counted != f.theft for f in curve.values() if f.counted):
                lines.append(Line(f"{attack}, counted", len(self.styles) + self.styles[attack], counted))
        title = f"Theft over labelled samples: defense {defense}, {scenario}"
        return Chart(title, "labelled samples of the victim's task", "theft", ticks, tuple(lines), limit=self.limit)

    def _swept(self, kind: str) -> list[Sweep]:
        families: dict[tuple[int, str, str], list[tuple[str, str, Any]]] = {}
        texts = list(dict.fromkeys(str(getattr(figure, kind)) for figure in self.figures))
        chains = {text: chain for text in texts if (chain := _chain(text))}
        named = {(link.name, setting) for chain in chains.values() for link in chain for setting in link.settings}
        for text, chain in chains.items():
            full = self.results.settings.get(kind, {}).get(text, [dict(link.settings) for link in chain])
            for turn, link in enumerate(chain):
                for setting in sorted(s for name, s in named if name == link.name):
                    rest = {key: value for key, value in link.settings.items() if key != setting}
                    family = chain_text((*chain[:turn], Reference(link.name, rest), *chain[turn + 1 :]))
                    families.setdefault((turn, setting, family), []).append((text, link.name, full[turn].get(setting)))
        found = []
        for (_, setting, _), members in families.items():
            labels = {text: _label(value) for text, _, value in members if value is None or _upper(value) is not None}
            values = sorted({upper for _, _, value in members if (upper := _upper(value)) is not None})
            if len(values) < 2 or len(set(labels.values())) < _CURVE:
                continue
            log = values[0] > 0 and values[-1] >= 8 * values[0]
            ticks = positions(values, log=log, before=(DEFAULT,) if DEFAULT in labels.values() else ())
            ranges = any(isinstance(value, (list, tuple)) for _, _, value in members)
            found.append(Sweep(kind, members[0][1], setting, ranges, ticks, labels))
        return found

    def _charts(self, sweep: Sweep) -> tuple[list[Chart], list[Chart]]:
        other = "scenario" if sweep.kind == "defense" else "defense"
        mine = [f for f in self.figures if str(getattr(f, sweep.kind)) in sweep.texts]
        silent = {(v.scenario, v.defense, v.threat) for v in self.results.verdicts if not v.gated}
        first: list[Chart] = []
        more: list[Chart] = []
        drawn: set[tuple[tuple[Line, ...], ...]] = set()
        known: set[str] = set()
        for beside, threat in dict.fromkeys((str(getattr(f, other)), f.threat) for f in mine):
            here = _first([f for f in mine if (getattr(f, other), f.threat) == (beside, threat)])
            if len({sweep.texts[str(getattr(f, sweep.kind))] for f in here}) < _CURVE:
                continue
            where = f"{beside}, {threat}, {here[0].merger}"
            charts = [chart for chart in (self._theft(sweep, here, where), self._residual(sweep, here, where)) if chart]
            same = tuple(chart.lines for chart in charts)
            if same in drawn and beside in known:
                continue
            if beside not in known and sweep.kind == "defense":
                charts += self._stored(sweep, beside, threat)
            quiet = all((f.scenario, f.defense, f.threat) in silent for f in here)
            (more if beside in known or quiet else first).extend(charts)
            drawn.add(same)
            known.add(beside)
        return first, more

    def _theft(self, sweep: Sweep, figures: Sequence[Figure], where: str) -> Chart | None:
        lines = self._lines(
            sweep, figures, {f.attack: None for f in figures if f.role in ("naive", "recovery")}, "theft"
        )
        if not lines:
            return None
        return Chart(f"Theft over {sweep.label}: {where}", sweep.label, "theft", sweep.ticks, lines, limit=self.limit)

    def _residual(self, sweep: Sweep, figures: Sequence[Figure], where: str) -> Chart | None:
        attacks = {f.attack: None for f in figures if f.role in ("naive", "recovery")}
        lines = self._lines(sweep, figures, attacks, "residual")
        values = [point.y for line in lines for point in line.points]
        if not values:
            return None
        bottom, top = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values) * 1.001))
        title = f"Residual over {sweep.label}: {where}"
        return Chart(title, sweep.label, "residual", sweep.ticks, lines, log=True, bottom=bottom, top=top)

    def _lines(self, sweep: Sweep, figures: Sequence[Figure], attacks: Iterable[str], what: str) -> tuple[Line, ...]:
        made = []
        for attack in attacks:
            points: dict[str, Point] = {}
            for figure in figures:
                value = getattr(figure, what)
                if figure.attack != attack or value is None or (what == "residual" and value <= 0):
                    continue
                tick = sweep.texts[str(getattr(figure, sweep.kind))]
                points.setdefault(tick, Point(tick, value) if what == "residual" else _point(tick, value))
            ordered = tuple(points[tick] for tick in sweep.ticks if tick in points)
            if ordered:
                made.append(Line(attack, self.styles[attack], ordered))
        return tuple(made)

    def _stored(self, sweep: Sweep, scenario: str, threat: str) -> list[Chart]:
        found = {
            sweep.texts[v.defense]: v.fidelity
            for v in self.results.verdicts
            if (v.scenario, v.threat) == (scenario, threat) and v.defense in sweep.texts
        }
        dtypes = dict.fromkeys(dtype for fidelity in found.values() for dtype in fidelity)
        lines = [
            Line(dtype, k, tuple(_point(t, found[t][dtype]) for t in sweep.ticks if dtype in found.get(t, {})))
            for k, dtype in enumerate(dtypes)
        ]
        title = f"Fidelity over {sweep.label}: {scenario}"
        return [_framed(title, sweep.label, "fidelity", sweep.ticks, lines)] if lines else []


def _framed(title: str, x_label: str, y_label: str, ticks: Mapping[str, float], lines: Sequence[Line]) -> Chart:
    """A chart whose vertical axis begins a little under the lowest bound."""
    lows = [point.y if point.low is None else point.low for line in lines for point in line.points]
    highs = [point.y if point.high is None else point.high for line in lines for point in line.points]
    bottom, top = math.floor(20 * min(lows) - 0.2) / 20, math.ceil(20 * max(highs) + 0.2) / 20
    return Chart(title, x_label, y_label, ticks, tuple(lines), bottom=max(bottom, 0.0), top=top)


def _first(figures: Sequence[Figure]) -> list[Figure]:
    """Those of the first merger among them."""
    return [figure for figure in figures if figure.merger == figures[0].merger]


def _point(tick: str, value: Interval | None) -> Point:
    assert value is not None
    return Point(tick, value.mean, value.low, value.high)


def _counted(figure: Figure) -> float:
    value = figure.counted or figure.theft
    return value.mean if value is not None else 0.0


def _chain(text: str) -> tuple[Reference, ...]:
    try:
        return parse_chain(text)
    except BadInput:
        return ()


def _upper(value: Any) -> float | None:
    """A number, or the upper end of a range; `None` for anything else."""
    if isinstance(value, (list, tuple)) and value and all(_upper(item) is not None for item in value):
        return max(float(item) for item in value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _label(value: Any) -> str:
    upper = _upper(value)
    return DEFAULT if upper is None else f"{upper:g}"
