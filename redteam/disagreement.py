"""Defenses on which scenarios, or victims, disagree: who reads one verdict alone would take it for the whole answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from redteam.answer import stolen
from redteam.evaluation.results import FALLEN, Results, Verdict

_ORDER = ("BROKEN", "INEFFECTIVE", "INVALID", "INCONCLUSIVE", "HOLDS-SO-FAR")


@dataclass(frozen=True)
class Disagreement:
    """A defense under a threat model whose verdict is not the same on all scenarios.

    Attributes:
        threat: Empty where the results have one threat model alone.
        verdicts: On all scenarios where something can be told, what is worst first.
    """

    defense: str
    threat: str
    verdicts: tuple[Verdict, ...]

    @property
    def protects_somewhere(self) -> bool:
        """Whether it falls in one place and not in another; else the verdicts differ in how it falls, or in doubts."""
        fallen = {verdict.verdict in FALLEN for verdict in self.verdicts}
        return len(fallen) > 1

    def told(self, quoted: Callable[[str], str] = str) -> str:
        """`mergelock: BROKEN on digits (0.99 [0.98, 1.00]), HOLDS-SO-FAR on docstrings (0.11 [0.05, 0.20])`.

        Args:
            quoted: How the format shows a name.
        """
        under = f" under {quoted(self.threat)}" if self.threat else ""
        words = dict.fromkeys(verdict.verdict for verdict in self.verdicts)
        return f"{quoted(self.defense)}{under}: {', '.join(self._where(word, quoted) for word in words)}"

    def _where(self, word: str, quoted: Callable[[str], str]) -> str:
        here = [verdict for verdict in self.verdicts if verdict.verdict == word]
        told = (f"{quoted(verdict.scenario)} ({stolen(verdict) or 'no figure'})" for verdict in here)
        return f"{word} on {', '.join(told)}"


def disagreements(results: Results) -> tuple[Disagreement, ...]:
    """Those of the results, first where a defense falls on one scenario and not on another.

    A verdict UNSCORABLE says nothing of the defense, and so disagrees with none.
    """
    return tuple(sorted(_found(results), key=lambda one: not one.protects_somewhere))


def _found(results: Results) -> Iterator[Disagreement]:
    told = [verdict for verdict in results.told if verdict.gated and verdict.verdict != "UNSCORABLE"]
    several = len({verdict.threat for verdict in results.verdicts}) > 1
    for defense, threat in dict.fromkeys((verdict.defense, verdict.threat) for verdict in told):
        here = [verdict for verdict in told if (verdict.defense, verdict.threat) == (defense, threat)]
        if len({verdict.verdict for verdict in here}) > 1:
            ranked = sorted(here, key=lambda verdict: _ORDER.index(verdict.verdict))
            yield Disagreement(defense, threat if several else "", tuple(ranked))
