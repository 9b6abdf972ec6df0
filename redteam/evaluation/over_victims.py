"""A defense over several victims in turn: a word for all of them, from the verdict on each, and the worst case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redteam.evaluation.aggregate import chosen, of_seeds
from redteam.evaluation.results import FALLEN, WITHOUT_FIGURE, OverVictims, Verdict
from redteam.evaluation.rows import Place, Subject
from redteam.evaluation.statistics import Interval
from redteam.evaluation.verdict import Word

if TYPE_CHECKING:
    from redteam.evaluation.pairings import Pairing
    from redteam.evaluation.scoring import Table


def over_victims(
    table: Table,
    place: Place,
    verdicts: Mapping[str, Verdict],
    subjects: Mapping[str, Subject],
    counting: Mapping[str, Sequence[Pairing]],
) -> OverVictims:
    """The row of one defense under one threat model.

    The worst case is chosen among the pairings of all victims as it is among those of one, so that choosing the victim
    adds no more bias than choosing the attack.

    Args:
        table: All scores.
        place: Its scenario is what was asked for.
        verdicts: Victim → the verdict on it.
        subjects: Victim → what the verdict rests on.
        counting: Victim → the pairings that count there.
    """
    fields = follows(verdicts, subjects)
    judged = [victim for victim in verdicts if victim not in fields["left_out"]]
    measured = [victim for victim in judged if verdicts[victim].verdict not in WITHOUT_FIGURE]
    pairings = [pairing for victim in measured for pairing in counting[victim]]
    picked = of_seeds(pairings, table.worst)
    worst = chosen(table, place, "worst", picked)
    naive = chosen(table, place, "naive", of_seeds((p for p in pairings if p.role == "naive"), table.worst))
    by_scenario = {verdict.scenario: victim for victim, verdict in verdicts.items()}
    by = Counter(by_scenario[pairing.place.scenario] for pairing, _ in picked)
    return OverVictims(
        **vars(place),
        **fields,
        theft=worst.theft if worst else None,
        counted=worst.counted if worst else None,
        attack=worst.attack if worst else "",
        merger=worst.merger if worst else "",
        by=dict(by.most_common()),
        protection=naive.theft.rest if naive is not None and naive.theft is not None else None,
    )


def follows(verdicts: Mapping[str, Verdict], subjects: Mapping[str, Subject]) -> dict[str, Any]:
    """The fields of such a row that follow from the rows on each victim alone: all but what is stolen."""
    word, reason, left_out = decide(verdicts, subjects)
    judged = [victim for victim in verdicts if victim not in left_out]
    return {
        "verdict": word,
        "reason": reason,
        "victims": {victim: verdict.scenario for victim, verdict in verdicts.items()},
        "fallen": tuple(victim for victim in judged if verdicts[victim].verdict in FALLEN),
        "left_out": left_out,
        "fidelity": _lowest(verdicts[victim].fidelity for victim in judged),
        "gated": any(verdict.gated for verdict in verdicts.values()),
    }


def decide(verdicts: Mapping[str, Verdict], subjects: Mapping[str, Subject]) -> tuple[Word, str, tuple[str, ...]]:
    """What the verdicts on several victims come to: a pure function of rows, as each of them is.

    A lock that falls on one victim is broken; it holds only where it does on every one of which anything can be told.
    Each verdict keeps its own confidence, so that one victim more never saves a lock.

    Returns:
        The word, the sentence, and the victims that are left out: those that add too little to every merge.
    """
    left_out = tuple(
        victim for victim, subject in subjects.items() if subject.gains and len(subject.left_out) == len(subject.gains)
    )
    by_word: dict[str, list[str]] = {}
    for victim, verdict in verdicts.items():
        if victim not in left_out:
            by_word.setdefault(verdict.verdict, []).append(victim)
    judged = sum(map(len, by_word.values()))
    sentences = [_said(by_word, judged)] if by_word else []
    for reason in dict.fromkeys(verdicts[victim].reason for victim in left_out):
        alike = [victim for victim in left_out if verdicts[victim].reason == reason]
        sentences.append(f"left out {', '.join(alike)}: {reason}")
    return _word(set(by_word)), "; ".join(sentences), left_out


def _word(words: set[str]) -> Word:
    fallen = words.intersection(FALLEN)
    if fallen:
        return "INEFFECTIVE" if fallen == {"INEFFECTIVE"} else "BROKEN"
    for only in ("HOLDS-SO-FAR", "INVALID", "UNSCORABLE"):
        if words == {only}:
            return only
    return "INCONCLUSIVE" if words else "UNSCORABLE"


def _said(by_word: Mapping[str, Sequence[str]], judged: int) -> str:
    """`BROKEN on 3 of 4 victims (a, b, c), HOLDS-SO-FAR on d`, what is worst first."""
    ranks = ("BROKEN", "INEFFECTIVE", "INCONCLUSIVE", "INVALID", "UNSCORABLE", "HOLDS-SO-FAR")
    (word, victims), *others = sorted(by_word.items(), key=lambda one: ranks.index(one[0]))
    many = f"all {judged}" if len(victims) == judged > 1 else f"{len(victims)} of {judged}"
    first = f"{word} on {many} victim{'s' if judged > 1 else ''} ({', '.join(victims)})"
    return ", ".join([first, *(f"{other} on {', '.join(names)}" for other, names in others)])


def _lowest(fidelities: Iterable[Mapping[str, Interval]]) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for fidelity in fidelities:
        for dtype, value in fidelity.items():
            if dtype not in found or value.mean < found[dtype].mean:
                found[dtype] = value
    return found
