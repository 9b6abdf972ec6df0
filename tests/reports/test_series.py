"""Which charts a run has, and that they show its figures."""

from __future__ import annotations

from typing import Any

import pytest
from redteam_reports.charts import Chart, Line, Point, positions, svg
from redteam_reports.series import Series

from redteam.evaluation.results import Figure, Results
from redteam.evaluation.statistics import Interval


def swept(results: Results, texts: list[str], kind: str = "defense", **more: Any) -> Results:
    """The results with one attack's theft 0, 0.1, 0.2 … on these references."""
    base = next(f for f in results.figures if f.attack == "gauge-fit")
    figures = tuple(
        base.model_copy(update={kind: text, "theft": Interval(k / 10, k / 10, k / 10, 5, "seeds")})
        for k, text in enumerate(texts)
    )
    return results.model_copy(update={"figures": figures, "settings": {}, **more})


def panels(results: Results) -> dict[str, list[Chart]]:
    return {panel.heading: [*panel.charts, *panel.more] for panel in Series(results).sweeps()}


class TestSweeps:
    def test_of_the_made_up_run(self, full: Results) -> None:
        found = Series(full).sweeps()
        assert [panel.heading for panel in found] == ["`scale` of `mergelock`", "`growth` of `digits`"]
        theft = found[0].charts[0]
        assert list(theft.ticks) == ["2", "10", "100"]
        by_name = {line.name: line for line in theft.lines}
        for line in by_name.values():
            for point, scale in zip(line.points, ("[0.5,2]", "[0.1,10]", "[0.01,100]"), strict=True):
                figure = next(
                    f
                    for f in full.figures
                    if (f.defense, f.attack, f.scenario, f.merger)
                    == (f"mergelock:scale={scale}", line.name, "digits", "task-arithmetic")
                )
                assert figure.theft is not None
                assert (point.y, point.low, point.high) == (figure.theft.mean, figure.theft.low, figure.theft.high)
        assert "base" not in by_name, "trivial attackers have no curve"
        drift = found[1].charts[0]
        assert list(drift.ticks) == ["1", "2", "4"], "the default is known from the settings"

    @pytest.mark.parametrize(
        ("texts", "ticks"),
        [
            (["a:x=1", "a:x=2", "a:x=3"], ["1", "2", "3"]),
            (["a:x=3", "a:x=1", "a:x=2"], ["1", "2", "3"]),
            (["a:x=[0.5,2]", "a:x=[0.1,10]", "a:x=[0.01,100]"], ["2", "10", "100"]),
            (["a", "a:x=2", "a:x=4"], ["default", "2", "4"]),
            (["a+c", "a:x=2+c", "a:x=4+c"], ["default", "2", "4"]),
            (["a:x=0", "a:x=-1", "a:x=1.5", "b"], ["-1", "0", "1.5"]),
        ],
    )
    @pytest.mark.parametrize("kind", ["defense", "scenario"])
    def test_a_setting_with_three_values(self, full: Results, texts: list[str], ticks: list[str], kind: str) -> None:
        (found,) = panels(swept(full, texts, kind)).values()
        theft = found[0]
        assert list(theft.ticks) == ticks
        assert sorted(theft.ticks.values()) == list(theft.ticks.values())
        (line,) = theft.lines
        assert [point.x for point in line.points] == ticks
        by_tick = dict(
            zip([t.partition("=")[2].strip("[]").split(",")[-1].split("+")[0] for t in texts], range(9), strict=False)
        )
        assert {p.x: p.y for p in line.points} == {tick: by_tick.get(tick, 0) / 10 for tick in ticks}

    @pytest.mark.parametrize(
        "texts",
        [
            ["a:x=1", "a:x=2"],
            ["a", "b", "c"],
            ["a:x=one", "a:x=two", "a:x=three"],
            ["a:x=1", "b:x=2", "c:x=3"],
            ["a:x=1,y=1", "a:x=2,y=2", "a:x=3,y=3"],
            ["a:x=true", "a:x=false", "a"],
            ["not a reference", "=", ""],
        ],
    )
    def test_nothing_else_is_one(self, full: Results, texts: list[str]) -> None:
        assert panels(swept(full, texts)) == {}

    def test_a_default_stands_where_its_value_is(self, full: Results) -> None:
        settings = {"defense": {"a": [{"x": 100.0}], "a:x=2": [{"x": 2}], "a:x=4": [{"x": 4}]}}
        (found,) = panels(swept(full, ["a", "a:x=2", "a:x=4"], settings=settings)).values()
        assert list(found[0].ticks) == ["2", "4", "100"]


class TestBudget:
    def test_of_the_made_up_run(self, full: Results) -> None:
        found = Series(full).budget()
        assert len(found) == 3, "one for each defense that was tried with labels"
        chart = found[1]
        assert list(chart.ticks) == ["0", "8", "32", "128", "512", "1203"]
        names = {line.name: [point.x for point in line.points] for line in chart.lines}
        assert names["fine-tune"] == names["fine-tune, counted"] == ["8", "32", "128", "512", "1203"]
        assert names["none"] == ["0"]
        assert len(names) == 4, "and the best attack without data"

    def test_one_number_of_labels_is_no_curve(self, made: Any) -> None:
        assert Series(made(threats=("weights-only", "data-rich"))).budget() == []
        assert Series(made(threats=("weights-only",))).budget() == []


def test_fidelity_is_drawn_for_every_defense(full: Results) -> None:
    charts = Series(full).fidelity()
    assert [len(chart.lines) for chart in charts] == [11, 11, 11]
    assert len({(line.name, line.style) for chart in charts for line in chart.lines}) == 11, "one style each, all over"
    for line in charts[0].lines:
        verdict = next(v for v in full.verdicts if v.defense == line.name)
        assert {p.x: p.y for p in line.points} == {dtype: value.mean for dtype, value in verdict.fidelity.items()}


def test_points_stand_where_their_figures_are() -> None:
    ticks = positions([1.0, 10.0, 100.0], log=True)
    assert ticks["10"] == pytest.approx((ticks["1"] + ticks["100"]) / 2)
    line = Line("a", 0, (Point("1", 0.0), Point("10", 0.5, 0.4, 0.6), Point("100", 1.0)))
    text = svg(Chart("t <&>", "x", "y", ticks, (line,)))
    assert "t &lt;&amp;&gt;" in text
    assert text.count("bar") == 1
    assert 'role="img"' in text
    assert "a from 0 at 1 to 1 at 100" in text


def test_figures_without_theft_are_left_out(full: Results) -> None:
    lost = tuple(Figure(**{**f.model_dump(), "theft": None, "status": "error"}) for f in full.figures)
    series = Series(full.model_copy(update={"figures": lost}))
    assert (series.budget(), series.sweeps()) == ([], [])
