"""Takes a finished run over: its report to reports/reference, and the figures of the plan `paper` into the README.

python tools/reference.py runs/paper
python tools/reference.py runs/tables
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from redteam_reports import leaderboard

from redteam.evaluation.results import Figure, Results
from redteam.evaluation.statistics import Interval

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "reports" / "reference"
BEGIN, END = "<!-- figures: tools/reference.py -->", "<!-- end -->"
MERGER = "task-arithmetic"
SWEPT = "mergelock:scale="


def main() -> None:
    """Copies, and rewrites what is drawn from it: the leaderboard, or what stands between the README's marks."""
    folder = Path(sys.argv[1])
    results = Results.read(folder)
    name = results.plan["name"]
    HOME.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "report.html", HOME / f"{name}.html")
    kept = results.model_copy(update={"cells": ()})
    (HOME / f"{name}.json").write_text(kept.model_dump_json(by_alias=True) + "\n", encoding="utf-8")
    if results.gauntlets:
        (HOME / f"{name}.md").write_text(leaderboard.markdown(kept), encoding="utf-8")
    if name != "paper":
        return
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END, 1)[1]
    readme.write_text(f"{before}{BEGIN}\n{drawn(results)}\n{END}{after}", encoding="utf-8")


def drawn(results: Results) -> str:
    """The README's tables."""
    figures = [f for f in results.figures if f.merger == MERGER]
    return "\n\n".join(
        [
            _baselines(results, [f for f in figures if (f.scenario, f.threat) == ("digits", "weights-only")]),
            "Theft from `mergelock` by the range of its diagonal, which the paper leaves open:",
            _swept(figures),
            "Theft from `mergelock` once the victim was trained on until its task vector had grown so much (one seed):",
            _grown(results, figures),
        ]
    )


def _baselines(results: Results, figures: Sequence[Figure]) -> str:
    verdicts = [v for v in results.verdicts if (v.scenario, v.threat) == ("digits", "weights-only")]
    verdicts = [v for v in verdicts if not v.defense.startswith(SWEPT)]
    attacks = [a for a in dict.fromkeys(f.attack for f in figures if f.role == "recovery") if "+" not in a]
    rows = []
    for verdict in verdicts:
        mine = {f.attack: f for f in figures if f.defense == verdict.defense}
        fidelity = verdict.fidelity["float32"].mean
        cells = [_cell(mine.get(attack)) for attack in ("none", *attacks)]
        rows.append([f"`{verdict.defense}`", f"{fidelity:.3f}", *cells, verdict.verdict])
    return _table(["defense", "fidelity", "no attack", *(f"`{a}`" for a in attacks), "verdict"], rows)


def _swept(figures: Sequence[Figure]) -> str:
    swept = [f for f in figures if f.defense.startswith(SWEPT) and f.scenario == "digits"]
    swept += [f for f in figures if (f.scenario, f.defense, f.threat) == ("digits", "mergelock", "weights-only")]
    attacks = [a for a in dict.fromkeys(f.attack for f in swept if f.defense != "mergelock") if _shown(swept, a)]
    names = sorted({f.defense for f in swept}, key=_upper)
    rows = [
        [f"`{name.removeprefix(SWEPT)}`" if "=" in name else "`[0.01,100]`, the default"]
        + [_cell(next((f for f in swept if (f.defense, f.attack) == (name, a)), None)) for a in attacks]
        for name in names
    ]
    return _table(["range", *(f"`{a}`" if a != "none" else "no attack" for a in attacks)], rows)


def _grown(results: Results, figures: Sequence[Figure]) -> str:
    mine = [f for f in figures if f.defense == "mergelock" and f.threat == "weights-only"]
    grown = list(dict.fromkeys(f.scenario for f in mine if f.scenario != "digits"))
    attacks = [a for a in dict.fromkeys(f.attack for f in mine if f.scenario in grown) if _shown(mine, a)]
    rows = [
        [scenario.rpartition("=")[2], _gain(results, scenario)]
        + [_cell(next((f for f in mine if (f.scenario, f.attack) == (scenario, a)), None)) for a in attacks]
        for scenario in grown
    ]
    return _table(["growth", "gain", *(f"`{a}`" if a != "none" else "no attack" for a in attacks)], rows)


def _shown(figures: Iterable[Figure], attack: str) -> bool:
    return next(f.role for f in figures if f.attack == attack) in ("naive", "recovery")


def _gain(results: Results, scenario: str) -> str:
    return f"{next(g.gain for g in results.grounds if (g.scenario, g.merger) == (scenario, MERGER)):.2f}"


def _upper(name: str) -> float:
    return float(name.rstrip("]").rpartition(",")[2]) if "=" in name else 100.0


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    return _interval(figure.theft) if figure.theft is not None else figure.status


def _interval(theft: Interval) -> str:
    """The mean alone where both bounds read the same."""
    mean, low, high = (f"{value:.2f}" for value in (theft.mean, theft.low, theft.high))
    return mean if low == high else f"{mean} [{low}, {high}]"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


if __name__ == "__main__":
    main()
