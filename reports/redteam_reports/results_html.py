"""HTML: one offline page that can be mailed, read without a script, and printed."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from redteam import answer
from redteam.disagreement import disagreements
from redteam.evaluation import gate
from redteam.evaluation.results import Cell, Control, Results
from redteam.files import write_atomically
from redteam_reports import bars, by_merger, charts, faq, heatmap, leaderboard, wording
from redteam_reports.series import Series
from redteam_reports.templating import asset, environment

if TYPE_CHECKING:
    from markupsafe import Markup

LIMIT = 5_000_000
"""Bytes that a page stays under; the table of cells gives way."""
_CONTROLS = 300  # that passed: more, nobody reads on a page


def write(results: Results, path: Path) -> None:
    """Writes the page.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, render(results))


def render(results: Results, *, limit: int = LIMIT) -> str:
    """The page. The same results give the same text.

    Args:
        results: What to tell.
        limit: Bytes to stay under. Where all cells would be too much, those that failed come first and the page says
            how many it leaves out.
    """
    most = min(len(results.cells), limit // 150)  # bytes that a cell takes at least
    while True:
        page = _page(results, most)
        if len(page.encode()) < limit or not most:
            return page
        most = most // 2


def _page(results: Results, most: int) -> str:
    from markupsafe import Markup

    templates = environment(
        code=_code,
        named=_named,
        interval=wording.interval,
        number=wording.number,
        many=wording.many,
        bar=lambda bar: Markup(bars.svg(bar, limit)),
        words=lambda here: _counted(bar.verdict.verdict for bar in here),
        svg=lambda chart: Markup(charts.svg(chart)),
        swatch=lambda style: Markup(charts.swatch(style)),
        slug=lambda text: re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-"),
    )
    limit = float(results.thresholds.get("stolen", 0.5))
    style, script = (asset(name) for name in _ASSETS)
    series = Series(results)
    sweeps = series.sweeps()
    shown, left_out = _cells(results, most)
    return templates.get_template("report.html.j2").render(
        r=results,
        wording=wording,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        gate=gate.told(results.gate),
        standing=_standing(results),
        answer=answer,
        axis=Markup(bars.axis_svg()),
        bars=bars.bars(results),
        leaderboard=leaderboard.rows(results),
        over_victims=leaderboard.over_victims(results),
        worst_victim=leaderboard.worst_victim,
        disagreements=[one.told(lambda name: f"`{name}`") for one in disagreements(results)],
        blocks=heatmap.blocks(results),
        matrices=by_merger.matrices(results),
        matrices_told=by_merger.TOLD.replace("*", ""),
        residuals=heatmap.residuals(results),
        budget=series.budget(),
        sweeps=sweeps,
        fidelity=series.fidelity(),
        kinds=_kinds(results.controls),
        controls=sorted(results.controls, key=lambda control: control.passed),
        most_controls=_CONTROLS,
        units=list(dict.fromkeys(u for v in results.verdicts if v.price for u in (*v.price.ratio, *v.price.paid))),
        answers=faq.answers(
            results,
            swept=any(panel.kind == "defense" for panel in sweeps),
            drifted=any(panel.kind == "scenario" for panel in sweeps),
        ),
        cells=_grouped(shown),
        left_out=left_out,
        digests={(g.scenario, g.seed): g.digest for g in results.grounds},
    )


_ASSETS = ("page.css", "page.js")


def _code(text: str) -> Markup:
    """Backquoted names as code, everything else escaped."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _named(text: str) -> Markup:
    """A plugin with its settings as code that may be broken between them."""
    from markupsafe import Markup, escape

    broken = re.sub(r"([:+,])", r"\1<wbr>", str(escape(text)))
    return Markup(f"<code>{broken}</code>")


def _standing(results: Results) -> dict[tuple[str, str, str], str]:
    """(scenario, defense, threat) → what the gate says of the verdict there."""
    if results.gate is None:
        return {}
    failed, undefined = set(results.gate.failed), set(results.gate.undefined)
    return {
        where: " and ".join(word for word, places in (("failed", failed), ("undefined", undefined)) if where in places)
        or ("held" if verdict.gated and verdict in results.told else "not asked of it")
        for verdict in results.verdicts
        for where in [(verdict.scenario, verdict.defense, verdict.threat)]
    }


def _counted(words: Iterable[str]) -> str:
    """`3 BROKEN, 1 INVALID`."""
    return ", ".join(f"{count} {word}" for word, count in Counter(words).items())


def _kinds(controls: Iterable[Control]) -> list[tuple[str, int, int, str]]:
    """Kind, how many passed, of how many, what it shows; those with failures first."""
    by_kind: dict[str, list[bool]] = {}
    for control in controls:
        by_kind.setdefault(control.control, []).append(control.passed)
    rows = [(kind, sum(found), len(found), wording.SHOWS[kind]) for kind, found in by_kind.items()]
    return sorted(rows, key=lambda row: row[1] == row[2])


def _cells(results: Results, most: int) -> tuple[list[Cell], int]:
    """The cells to show, and how many are left out."""
    if most >= len(results.cells):
        return list(results.cells), 0
    ranked = sorted(range(len(results.cells)), key=lambda k: results.cells[k].status == "ok")
    kept = sorted(ranked[:most])
    return [results.cells[k] for k in kept], len(results.cells) - len(kept)


def _grouped(cells: Iterable[Cell]) -> dict[tuple[str, str, str], list[Cell]]:
    made: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        made.setdefault((cell.scenario, cell.threat, cell.defense), []).append(cell)
    return made
