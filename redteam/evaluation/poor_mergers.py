"""Mergers whose unlocked merge is a poor measure of theft: a sentence for each scenario and each reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from redteam.evaluation.results import Subject
from redteam.evaluation.statistics import Interval
from redteam.evaluation.thresholds import THRESHOLDS

Named = Iterator[tuple[str, Interval]]


def sentences(subjects: Iterable[Subject]) -> Iterator[str]:
    """One sentence for each scenario and reason, with the mergers and their figures.

    Places of a scenario (defenses, threat models) may give a merger different figures; the worst is told.

    Args:
        subjects: All places of a run.
    """
    held = tuple(subjects)
    for scenario in sorted({subject.scenario for subject in held}):
        here = [subject for subject in held if subject.scenario == scenario]
        if told := _listed(here, _useless, lambda gain: (gain.low, gain.mean), str):
            yield f"Mergers left out on {scenario}, to which the unlocked victim adds too little to be stolen: {told}."
        if told := _listed(here, _copying, lambda copied: -copied.mean, _mean):
            yield (
                f"Mergers left out on {scenario}, whose unlocked merge keeps so little of the companions that the "
                f"victim's own model, with nothing merged, would count as theft (of so much): {told}."
            )
        if told := _listed(here, _counted, lambda copied: -copied.mean, _mean):
            yield (
                f"Whether merging on {scenario} beats using the victim's model as it is, with mergers that count and "
                f"whose unlocked merge keeps so little of the companions that this, too, would count as theft (of so "
                f"much): {told}."
            )


def _useless(subject: Subject) -> Named:
    return ((m, subject.gains[m]) for m in subject.left_out if subject.gains[m].low < THRESHOLDS.gain)


def _copying(subject: Subject) -> Named:
    return ((m, subject.copied[m]) for m in subject.left_out if subject.gains[m].low >= THRESHOLDS.gain)


def _counted(subject: Subject) -> Named:
    found = subject.copied.items()
    return ((m, c) for m, c in found if m not in subject.left_out and c.mean >= THRESHOLDS.stolen)


def _listed(
    subjects: Iterable[Subject],
    found: Callable[[Subject], Named],
    order: Callable[[Interval], float | tuple[float, float]],
    shown: Callable[[Interval], str],
) -> str:
    """`"ties (0.91), linear (0.62)"`, the worst first; empty where there is none."""
    worst: dict[str, Interval] = {}
    for subject in subjects:
        for merger, figure in found(subject):
            worst[merger] = min(figure, worst.get(merger, figure), key=order)
    ordered = sorted(worst.items(), key=lambda item: (order(item[1]), item[0]))
    return ", ".join(f"{merger} ({shown(figure)})" for merger, figure in ordered)


def _mean(figure: Interval) -> str:
    return f"{figure.mean:.2f}"
