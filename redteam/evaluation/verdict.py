"""The verdict on a defense under a threat model: computed once, first match wins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from redteam.evaluation.results import Flag
from redteam.evaluation.statistics import Interval
from redteam.evaluation.thresholds import THRESHOLDS

Word = Literal["UNSCORABLE", "INEFFECTIVE", "BROKEN", "INVALID", "HOLDS-SO-FAR", "INCONCLUSIVE"]


FLAGS: dict[str, Flag] = {
    "COSTLY": Flag(
        raised_if=f"the protected model alone surely keeps less than {THRESHOLDS.costly} of the victim's accuracy, in "
        "the dtype that it is released in",
        means="the owner pays for the protection with the skill that it protects",
        do="compare the fidelity by dtype with what the protection is worth; a lock of smaller condition number, or a "
        "wider dtype, may cost less",
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
    "NEEDS-LABELS": Flag(
        raised_if="the attack that breaks it uses labelled samples of the victim's task",
        means="an attacker without such samples has not broken it here; theft is counted beyond what the same labels "
        "buy when training starts from the base",
        do="look at the verdict under weights-only, at the curve of theft over labels, and at the price",
    ),
    "UNCHOSEN-BREAK": Flag(
        raised_if="an attack surely steals half, but not the one that an attacker would choose by what they can see",
        means="it is not BROKEN by the rule, and not safe either: an attacker may know better, or be lucky",
        do="treat it as broken when you decide about a release",
    ),
    "NOT-REPRODUCED": Flag(
        raised_if="the defense comes from a paper and stops no merge here, even without any attack",
        means="not reproduced on this scenario: the effect did not appear here, with this victim, these companions, "
        "these mergers and these settings; that says nothing about the paper",
        do="try the source's own models and settings before you conclude anything",
    ),
    "NO-ADAPTIVE-ATTACK": Flag(
        raised_if="no attack of the plan names this defense as its target",
        means="nobody has tried to break this defense in particular, so it cannot be said to hold",
        do="write an attack that targets it and let the defense ship a weakened variant",
    ),
    "UNPROVEN-ATTACKS": Flag(
        raised_if="an attack did not undo a lock that it claims to undo, or harmed an unlocked model",
        means="its failures are no evidence; what it broke stands",
        do="see the panel of controls for which one, and mend the attack or its claim",
    ),
    "PARTIAL": Flag(
        raised_if="a cell or control of this defense failed, timed out or was skipped over",
        means="the figures rest on what ran; what did not run counts for nothing, least of all as robust",
        do="see the reasons beside the cells, and run the same command again",
    ),
}
"""What each flag says."""


@dataclass(frozen=True)
class Candidate:
    """An attack with a merger, and what it stole, over keys the most.

    Attributes:
        counted: What verdicts count: theft, or for attacks with data of the victim's task the part that the victim was
            of use for.
        seen: What the attacker can see of it, and chooses by.
        cost: Unit → what it cost, on average.
        advantage: For attacks with data of the victim's task: how much more it steals than from the base.
        by: For gauntlets: member → on how many seeds and keys it is the one that was chosen.
    """

    attack: str
    merger: str
    theft: Interval
    counted: Interval
    seen: float
    cost: Mapping[str, float | None] = field(default_factory=dict)
    advantage: Interval | None = None
    by: Mapping[str, int] = field(default_factory=dict)

    @property
    def breaks(self) -> bool:
        """Whether it surely gets half or more."""
        return self.counted.low >= THRESHOLDS.stolen

    @property
    def first(self) -> str:
        """The attack, or of a gauntlet the member that was chosen most often."""
        return max(self.by, key=lambda name: self.by[name], default=self.attack)

    @property
    def words(self) -> str:
        """With which merger, and through which members."""
        members = ", ".join(name if len(self.by) == 1 else f"{name} {count}×" for name, count in self.by.items())
        return f"{self.attack}{f' ({members})' if members else ''} with {self.merger}"


@dataclass(frozen=True)
class Evidence:
    """Everything a verdict rests on.

    Attributes:
        gain: What the unlocked victim adds to the merge; `None` if it could not be computed.
        failed: Sentences on controls that make the score itself doubtful (floor, trivial attackers).
        naive: Theft without an attack.
        candidates: All attacks × mergers that ran, no attack among them.
        reliable: Attacks whose plants came off and which harm no unlocked model.
        ceiling: Whether the key's holder or training anew reached the ceiling; `None` where neither ran.
        targeted: Reliable attacks that name this defense and broke its weakened variant.
        missing: Sentences on cells of this defense that failed.
        fidelity: Of the released dtype.
        unproven: Attacks that failed one of their own controls.
        adaptive: Whether some attack of the plan was made for this defense.
        published: Whether it comes from a source that reports an effect on merges.
    """

    gain: Interval | None
    failed: Sequence[str]
    naive: Interval | None
    candidates: Sequence[Candidate]
    reliable: frozenset[str]
    ceiling: bool | None
    targeted: frozenset[str]
    missing: Sequence[str]
    fidelity: Interval | None
    unproven: frozenset[str] = frozenset()
    adaptive: bool = True
    published: bool = False

    @property
    def judged(self) -> Candidate | None:
        """The one that the verdict speaks of.

        Of the attacks without data, and of all, the one that an attacker would choose by what they can see. Knowing
        more never makes a defense safer, so where the former breaks it, it does.
        """
        free = max((c for c in self.candidates if c.advantage is None), key=lambda c: c.seen, default=None)
        if free is not None and free.breaks:
            return free
        return self.chosen

    @property
    def chosen(self) -> Candidate | None:
        """What an attacker would choose by what they can see."""
        return max(self.candidates, key=lambda c: c.seen, default=None)

    @property
    def oracle(self) -> Candidate | None:
        """The best on the scoring data: what HOLDS-SO-FAR must survive."""
        return max(self.candidates, key=lambda c: c.counted.mean, default=None)


@dataclass(frozen=True)
class Decision:
    """The word, the sentence that says why, and the flags beside it."""

    word: Word
    reason: str
    flags: tuple[str, ...]


def decide(evidence: Evidence) -> Decision:
    """Weighs the evidence."""
    word, reason = _word(evidence)
    return Decision(word, reason, tuple(_flags(evidence, word)))


def _flags(e: Evidence, word: Word) -> Iterator[str]:
    if e.fidelity is not None and e.fidelity.high < THRESHOLDS.costly:
        yield "COSTLY"
    judged = e.judged or e.oracle
    if judged is not None and judged.theft.over != "seeds":
        yield "PRELIMINARY" if judged.theft.seeds > 1 else "ONE-SEED"
    if word == "BROKEN" and judged is not None and judged.advantage is not None:
        yield "NEEDS-LABELS"
    if word != "BROKEN" and e.oracle is not None and e.oracle.breaks and word != "INEFFECTIVE":
        yield "UNCHOSEN-BREAK"
    if word == "INEFFECTIVE" and e.published:
        yield "NOT-REPRODUCED"
    if not e.adaptive:
        yield "NO-ADAPTIVE-ATTACK"
    if e.unproven:
        yield "UNPROVEN-ATTACKS"
    if e.missing:
        yield "PARTIAL"


def _word(e: Evidence) -> tuple[Word, str]:
    stolen = THRESHOLDS.stolen
    if e.gain is None or e.naive is None or e.judged is None or e.oracle is None:
        return "INVALID", f"nothing could be judged: {'; '.join(e.missing) or 'no attack ran'}"
    if e.failed:
        return "UNSCORABLE", "; ".join(e.failed)
    if e.gain.low < THRESHOLDS.gain:
        return "UNSCORABLE", f"the victim adds too little to the merge to be stolen: its gain is {e.gain}"
    if e.naive.low >= stolen:
        return "INEFFECTIVE", f"merging without any attack already steals {e.naive} of what the victim adds"
    chosen, oracle = e.judged, e.oracle
    if chosen.breaks:
        use = f", of which the victim was of use for {chosen.counted}" if chosen.advantage is not None else ""
        return "BROKEN", f"{chosen.words} steals {chosen.theft}{use}"
    if e.ceiling is False:
        return "INVALID", "even the owner does not get the skill back, so no attack's failure means anything"
    if not e.reliable:
        return "INVALID", "no attack undid the locks it claims to undo, so no attack's failure means anything"
    best = f"the best attack, {oracle.words}, steals {oracle.counted}"
    if oracle.advantage is not None:
        best += f" beyond what its labels alone are worth ({oracle.theft} in all)"
    if oracle.counted.high >= stolen:
        return "INCONCLUSIVE", f"{best}, which neither reaches {stolen} surely nor stays under it"
    if e.missing:
        return "INCONCLUSIVE", f"{best}, but not everything ran: {'; '.join(e.missing)}"
    if not e.targeted:
        return (
            "INCONCLUSIVE",
            f"{best}, but no attack made for this defense has shown that it breaks a weakened variant",
        )
    return "HOLDS-SO-FAR", f"{best}, although {', '.join(sorted(e.targeted))} broke the weakened variant"
