"""Every number that a verdict depends on, in one place, fixed before any attack runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Thresholds:
    """The limits behind controls and verdicts. They are no settings: two reports compare because these are the same.

    Attributes:
        stolen: Theft from which a lock counts as broken.
        trivial: The most that an attacker who uses nothing of the victim may steal.
        floor: The most that may be stolen from a freshly initialised victim, which has nothing to give.
        harmless: The least change of the mean score when an attack runs on an unlocked victim.
        ceiling: The least that the key's holder must get.
        anew: The least that training such an expert anew must get.
        priced: Theft from which an attack's cost is a price.
        monotone: The corrected p-value under which data that steals less than fewer data did is a warning.
        companions: How far each companion may fall under the reference merge before theft is charged for it.
        gain: The least that the victim must add to the merge for theft to mean anything.
        planted_cost: The most that the tied cost after an attack may be, over the same attack's on the unlocked victim.
        planted_theft: The least theft from a planted lock for attacks that return other weights.
        planted_protection: The least protection of a planted lock for theft from it to count.
        planted_strength: The least ratio of a planted lock's tied cost to the unlocked victim's for its cost to count.
        function: The largest relative change of the outputs, in float64 on the stored weights, that keeps the function.
        costly: Fidelity under which a lock is flagged COSTLY.
    """

    stolen: float = 0.5
    trivial: float = 0.1
    floor: float = 0.1
    harmless: float = -0.05
    ceiling: float = 0.95
    anew: float = 0.9
    priced: float = 0.9
    monotone: float = 0.05
    companions: float = 0.02
    gain: float = 0.05
    planted_cost: float = 1.01
    planted_theft: float = 0.9
    planted_protection: float = 0.5
    planted_strength: float = 2.0
    function: float = 0.01
    costly: float = 0.985

    def digest(self) -> str:
        """SHA-256 of names and values, in hexadecimal: what a report states as fixed beforehand."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


THRESHOLDS = Thresholds()
