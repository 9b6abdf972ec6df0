"""The picture that a report begins with: per defense a bar from a plain merge to the worst case, and a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from redteam import answer
from redteam.evaluation.results import Results, Verdict
from redteam.evaluation.statistics import Interval
from redteam_reports import leaderboard

_WIDTH, _ROW, _HEAD = 760, 26, 30
_LEFT, _RIGHT = 290, 170


@dataclass(frozen=True)
class Bar:
    """One defense.

    Attributes:
        number: Its place in `Results.verdicts`, from 1.
        naive: What a plain merge gets, without any attack.
        worst: What the worst case gets, with its interval; `None` where nothing can be said.
        seeds: The worst case seed by seed.
        sentence: The verdict in a sentence.
    """

    number: int
    verdict: Verdict
    naive: float | None
    worst: Interval | None
    seeds: tuple[float, ...]
    sentence: str

    @property
    def amount(self) -> str:
        """The figure beside the word: the worst seed where an owner may be lucky or not."""
        if self.worst is None:
            return ""
        if "SOMETIMES" in self.verdict.flags and self.seeds:
            return f"up to {max(self.seeds):.2f}"
        return f"{self.worst.mean:.2f}"

    @property
    def summary(self) -> str:
        """The alternative text."""
        if self.worst is None:
            return f"{self.verdict.defense}: no figure"
        plain = "" if self.naive is None else f"{self.naive:.2f} from a plain merge, "
        return f"{self.verdict.defense}: {plain}{self.worst} in the worst case"


def bars(results: Results) -> dict[tuple[str, str], list[Bar]]:
    """(scenario, threat model) → its bars: the defense that gives away least first, the baseline last."""
    numbers = {id(verdict): number for number, verdict in enumerate(results.verdicts, 1)}
    figures = {(f.place, f.choice): f for f in results.figures if f.choice in ("naive", "worst")}
    made: dict[tuple[str, str], list[Bar]] = {}
    for place, ranked in leaderboard.ranked(results).items():
        for _, verdict in ranked:
            naive, worst = (figures.get((verdict.place, choice)) for choice in ("naive", "worst"))
            taken = None if naive is None else naive.counted or naive.theft
            if taken is None and verdict.protection is not None:
                plain: float | None = 1.0 - verdict.protection.mean
            else:
                plain = None if taken is None else taken.mean
            seeds = tuple(one.counted for one in worst.per_seed) if worst else ()
            bar = Bar(
                numbers[id(verdict)],
                verdict,
                plain,
                answer.stolen(verdict),
                seeds,
                answer.sentence(verdict, results.about.get("defense")),
            )
            made.setdefault(place, []).append(bar)
    return made


def svg(bar: Bar, limit: float) -> str:
    """A bar as wide as its column.

    Args:
        bar: What to draw.
        limit: Theft from which a defense counts as broken.
    """
    return (
        f'<svg class="bars" role="img" aria-label="{escape(bar.summary)}" width="100%" height="28">'
        f"{_drawn(bar, limit, _percent, 14.0)}</svg>"
    )


def axis_svg() -> str:
    """The scale above such bars."""
    texts = "".join(
        f'<text class="{anchor}" x="{_percent(value)}" y="12">{text}</text>'
        for value, anchor, text in ((0.0, "start", "0 nothing"), (0.5, "middle", "0.5"), (1.0, "end", "1 everything"))
    )
    return f'<svg class="bars" aria-hidden="true" width="100%" height="16">{texts}</svg>'


def figure(rows: Sequence[Bar], limit: float, title: str) -> str:
    """The picture as a file of its own, for a README: names, bars and verdicts, in light and in dark.

    Args:
        rows: From top to bottom.
        limit: Theft from which a defense counts as broken.
        title: The alternative text.
    """
    height = _HEAD + _ROW * len(rows) + 8

    def place(value: float) -> str:
        return f"{_LEFT + value * (_WIDTH - _LEFT - _RIGHT):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="t">',
        f'<title id="t">{escape(title)}</title><style>{_STYLE}</style>',
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
    ]
    for value, text in ((0.0, "0 nothing"), (0.5, "0.5"), (1.0, "1 everything")):
        parts.append(f'<text class="soft middle" x="{place(value)}" y="20">{text}</text>')
    for turn, bar in enumerate(rows):
        y, word = _HEAD + _ROW * (turn + 0.5), bar.verdict.verdict
        parts += [
            f"<g><title>{escape(bar.summary)}</title>",
            f'<text class="end" x="{_LEFT - 18}" y="{y + 5:.1f}">{escape(bar.verdict.defense)}</text>',
            _drawn(bar, limit, place, y),
            f'<text class="word {word.lower()}" x="{_WIDTH - _RIGHT + 18}" y="{y + 5:.1f}">{bar.amount} {word}</text>',
            "</g>",
        ]
    return "".join([*parts, "</svg>\n"])


def _drawn(bar: Bar, limit: float, place: Callable[[float], str], y: float) -> str:
    """Track, limit, the bar from the plain merge to the worst case, its interval, and a dot for each seed."""

    def line(style: str, start: float, end: float, above: float = 0.0, below: float = 0.0) -> str:
        return (
            f'<line class="{style}" x1="{place(start)}" x2="{place(end)}" y1="{y - above:.1f}" y2="{y + below:.1f}"/>'
        )

    parts = [line("track", 0.0, 1.0), line("limit", limit, limit, 13, 13)]
    if bar.worst is not None:
        mean, style = bar.worst.mean, bar.verdict.verdict.lower()
        if bar.naive is not None:
            parts.append(line(f"stolen {style}", min(bar.naive, mean), mean))
        parts.append(line("interval", bar.worst.low, bar.worst.high))
        parts += [line("interval", end, end, 5, 5) for end in (bar.worst.low, bar.worst.high)]
        if len(bar.seeds) > 1:
            parts += [f'<circle class="seed" cx="{place(seed)}" cy="{y - 9:.1f}" r="1.8"/>' for seed in bar.seeds]
        parts.append(f'<circle class="worst {style}" cx="{place(mean)}" cy="{y:.1f}" r="6"/>')
    if bar.verdict.imitation is not None:
        parts.append(line("answers", bar.verdict.imitation.mean, bar.verdict.imitation.mean, 9, 9))
    if bar.naive is not None:
        parts.append(f'<circle class="naive" cx="{place(bar.naive)}" cy="{y:.1f}" r="4"/>')
    return "".join(parts)


def _percent(value: float) -> str:
    return f"{2 + 96 * min(max(value, 0.0), 1.0):.2f}%"


_STYLE = """
text{font:13px system-ui,"Segoe UI",Roboto,Arial,sans-serif;fill:#16191d}
.page{fill:#fff}.soft{fill:#4d5660}.end{text-anchor:end}.middle{text-anchor:middle}.word{font-weight:700}
.track{stroke:#c9d1d9;stroke-width:8;stroke-linecap:round}.limit{stroke:#6b7681;stroke-dasharray:4 3}
.answers{stroke:#1f5fbf;stroke-width:2.5}.stolen{stroke:#6b7681;stroke-width:8;opacity:.55}.interval{stroke:#16191d;stroke-width:1.5}.seed{fill:#4d5660}
.worst{fill:#4d5660;stroke:#fff;stroke-width:1.5}.naive{fill:#fff;stroke:#16191d;stroke-width:1.5}
.stolen.broken,.stolen.ineffective{stroke:#a81c1c}.worst.broken,.worst.ineffective,.word.broken,.word.ineffective{fill:#a81c1c}
.stolen.holds-so-far{stroke:#0b6b3a}.worst.holds-so-far,.word.holds-so-far{fill:#0b6b3a}
@media(prefers-color-scheme:dark){text{fill:#e9edf1}.page{fill:#101418}.soft{fill:#b3bdc7}.track{stroke:#35404a}
.limit,.stolen{stroke:#8793a0}.answers{stroke:#7fb2ff}.interval{stroke:#e9edf1}.seed{fill:#b3bdc7}.worst{fill:#b3bdc7;stroke:#101418}
.naive{fill:#101418;stroke:#e9edf1}.stolen.broken,.stolen.ineffective{stroke:#ff9d94}
.worst.broken,.worst.ineffective,.word.broken,.word.ineffective{fill:#ff9d94}
.stolen.holds-so-far{stroke:#6fd39b}.worst.holds-so-far,.word.holds-so-far{fill:#6fd39b}}
""".replace("\n", "")
