"""The leaderboard: one row for each verdict, what the source claims beside what was found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redteam.evaluation.results import Results, Verdict
from redteam_reports import wording

ORDER = ("HOLDS-SO-FAR", "INCONCLUSIVE", "BROKEN", "INEFFECTIVE", "INVALID", "UNSCORABLE")
"""How well a defense stands; within one, the less was stolen the higher."""


@dataclass(frozen=True)
class Row:
    """One defense under one threat model, in words.

    Attributes:
        verdict: What all of it is drawn from.
        fidelity: Accuracy alone ÷ the victim's, in the dtype where it is lowest.
        protection: 1 − theft without any attack.
        theft: Of the attack that the verdict speaks of, and through which.
        price: What nine tenths of the skill cost.
        evidence: How many seeds, and which attacks have shown that they work.
        claim: What the source reports.
    """

    verdict: Verdict
    fidelity: str
    protection: str
    theft: str
    price: str
    evidence: str
    claim: str


def rows(results: Results) -> dict[tuple[str, str], list[Row]]:
    """(scenario, threat model) → its rows, who stands best first."""
    made: dict[tuple[str, str], list[Row]] = {}
    for verdict in sorted(results.verdicts, key=_standing):
        made.setdefault((verdict.scenario, verdict.threat), []).append(_row(results, verdict))
    return {place: made[place] for place in dict.fromkeys((v.scenario, v.threat) for v in results.verdicts)}


def _standing(verdict: Verdict) -> tuple[int, float, str]:
    stolen = verdict.counted or verdict.theft
    return (ORDER.index(verdict.verdict), 1.0 if stolen is None else stolen.mean, verdict.defense)


def _row(results: Results, verdict: Verdict) -> Row:
    lowest = min(verdict.fidelity.items(), key=lambda item: item[1].mean, default=None)
    return Row(
        verdict,
        "–" if lowest is None else f"{wording.interval(lowest[1], 3)} in {lowest[0]}",
        wording.interval(verdict.protection),
        f"{wording.interval(verdict.theft)}{wording.through(verdict)}",
        _price(verdict),
        "; ".join(_evidence(results, verdict)),
        results.claims.get(verdict.defense, ""),
    )


def _price(verdict: Verdict) -> str:
    if verdict.price is None:
        return "–"
    if verdict.price.censored:
        return "censored"
    told = [f"{ratio:.2g} of the {unit}" for unit, ratio in verdict.price.ratio.items() if ratio is not None]
    return ", ".join(told[:3]) or "–"


def _evidence(results: Results, verdict: Verdict) -> Iterable[str]:
    if verdict.theft is not None:
        yield f"{verdict.theft.seeds} seed{'s' if verdict.theft.seeds > 1 else ''}"
    here = [c for c in results.controls if (c.scenario, c.threat) == (verdict.scenario, verdict.threat)]
    weakened = [c.attack for c in here if c.control == "weakened" and c.defense == verdict.defense and c.passed]
    tried = {
        f.attack
        for f in results.figures
        if (f.scenario, f.defense, f.threat) == (verdict.scenario, verdict.defense, verdict.threat)
        and (f.role, f.status) == ("recovery", "ok")
        and f.attack not in results.gauntlets
    }
    plants = {attack: [c.passed for c in here if c.control == "planted" and c.attack == attack] for attack in tried}
    proven = [attack for attack, passed in plants.items() if passed and all(passed)]
    ran = "1 attack ran" if len(tried) == 1 else f"{len(tried)} attacks ran"
    yield f"{ran}, {len(proven)} with all plants undone"
    more = f" and {len(weakened) - 2} more" if len(weakened) > 2 else ""
    yield f"weakened variant broken by {', '.join(weakened[:2])}{more}" if weakened else "no weakened variant broken"


def markdown(results: Results) -> str:
    """The tables as text, with what the columns mean."""
    parts = [
        f"**{wording.BOUND}**",
        f"# Leaderboard: plan `{results.plan['name']}`",
        wording.THEFT,
        "*Fidelity*: accuracy alone ÷ the unprotected victim's, in the dtype where it is lowest. *Protection*: 1 − "
        "theft without any attack. *Theft*: of the attack chosen by what the attacker sees. *Price*: what the cheapest "
        "attack that takes nine tenths costs, over training such an expert anew. *Its source reports*: on other models "
        "and data, in other words than ours; what was found here speaks of this scenario alone.",
    ]
    for name, members in results.gauntlets.items():
        parts.append(f"`{name}`: {', '.join(f'`{member}`' for member in members)}; later ones on what is still locked.")
    heads = ("defense", "verdict", "fidelity", "protection", "theft", "price", "evidence", "its source reports")
    for (scenario, threat), here in rows(results).items():
        parts.append(f"## {scenario}, {threat}")
        parts.append(results.threats.get(threat, ""))
        lines = [heads, ("---",) * len(heads)]
        lines += [
            (
                f"`{row.verdict.defense}`",
                " ".join((f"**{row.verdict.verdict}**", *row.verdict.flags)),
                row.fidelity,
                row.protection,
                row.theft,
                row.price,
                row.evidence,
                row.claim or "–",
            )
            for row in here
        ]
        parts.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))
    return "\n\n".join(part for part in parts if part) + "\n"
