"""The verdict on a defense under a threat model: a pure function of rows of `results.json`; the first match wins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from redteam.evaluation.flags import raised
from redteam.evaluation.rows import Control, ControlKind, Figure, Place, SeedFigure, Subject
from redteam.evaluation.thresholds import THRESHOLDS, Thresholds

if TYPE_CHECKING:
    from redteam.evaluation.results import Results

Word = Literal["UNSCORABLE", "INEFFECTIVE", "BROKEN", "INVALID", "HOLDS-SO-FAR", "INCONCLUSIVE"]
Wanted = tuple[ControlKind, str]

_OF_AN_ATTACK: tuple[ControlKind, ...] = ("floor", "gone", "harmless", "planted", "extent", "weakened")


@dataclass(frozen=True)
class Evidence:
    """All rows that a verdict rests on.

    Attributes:
        subject: What is known of the place.
        figures: What was stolen there.
        controls: Those of the place, and of its attacks whatever the defense, by their position in the results.
    """

    subject: Subject
    figures: tuple[Figure, ...]
    controls: tuple[tuple[int, Control], ...]

    @classmethod
    def of(cls, results: Results, place: Place) -> Evidence:
        """The rows about one place.

        Raises:
            StopIteration: If the results hold nothing about it.
        """
        subject = next(s for s in results.subjects if s.place == place)
        figures = tuple(f for f in results.figures if f.place == place)
        return cls(subject, figures, tuple(about(subject, results.controls)))

    @cached_property
    def excluded(self) -> frozenset[str]:
        """Attacks that take something where nothing is: neither their breaks nor their failures count."""
        return excluded(control for _, control in self.controls)

    @property
    def attacks(self) -> tuple[str, ...]:
        """Every attack proper that was tried here."""
        return tuple(dict.fromkeys(f.attack for f in self.figures if f.choice == "attack" and f.role == "recovery"))

    @property
    def candidates(self) -> list[Figure]:
        """Attacks with a merger that count, no attack among them."""
        return [
            f
            for f in self.figures
            if f.choice == "attack"
            and not f.whole
            and f.role in ("naive", "guess", "recovery")
            and f.per_seed
            and f.attack not in self.excluded
            and f.merger not in self.subject.left_out
        ]

    @property
    def fallen_without_labels(self) -> frozenset[int]:
        """Seeds on which half is surely stolen without data of the victim's task."""
        free = (figure for figure in self.candidates if figure.advantage is None)
        return frozenset(seed.seed for f in free for seed in f.per_seed if seed.sure >= THRESHOLDS.stolen)

    def chosen(self, choice: str) -> Figure | None:
        """The row of a choice over several attacks."""
        return next((f for f in self.figures if f.choice == choice and f.per_seed), None)

    def of_kind(self, kind: ControlKind, attack: str) -> list[Control]:
        """The controls of one kind of one attack."""
        return [c for _, c in self.controls if c.control == kind and c.attack == attack]

    def positions(self, wanted: Iterable[Wanted]) -> tuple[int, ...]:
        """Where controls of these kinds and attacks stand in the results."""
        kinds = set(wanted)
        return tuple(index for index, c in self.controls if (c.control, c.attack) in kinds)

    def undoes(self, attack: str) -> Literal["all", "part", "nothing"]:
        """How far an attack undoes what it claims to undo, up to the extent of this lock, without harm to others.

        One that claims no kind of lock proves itself on the weakened variant of a defense that it was made for.
        """
        if any(not c.passed for c in self.of_kind("harmless", attack)):
            return "nothing"
        plants = [*self.of_kind("planted", attack), *self.of_kind("extent", attack)]
        if not plants:
            return "all" if any(c.passed for c in self.of_kind("weakened", attack)) else "nothing"
        if all(c.passed for c in plants):
            return "all"
        return "part" if all(c.passed or c.partial for c in plants) else "nothing"

    @cached_property
    def unreached(self) -> Control | None:
        """The ceiling that was not reached: of the key's holder where there is a key, else of training anew."""
        roles = {f.attack: f.role for f in self.figures}
        rows = [c for _, c in self.controls if c.control == "ceiling" and c.defense == self.subject.defense]
        holders = [c for c in rows if roles.get(c.attack) == "ceiling"]
        return next((c for c in holders or rows if not c.passed), None)

    @cached_property
    def shortcomings(self) -> dict[str, str]:
        """Attack that was made for this defense → why its failure is no evidence; those that count are not in it."""
        short: dict[str, str] = {}
        for adversary in self.subject.adversaries:
            attack = adversary.attack
            if not adversary.ran:
                short[attack] = "did not run to its end on it under every seed and key"
            elif attack in self.excluded:
                short[attack] = "takes something where nothing is"
            elif not adversary.covers:
                short[attack] = "claims to undo only a part of what the defense changes"
            elif self.undoes(attack) != "all":
                short[attack] = "does not undo planted locks of the same extent"
            elif not adversary.as_strong:
                short[attack] = "was shown to work on planted locks that are weaker than it"
            elif not any(c.passed for c in self.of_kind("weakened", attack)):
                short[attack] = "has not broken a weakened variant"
            elif not adversary.same_extent:
                short[attack] = "broke a variant that weakens the extent of the lock, not its strength"
        return short


@dataclass(frozen=True)
class Decision:
    """What can be said.

    Attributes:
        word: The verdict.
        reason: The sentence that says why.
        flags: What changes how the word is to be read.
        rests_on: Positions of the controls that it rests on.
        wanted: Controls that it would rest on and that were not computed; until they are, the word is provisional.
        fallen: On how many seeds half or more was surely stolen.
    """

    word: Word
    reason: str
    flags: tuple[str, ...] = ()
    rests_on: tuple[int, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    fallen: int = 0


def about(subject: Subject, controls: Sequence[Control]) -> Iterator[tuple[int, Control]]:
    """The controls that were computed for a place, with their positions; some of them speak of an attack anywhere."""
    tried = set(subject.tried)
    for index, control in enumerate(controls):
        here = (control.scenario, control.threat) == (subject.scenario, subject.threat)
        if here and control.defense in ("", subject.defense) and (control.control, control.attack) in tried:
            yield index, control


def excluded(controls: Iterable[Control]) -> frozenset[str]:
    """Attacks that take something where nothing is, or could not show anywhere that they don't.

    One that fails like any program on one of these controls takes nothing there; the other control speaks for it.
    """
    tried = [c for c in controls if c.control in ("floor", "gone")]
    takes = {c.attack for c in tried if c.status == "ok" and not c.passed}
    return frozenset(takes | ({c.attack for c in tried} - {c.attack for c in tried if c.passed}))


def decide(evidence: Evidence, thresholds: Thresholds = THRESHOLDS) -> Decision:
    """Weighs the evidence; nothing else makes a verdict."""
    found = _word(evidence, thresholds)
    done = set(evidence.subject.tried)
    wanted = tuple(dict.fromkeys(one for one in found.needs if one not in done))
    flags = tuple(raised(evidence, found.word, found.judged, found.fallen))
    return Decision(found.word, found.reason, flags, evidence.positions(found.needs), wanted, found.fallen)


@dataclass(frozen=True)
class _Found:
    word: Word
    reason: str
    needs: tuple[Wanted, ...] = ()
    judged: Figure | None = None
    fallen: int = 0


def _nothing_to_steal(subject: Subject, limits: Thresholds) -> str:
    merger, most = max(subject.gains.items(), key=lambda pair: pair[1].low)
    if most.low < limits.gain:
        return f"the victim adds too little to the merge to be stolen: its gain is {most}"
    return (
        f"only mergers that keep too little of the companions gain from the victim: {merger} gains {most}, and whoever "
        f"merges nothing and uses the victim's copy would have {subject.copied[merger]} of that"
    )


def _word(e: Evidence, limits: Thresholds) -> _Found:
    subject, naive, worst = e.subject, e.chosen("naive"), e.chosen("worst")
    trivial: tuple[Wanted, ...] = tuple(("trivial", f.attack) for f in e.figures if f.role == "trivial")
    if subject.gains and len(subject.left_out) == len(subject.gains):
        return _Found("UNSCORABLE", _nothing_to_steal(subject, limits), trivial)
    unplanned = all(f.role != "naive" for f in e.figures)  # nobody merges weights that they don't have
    if worst is None or worst.theft is None or (naive is None and not unplanned):
        return _Found("INVALID", f"nothing could be judged: {'; '.join(subject.missing) or 'no attack ran'}", trivial)
    rewarded = [c for _, c in e.controls if c.control == "trivial" and not c.passed and c.status == "ok"]
    if rewarded:
        return _Found("UNSCORABLE", f"the score itself is in doubt: {rewarded[0].explanation}", trivial)
    if naive is not None and naive.theft is not None and naive.theft.low >= limits.stolen:
        longer = f", with its task vector at another length ({naive.attack})," if naive.attack.count("×") else ""
        reason = f"merging without any attack{longer} already steals {naive.theft} of what the victim adds"
        return _Found("INEFFECTIVE", reason, trivial, naive)
    broken = _broken(e, worst, limits, trivial)
    if broken is None and unplanned:
        reason = (
            f"its answers alone give away {worst.theft}; no weights are seen here, so that no lock of them is tried"
        )
        return _Found("INCONCLUSIVE", reason, trivial, worst)
    return broken or _unbroken(e, worst, limits, trivial)


def _broken(e: Evidence, worst: Figure, limits: Thresholds, trivial: tuple[Wanted, ...]) -> _Found | None:
    """A break stands by itself: it needs the score to be sound, and the attack to take nothing where nothing is.

    A seed has fallen where some attack's own lower bound says so, corrected for a fixed number of attacks: so that one
    attack more never saves a lock, and trying many never breaks one by chance.
    """
    surest: dict[int, SeedFigure] = {}
    for seed in (seed for figure in e.candidates for seed in figure.per_seed if seed.sure >= limits.stolen):
        if seed.seed not in surest or seed.sure > surest[seed.seed].sure:
            surest[seed.seed] = seed
    if not surest:
        return None
    attacks = {seed.attack for seed in (*surest.values(), *worst.per_seed)}
    tried = attacks & {f.attack for f in e.candidates if f.role == "recovery"}
    free = tried & {f.attack for f in e.candidates if f.advantage is None}
    floors: list[Wanted] = [("floor", attack) for attack in sorted(free)]
    floors += [("gone", attack) for attack in sorted(tried)]
    use = f", of which the victim was of use for {worst.counted}" if worst.advantage is not None else ""
    several = f"; it falls on {len(surest)} of {len(worst.per_seed)} seeds" if len(surest) < len(worst.per_seed) else ""
    reason = f"{', '.join(worst.by) or worst.attack} with {worst.merger} steals {worst.theft}{use}{several}"
    if attacks & {f.attack for f in e.figures if f.role == "guess"}:
        reason += "; its key guards nothing: whoever guesses one takes the lock off"
    return _Found("BROKEN", reason, (*trivial, *floors), worst, len(surest))


def _unbroken(e: Evidence, worst: Figure, limits: Thresholds, trivial: tuple[Wanted, ...]) -> _Found:
    """An attack's failure counts only where everything shows that it would have succeeded."""
    subject, stolen = e.subject, limits.stolen
    needs: tuple[Wanted, ...] = (
        *trivial,
        *((kind, attack) for attack in e.attacks for kind in _OF_AN_ATTACK),
        *(("ceiling", attack) for attack in subject.ceilings),
    )

    def found(word: Word, reason: str) -> _Found:
        return _Found(word, reason, needs, worst)

    if subject.worth is not None and subject.worth.high < stolen:
        return found(
            "INVALID", f"the protected model alone keeps {subject.worth} of its skill: there is nothing left to protect"
        )
    unreached = e.unreached
    if unreached is not None:
        return found("INVALID", f"no attack's failure means anything: {unreached.explanation}")
    able = [attack for attack in e.attacks if attack not in e.excluded and e.undoes(attack) != "nothing"]
    if not able:
        why = "no attack undid the locks that it claims to undo" if e.attacks else "no attack was tried"
        if e.attacks and e.excluded.issuperset(e.attacks):
            why = "every attack takes something where nothing is, or could not show that it doesn't"
        return found("INVALID", f"{why}, so no attack's failure means anything")
    assert worst.counted is not None
    best = f"the worst case, {worst.attack} with {worst.merger}, steals {worst.counted}"
    if worst.advantage is not None:
        best += f" beyond what its labels alone are worth ({worst.theft} in all)"
    open_ = [seed for figure in e.candidates for seed in figure.per_seed if seed.high >= stolen]
    if open_:
        most = max(open_, key=lambda seed: seed.high)
        interval = f"{most.counted:.2f} [{most.low:.2f}, {most.high:.2f}]"
        where = f"{most.attack} with {most.merger} on seed {most.seed}: {interval}"
        return found("INCONCLUSIVE", f"{best}; half is neither surely stolen nor surely out of reach ({where})")
    if subject.missing:
        return found("INCONCLUSIVE", f"{best}, but not everything ran: {'; '.join(subject.missing)}")
    return found(*_held(e, best))


def _held(e: Evidence, best: str) -> tuple[Word, str]:
    """Whether an attack that was made for this defense has failed although it would break a weaker one."""
    short = e.shortcomings
    proven = [a for a in e.subject.adversaries if a.attack not in short]
    if not proven:
        told = "; ".join(f"{attack} {why}" for attack, why in short.items()) or "there is none"
        return "INCONCLUSIVE", f"{best}, but no attack that was made for this defense counts: {told}"
    names = ", ".join(f"{a.attack} (by {a.author})" for a in proven)
    return "HOLDS-SO-FAR", f"{best}, although {names} breaks the weakened variant"
