"""Takes finished runs over: their reports to reports/reference, and what the documents say of them.

python tools/reference.py runs/paper runs/tables runs/published runs/mergers runs/mergers-docstrings runs/seals
python tools/reference.py                           # draws what is kept anew

Of each run it keeps the results without single cells (`NAME.json.gz`: every figure seed by seed, every control, all
that a verdict rests on), under the name of its plan. The page, the picture, and for a gauntlet the leaderboard put the
runs that belong to one page side by side. What stands between the marks of that name in the README, or in the document
that the page belongs to, is written anew.
"""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from redteam_reports import bars, leaderboard, results_html, wording

from redteam import answer
from redteam.evaluation.joined import joined
from redteam.evaluation.results import ByMerger, Results, Verdict, WholeMerge
from redteam.evaluation.statistics import Interval

Row = TypeVar("Row", ByMerger, WholeMerge)

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "reports" / "reference"
TOLD = {"paper": "README.md", "tables": "README.md", "mergers": "docs/mergers.md", "seals": "docs/threat-models.md"}
"""What a page is called → the document that speaks of it."""
ENDING = ".json.gz"
PAGES = {
    "paper": ("paper",),
    "tables": ("tables", "published"),
    "mergers": ("mergers", "mergers-docstrings"),
    "seals": ("seals",),
}
"""What a page is called → the plans whose runs are side by side on it, that of the page's name first."""
NAMES = tuple(name for names in PAGES.values() for name in names)
HERO = "mergelock"  # the defense whose verdicts the README shows under every threat model


def main() -> None:
    """Writes everything that is drawn from the runs named on the command line, and says what."""
    written = [keep(Results.read(Path(folder))) for folder in sys.argv[1:]]
    kept = [file.name.removesuffix(ENDING) for file in written] or [name for name in NAMES if is_kept(name)]
    for page in (page for page, names in PAGES.items() if set(names) & set(kept)):
        if not is_kept(page):
            raise SystemExit(f"The page {page} begins with the run of that plan, which is not kept; name its folder.")
        written += draw(page)
    for path in written:
        sys.stdout.write(f"{path.stat().st_size / 1000:8.0f} kB  {path.relative_to(ROOT)}\n")


def keep(results: Results, home: Path = HOME) -> Path:
    """Writes what is kept of one run.

    Args:
        results: Of a plan with one of `NAMES`.
        home: Where the file goes.
    """
    name = str(results.plan["name"])
    if name not in NAMES:
        raise SystemExit(f"Reports are kept of the plans {' and '.join(NAMES)}; this is a run of {name}.")
    # Where somebody put the results is of no use to anybody else.
    command = re.sub(r" --out(?: |=)\S+", "", results.command)
    home.mkdir(parents=True, exist_ok=True)
    file = home / f"{name}{ENDING}"
    file.write_bytes(packed(results.model_copy(update={"cells": (), "command": command})))
    return file


def draw(page: str, home: Path = HOME, root: Path = ROOT) -> Iterable[Path]:
    """Writes a page with its picture, and its document's part on it; yields their paths.

    Args:
        page: One of `PAGES`.
        home: Where the results are kept, and the files go.
        root: Below which the documents are.
    """
    shown, document = page_of(page, home), root / TOLD[page]
    written = {f"{page}.html": results_html.render(shown).encode()}
    if page in ("paper", "tables"):
        written[f"{page}.svg"] = picture(shown).encode()
    if page in ("tables", "seals"):
        written[f"{page}.md"] = leaderboard.markdown(shown).encode()
    for file, content in written.items():
        (home / file).write_bytes(content)
        yield home / file
    before, rest = document.read_text(encoding="utf-8").split(begin(page))
    _, after = rest.split(END, 1)
    document.write_text(f"{before}{begin(page)}\n{drawn(page, home)}\n{END}{after}", encoding="utf-8")
    yield document


def is_kept(name: str, home: Path = HOME) -> bool:
    """Whether there is a run of that plan."""
    return (home / f"{name}{ENDING}").is_file()


def read(name: str, home: Path = HOME) -> Results:
    """The results of a run that is kept."""
    return Results.read(home / f"{name}{ENDING}")


def page_of(page: str, home: Path = HOME) -> Results:
    """The runs of a page, side by side."""
    return joined({name: read(name, home) for name in PAGES[page] if is_kept(name, home)}, name=page)


def packed(kept: Results) -> bytes:
    """The same results always give the same bytes."""
    return gzip.compress(kept.model_dump_json(by_alias=True).encode(), 9, mtime=0)


def begin(name: str) -> str:
    """The mark in front of what a document says of a run."""
    return f"<!-- {name}: tools/reference.py -->"


END = "<!-- end -->"


def picture(kept: Results) -> str:
    """The bars of the first scenario and threat model."""
    (place, rows), *_ = bars.bars(kept).items()
    title = f"Of what the victim adds, from a plain merge (ring) to the worst case (disc): {', '.join(place)}"
    return bars.figure(rows, float(kept.thresholds["stolen"]), title)


def drawn(page: str, home: Path = HOME) -> str:
    """What its document says of a page: of its first run (of mergers each), and where the others disagree with it."""
    whole = page_of(page, home)
    told = [name for name in PAGES[page] if is_kept(name, home)] if page == "mergers" else [page]
    tell = {"paper": _under_every_threat, "tables": _every_defense, "mergers": _every_merger, "seals": _every_scheme}[
        page
    ]
    lines = [line for name in told for line in tell(read(name, home))]
    if whole.runs:
        lines.append(leaderboard.differing(whole))
    return "\n\n".join(line for line in lines if line)


def _every_defense(kept: Results) -> Iterable[str]:
    """The picture, and which defenses got which word."""
    (place, rows), *_ = bars.bars(kept).items()
    name = kept.plan["name"]
    yield f"![{len(rows)} defenses, from a plain merge to the worst case](reports/reference/{name}.svg)"
    yield (
        f"*Of what the victim adds to a merge, how much an attacker gets: ○ by a plain merge, ● in the worst case. "
        f"{', '.join(place)}; {_run(kept)}.*"
    )
    by_word: dict[str, list[str]] = {}
    for bar in rows:
        if bar.verdict.gated:
            by_word.setdefault(bar.verdict.verdict, []).append(f"`{bar.verdict.defense}`")
    yield "\n".join(f"- **{word}** ({len(names)}): {', '.join(names)}." for word, names in by_word.items())


def _under_every_threat(kept: Results) -> Iterable[str]:
    """The verdicts on one defense, by what the attacker has."""
    verdicts = [v for v in kept.verdicts if v.defense == HERO and v.scenario == kept.plan["scenarios"][0]]
    named = answer.named(HERO, kept.about.get("defense", {}))
    yield f"{named} by what the attacker has ({_run(kept)}):"
    yield _judged("the attacker has", {v.threat: v for v in verdicts})


def _every_scheme(kept: Results) -> Iterable[str]:
    """The verdicts on what seals weights, and the line of whoever has the answers alone."""
    sealing = [verdict for verdict in kept.verdicts if verdict.gated]
    line = wording.interval(next((v.imitation for v in sealing if v.imitation is not None), None))
    scenario = kept.plan["scenarios"][0]
    yield f"`redteam run {kept.plan['name']}` ({scenario}; {_run(kept)}) ends in this; imitation takes {line}."
    yield _judged("scheme", {v.defense: v for v in sealing})


def _every_merger(kept: Results) -> Iterable[str]:
    """Mergers down, locks across: theft without an attack → after all that ran; then those that keep experts whole."""
    defenses = list(dict.fromkeys(row.defense for row in kept.by_merger))
    lines: list[tuple[str, ...]] = []
    for merger, rows in _by(kept.by_merger).items():
        reason = "".join({f" ({row.reason})" for row in rows.values() if row.reason})
        figures = [_change(rows[defense].naive, rows[defense].worst) for defense in defenses]
        lines.append((f"`{merger}`", f"{_gain(rows)}{reason}", *figures))
    for merger, whole in _by(kept.whole).items():
        figures = [_change(whole[defense].theft, whole[defense].attacked) for defense in defenses]
        lines.append((f"`{merger}` *", _gain(whole), *figures))
    first = kept.by_merger[0]
    yield f"Theft without an attack → after all attacks that ran ({first.scenario}, {first.threat}; {_run(kept)}):"
    yield _table(("merger", "gain", *(f"`{defense}`" for defense in defenses)), lines)
    yield r"\* keeps every expert whole, and counts for no verdict."


def _judged(what: str, verdicts: Mapping[str, Verdict]) -> str:
    """A verdict a line, under what they are told apart by."""
    heads = (what, "verdict", "plain merge", "worst case", "by")
    return _table(heads, (_line(verdict, name) for name, verdict in verdicts.items()))


def _table(heads: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, ("---",) * len(heads), *lines))


def _by(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Merger → defense → row."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.merger, {})[row.defense] = row
    return found


def _gain(rows: Mapping[str, ByMerger | WholeMerge]) -> str:
    return wording.interval(next((row.gain for row in rows.values() if row.gain is not None), None))


def _change(before: Interval | None, after: Interval | None) -> str:
    return " → ".join("–" if one is None else f"{one.mean:.2f}" for one in (before, after))


def _line(verdict: Verdict, first: str) -> tuple[str, ...]:
    naive = "–" if verdict.protection is None else f"{1 - verdict.protection.mean:.2f}"
    attack = f"`{verdict.attack}`" if verdict.attack else "–"
    return f"`{first}`", verdict.verdict, naive, wording.interval(answer.stolen(verdict)), attack


def _run(kept: Results) -> str:
    """How many seeds, when, on which version."""
    told = [answer.plural(len(kept.plan["seeds"]), "seed")]
    environment = kept.environment
    told += [str(environment["date"])[:10]] if environment.get("date") else []
    told += [f"commit {str(environment['commit'])[:12]}"] if environment.get("commit") else []
    told += [f"{answer.duration(float(environment['duration']))} of computing"] if environment.get("duration") else []
    return ", ".join(told)


if __name__ == "__main__":
    main()
