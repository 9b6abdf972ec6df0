"""Takes finished runs over: their reports to reports/reference, and what the README says of them.

python tools/reference.py runs/paper runs/tables
python tools/reference.py                           # draws what is kept anew

Of each run it keeps the results without single cells (`NAME.json.gz`: every figure seed by seed, every control, all
that a verdict rests on), the page, the picture, and for a gauntlet the leaderboard. What stands in the README between
the marks of that name is written anew.
"""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from redteam_reports import bars, leaderboard, results_html, wording

from redteam import answer
from redteam.evaluation.results import Results, Verdict

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "reports" / "reference"
README = ROOT / "README.md"
NAMES = ("paper", "tables")
KEPT = tuple(name for name in NAMES if (HOME / f"{name}.json.gz").is_file())
HERO = "mergelock"  # the defense whose verdicts the README shows under every threat model


def main() -> None:
    """Writes everything that is drawn from the runs named on the command line, and says what."""
    runs = map(Results.read, map(Path, sys.argv[1:])) if sys.argv[1:] else map(read, KEPT)
    for results in runs:
        for path in keep(results):
            sys.stdout.write(f"{path.stat().st_size / 1000:8.0f} kB  {path.relative_to(ROOT)}\n")


def keep(results: Results, home: Path = HOME, readme: Path = README) -> Iterable[Path]:
    """Writes the files of one run, and the README's part on it; yields their paths.

    Args:
        results: Of a plan with one of `NAMES`.
        home: Where the files go.
        readme: What has the marks.
    """
    name = str(results.plan["name"])
    if name not in NAMES:
        raise SystemExit(f"Reports are kept of the plans {' and '.join(NAMES)}; this is a run of {name}.")
    # Where somebody put the results is of no use to anybody else.
    command = re.sub(r" --out(?: |=)\S+", "", results.command)
    kept = results.model_copy(update={"cells": (), "command": command})
    home.mkdir(parents=True, exist_ok=True)
    written = {
        f"{name}.json.gz": packed(kept),
        f"{name}.html": results_html.render(kept).encode(),
        f"{name}.svg": picture(kept).encode(),
    }
    if kept.gauntlets:
        written[f"{name}.md"] = leaderboard.markdown(kept).encode()
    for file, content in written.items():
        (home / file).write_bytes(content)
        yield home / file
    before, rest = readme.read_text(encoding="utf-8").split(begin(name))
    _, after = rest.split(END, 1)
    readme.write_text(f"{before}{begin(name)}\n{drawn(kept)}\n{END}{after}", encoding="utf-8")
    yield readme


def read(name: str) -> Results:
    """The results of a run that is kept."""
    return Results.model_validate_json(gzip.decompress((HOME / f"{name}.json.gz").read_bytes()))


def packed(kept: Results) -> bytes:
    """The same results always give the same bytes."""
    return gzip.compress(kept.model_dump_json(by_alias=True).encode(), 9, mtime=0)


def begin(name: str) -> str:
    """The mark in front of what the README says of a run."""
    return f"<!-- {name}: tools/reference.py -->"


END = "<!-- end -->"


def picture(kept: Results) -> str:
    """The bars of the first scenario and threat model."""
    (place, rows), *_ = bars.bars(kept).items()
    title = f"Of what the victim adds, from a plain merge (ring) to the worst case (disc): {', '.join(place)}"
    return bars.figure(rows, float(kept.thresholds["stolen"]), title)


def drawn(kept: Results) -> str:
    """What the README says of a run."""
    return "\n\n".join(_under_every_threat(kept) if kept.plan["name"] == "paper" else _every_defense(kept))


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
    heads = ("the attacker has", "verdict", "plain merge", "worst case", "by")
    lines: list[tuple[str, ...]] = [heads, ("---",) * len(heads), *map(_line, verdicts)]
    yield "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(verdict: Verdict) -> tuple[str, ...]:
    naive = "–" if verdict.protection is None else f"{1 - verdict.protection.mean:.2f}"
    attack = f"`{verdict.attack}`" if verdict.attack else "–"
    return f"`{verdict.threat}`", verdict.verdict, naive, wording.interval(answer.stolen(verdict)), attack


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
