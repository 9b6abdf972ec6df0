"""What skeptics ask of such a report, answered from what this run did."""

from __future__ import annotations

from redteam.evaluation.results import Results


def answers(results: Results, *, swept: bool, drifted: bool) -> list[tuple[str, str]]:
    """Doubt and answer, only those that apply to the run.

    Args:
        results: The run.
        swept: Whether a setting of a defense was.
        drifted: Whether one of a scenario was.
    """
    seeds = len(dict.fromkeys(g.seed for g in results.grounds))
    several_keys = max((v.keys for v in results.verdicts), default=1) > 1
    with_data = any(f.advantage is not None for f in results.figures) or any(v.advantage for v in results.verdicts)
    made = [
        (
            "A merge recovers as soon as the victim is thrown away.",
            "So verdicts use theft, what came over of the victim's own skill. The base in the victim's place is among "
            "the trivial attackers, which must steal nothing.",
        ),
        (
            "The merging coefficient was chosen to help one side.",
            "There is one per scenario, seed and merger. It is chosen on the merge of the companions alone, without "
            "the victim, and used unchanged in every merge. The grounds list it.",
        ),
        (
            "The worst case was picked on the data that it is scored on.",
            "Where a seed falls, it is the attack whose break is surest, and the bound by which it falls is corrected "
            "for a hundred attacks. Elsewhere it is picked on one half of the victim's test items and scored on the "
            "other, both ways. What an attacker would choose by what they see stands beside it.",
        ),
        (
            "The attacks may just not work.",
            "A break stands by itself. An attack's failure counts only where it undoes planted locks of the judged "
            "lock's whole extent, in this run; the panel of controls names those that do not.",
        ),
    ]
    if drifted:
        made.append(
            (
                "The fit works only near the base.",
                "Task vectors of different lengths were tried; the curves show where each fit gives way.",
            )
        )
    if with_data:
        made.append(
            (
                "Fine-tuning with labels is no theft.",
                "For attacks with data only their advantage counts: what the same attack with the same budget gets "
                "when it starts from the base, without the victim, is taken off.",
            )
        )
    made.append(
        (
            "The lock was set weak, or the attack strong.",
            (
                "Settings of the defense were swept; the curves show each. "
                if swept
                else "Settings are listed with every cell. "
            )
            + "Thresholds are no settings and were hashed before any attack ran.",
        )
    )
    made.append(
        (
            "Keys are no replicates.",
            f"The seed is: base and experts are retrained for each ({seeds} here). "
            + ("Over keys the worst counts." if several_keys else "One key was used for each."),
        )
    )
    return made
