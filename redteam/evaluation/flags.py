"""Flags: what changes how a verdict is to be read, and only where it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from redteam.evaluation.results import Flag
from redteam.evaluation.rows import Figure
from redteam.evaluation.thresholds import THRESHOLDS

if TYPE_CHECKING:
    from redteam.evaluation.verdict import Evidence

FLAGS: dict[str, Flag] = {
    "COSTLY": Flag(
        raised_if=f"the protected model alone surely keeps less than {THRESHOLDS.costly} of the victim's accuracy, in "
        "the dtype that it is released in",
        means="the owner pays for the protection with the skill that it protects",
        do="compare the fidelity by dtype with what the protection is worth; a lock of smaller condition number, or a "
        "wider dtype, may cost less",
    ),
    "NOT-EXACT": Flag(
        raised_if=f"the defense says that it keeps the function, and changes the outputs by more than "
        f"{THRESHOLDS.function:g} of their size",
        means="what the defense says of itself is not true here",
        do="compare the fidelity, and ask the defense's author",
    ),
    "ONE-SEED": Flag(
        raised_if="one base and one set of experts stand behind the figures",
        means="the interval speaks of test items alone; another training run may behave otherwise",
        do="run at least five seeds before quoting the figure",
    ),
    "PRELIMINARY": Flag(
        raised_if="two to four seeds stand behind the figures",
        means="a bound holds only where all seeds agree on it; there are too few for an interval over seeds",
        do="run at least five seeds before quoting the figure",
    ),
    "SOMETIMES": Flag(
        raised_if="half is surely stolen on some seeds and not on all of them",
        means="an owner publishes one model: a lock that falls on one retraining in five protects nobody, and one that "
        "holds on one may have been lucky",
        do="look at the theft seed by seed",
    ),
    "NEEDS-LABELS": Flag(
        raised_if="on some seed only attacks that use labelled samples of the victim's task break it",
        means="an attacker without such samples has not broken it here; theft is counted beyond what the same labels "
        "buy when training starts from the base",
        do="look at the verdict under weights-only, at the curve of theft over labels, and at the price",
    ),
    "UNCHOSEN-BREAK": Flag(
        raised_if="the attack that breaks it is not the one that an attacker would choose by what they can see",
        means="an attacker who tries everything and keeps what looks best does not keep the one that breaks it",
        do="treat it as broken when you decide about a release: an attacker may know better, or be lucky",
    ),
    "NOT-REPRODUCED": Flag(
        raised_if="the defense comes from a paper and stops no merge here, even without any attack",
        means="not reproduced on this scenario: the effect did not appear here, with this victim, these companions, "
        "these mergers and these settings; that says nothing about the paper",
        do="try the source's own models and settings before you conclude anything",
    ),
    "SELF-ATTACKED": Flag(
        raised_if="every attack that was made for this defense, and counts, comes from where the defense comes from",
        means="its author has shown that their own attack fails on it, and nobody else has tried",
        do="ask somebody else to write the attack",
    ),
    "NO-ADAPTIVE-ATTACK": Flag(
        raised_if="the verdict is open and no attack of the plan names this defense as its target",
        means="nobody has tried to break this defense in particular, so it cannot be said to hold",
        do="write an attack that targets it and let the defense ship a weakened variant",
    ),
    "UNPROVEN-ATTACKS": Flag(
        raised_if="the verdict is open and an attack did not undo a lock that it claims to undo, or harmed an unlocked "
        "model",
        means="its failures are no evidence; what it broke stands",
        do="see the panel of controls for which one, and mend the attack or its claim",
    ),
    "PARTIAL": Flag(
        raised_if="the verdict is open and something that it would rest on failed, timed out or was skipped over",
        means="the figures rest on what ran; what did not run counts for nothing, least of all as robust",
        do="see the reasons beside the cells, and run the same command again",
    ),
}
"""What each flag says."""


def raised(e: Evidence, word: str, judged: Figure | None, down: int) -> Iterator[str]:
    """The flags of a verdict.

    Args:
        e: All that it rests on.
        word: The verdict.
        judged: The figure that its sentence speaks of.
        down: On how many seeds half was surely stolen.
    """
    subject = e.subject
    fidelity = subject.fidelity.get(subject.released)
    if fidelity is not None and fidelity.high < THRESHOLDS.costly:
        yield "COSTLY"
    if subject.exact and subject.change is not None and subject.change > THRESHOLDS.function:
        yield "NOT-EXACT"
    if judged is not None and judged.theft is not None and judged.theft.over != "seeds":
        yield "PRELIMINARY" if judged.theft.seeds > 1 else "ONE-SEED"
    if word == "INEFFECTIVE" and subject.published:
        yield "NOT-REPRODUCED"
    if word == "BROKEN" and judged is not None:
        if down < len(judged.per_seed):
            yield "SOMETIMES"
        if down > len(e.fallen_without_labels):
            yield "NEEDS-LABELS"
        seen = e.chosen("seen")
        if seen is None or not any(seed.sure >= THRESHOLDS.stolen for seed in seen.per_seed):
            yield "UNCHOSEN-BREAK"
    if word == "HOLDS-SO-FAR" and all(a.own for a in subject.adversaries if a.attack not in e.shortcomings):
        yield "SELF-ATTACKED"
    if word in ("INVALID", "INCONCLUSIVE", "HOLDS-SO-FAR"):
        if not subject.adversaries:
            yield "NO-ADAPTIVE-ATTACK"
        if any(e.undoes(attack) == "nothing" and e.of_kind("planted", attack) for attack in e.attacks):
            yield "UNPROVEN-ATTACKS"
        if subject.missing:
            yield "PARTIAL"
