"""The leaderboard: defenses by what the worst case steals, among those that keep the model's accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from redteam import answer
from redteam.disagreement import disagreements
from redteam.evaluation.results import WITHOUT_FIGURE, OverVictims, Results, Subject, Verdict
from redteam.files import write_atomically
from redteam_reports import wording
from redteam_reports.tables import markdown_table
from redteam_reports.templating import without_tags

Ranked = list[tuple[int | None, Verdict]]


def write(results: Results, path: Path) -> None:
    """Writes the leaderboard as Markdown.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, without_tags(markdown(results)))


@dataclass(frozen=True)
class Row:
    """One defense under one threat model, in words.

    Attributes:
        rank: Its rank; `None` for the baseline, and where nothing can be said or the owner pays with accuracy.
        theft: In the worst case.
        fidelity: Accuracy alone ÷ the victim's, in the dtype that the model is released in.
        price: What nine tenths of the skill cost.
        evidence: How many seeds, and which attacks ran that were made for it.
        claim: What the source reports.
    """

    rank: int | None
    verdict: Verdict
    theft: str
    fidelity: str
    price: str
    evidence: str
    claim: str


def rows(results: Results) -> dict[tuple[str, str], list[Row]]:
    """(scenario, threat model) → its rows, in the order of `ranked`."""
    return {place: [_row(results, rank, verdict) for rank, verdict in here] for place, here in ranked(results).items()}


def ranked(results: Results) -> dict[tuple[str, str], Ranked]:
    """(scenario, threat model) → rank and verdict.

    Ranks go by theft in the worst case, among the defenses that keep their fidelity. Below them, without a rank, stand
    those that do not keep it, those of which nothing can be said, and last the baseline.
    """
    made: dict[tuple[str, str], Ranked] = {}
    for place in dict.fromkeys((v.scenario, v.threat) for v in results.verdicts):
        here = sorted(
            (v for v in results.verdicts if (v.scenario, v.threat) == place),
            key=lambda v: (_tier(results, v), _stolen(results, v), v.defense),
        )
        made[place] = [(k if _tier(results, v) == 0 else None, v) for k, v in enumerate(here, 1)]
    return made


def _tier(results: Results, verdict: Verdict) -> int:
    if not verdict.gated:
        return 3
    if verdict.verdict in WITHOUT_FIGURE or answer.stolen(verdict) is None:
        return 2
    kept = _fidelity(results, verdict)
    return int(kept is not None and kept[1] < float(results.thresholds.get("costly", 0.985)))


def _stolen(results: Results, verdict: Verdict) -> float:
    """In the worst case; on the worst seed where some hold, since an owner publishes one model."""
    theft = answer.stolen(verdict)
    worst = next((f for f in results.figures if f.place == verdict.place and f.choice == "worst"), None)
    if "SOMETIMES" in verdict.flags and worst is not None:
        return max((one.counted for one in worst.per_seed), default=1.0)
    return 1.0 if theft is None else theft.mean


def _fidelity(results: Results, verdict: Verdict) -> tuple[str, float] | None:
    """Dtype and fidelity, of the released dtype or else of the one where it is lowest."""
    subject = _subject(results, verdict)
    if subject is not None and subject.released in verdict.fidelity:
        return subject.released, verdict.fidelity[subject.released].mean
    return min(((d, f.mean) for d, f in verdict.fidelity.items()), key=lambda item: item[1], default=None)


def _subject(results: Results, verdict: Verdict) -> Subject | None:
    return next((s for s in results.subjects if s.place == verdict.place), None)


def _row(results: Results, rank: int | None, verdict: Verdict) -> Row:
    kept = _fidelity(results, verdict)
    return Row(
        rank,
        verdict,
        wording.interval(answer.stolen(verdict)),
        "–" if kept is None else f"{kept[1]:.3f}",
        wording.ratios(verdict.price),
        "; ".join(_evidence(results, verdict)),
        results.claims.get(verdict.defense, ""),
    )


def _evidence(results: Results, verdict: Verdict) -> Iterable[str]:
    if verdict.theft is not None:
        yield answer.plural(verdict.theft.seeds, "seed")
    if verdict.attack:
        yield f"worst case{wording.through(verdict)}"
    subject = _subject(results, verdict)
    if subject is None or not subject.protects:
        return
    ran = [f"`{one.attack}` by {one.author}" for one in subject.adversaries if one.ran]
    yield f"made for it and run: {', '.join(ran)}" if ran else "no attack that was made for it ran"


def markdown(results: Results) -> str:
    """The leaderboard as text: one line a defense, evidence and sources folded away."""
    parts = [
        f"**{answer.BOUND}**",
        f"# Leaderboard: plan `{results.plan['name']}`",
        f"{wording.THEFT} *Fidelity*: the protected model's accuracy alone ÷ the victim's."
        f"{wording.fidelity(results)} *Price*: what the cheapest attack that takes nine tenths costs, over training "
        "such an expert anew. Ranked by theft in the worst case; "
        f"without a rank stand defenses that keep less than {results.thresholds.get('costly', 0.985)} of the accuracy, "
        "those of which nothing can be said, and the baseline.",
        "\n".join(f"- {line}." for line in wording.together(results)),
        differing(results),
    ]
    for name, members in results.gauntlets.items():
        parts.append(f"`{name}`: {', '.join(f'`{member}`' for member in members)}; later ones on what is still locked.")
    for name, members in results.merger_gauntlets.items():
        told = ", ".join(f"`{member}`" for member in members)
        parts.append(f"`{name}`: merged with {told}; with the second and later ones what is still locked.")
    for (family, threat), over in over_victims(results).items():
        parts.append(f"## {family}, {threat}: the worst of all victims")
        parts.append(victims_table(over))
    for (scenario, threat), here in rows(results).items():
        parts.append(f"## {scenario}, {threat}")
        parts.append(results.threats.get(threat, ""))
        parts.append(table(here))
        details = [
            f"- `{r.verdict.defense}`: {r.evidence}." + (f" Reported: {r.claim}" if r.claim else "") for r in here
        ]
        summary = "<summary>Evidence, and what the sources report (of other models and data)</summary>"
        parts.append("\n\n".join(("<details>" + summary, "\n".join(details), "</details>")))
    return "\n\n".join(part for part in parts if part) + "\n"


def differing(results: Results) -> str:
    """Where scenarios, or victims, disagree, as a Markdown list under a line that says what it is; else nothing."""
    found = disagreements(results)
    if not found:
        return ""
    head = "**Not alike everywhere.** On these defenses the verdicts differ, and none of them speaks for the others:"
    return "\n".join([head, "", *(f"- {one.told(lambda name: f'`{name}`')}." for one in found)])


def over_victims(results: Results) -> dict[tuple[str, str], list[OverVictims]]:
    """(scenario as it was asked for, threat model) → its rows over all victims, the baseline last."""
    made: dict[tuple[str, str], list[OverVictims]] = {}
    ranked = sorted(results.over_victims, key=lambda row: (not row.gated, _worst(row), row.defense))
    for place in dict.fromkeys((row.scenario, row.threat) for row in results.over_victims):
        made[place] = [row for row in ranked if (row.scenario, row.threat) == place]
    return made


def _worst(row: OverVictims) -> float:
    theft = answer.stolen(row)
    return 1.0 if theft is None else theft.mean


def victims_table(here: Iterable[OverVictims]) -> str:
    """Rows over all victims as a Markdown table."""
    heads = ("defense", "verdict", "theft", "worst victim", "all victims")
    return markdown_table(
        heads,
        (
            (
                f"`{row.defense}`",
                f"**{row.standing}**",
                wording.interval(answer.stolen(row)),
                worst_victim(row),
                row.reason,
            )
            for row in here
        ),
    )


def worst_victim(row: OverVictims) -> str:
    """The victim behind the worst case, with how many seeds it is that of where others are on some."""
    several = len(row.by) > 1
    return ", ".join(f"{name} ({answer.plural(n, 'seed')})" if several else name for name, n in row.by.items()) or "–"


def table(here: Iterable[Row]) -> str:
    """Its rows as a Markdown table."""
    heads = ("#", "defense", "verdict", "theft", "fidelity", "price")
    cells = (
        (
            "" if row.rank is None else str(row.rank),
            f"`{row.verdict.defense}`",
            " ".join((f"**{row.verdict.verdict}**", *row.verdict.flags)),
            row.theft,
            row.fidelity,
            row.price,
        )
        for row in here
    )
    return markdown_table(heads, cells)
