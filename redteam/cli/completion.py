"""What a shell offers when a name is completed: read from entry points, without importing any plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from redteam.plugins.registry import CONTRACTED, REGISTRIES
from redteam.plugins.shipped import KINDS, shipped
from redteam.threat import THREAT_MODELS

THREAT = "threat"
"""The kind of threat models, which are no plugins: they belong to the rules by which verdicts are given."""
ALL_KINDS = (*REGISTRIES, *KINDS, THREAT)
"""Every kind of what has a name."""
Completion = Callable[[str], list[tuple[str, str]]]


def names(*kinds: str) -> Completion:
    """Completes to the names of some kinds, with a line on each; in a chain `a+b` the last one."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        before, plus, begun = incomplete.rpartition("+")
        return [(f"{before}{plus}{name}", line) for name, line in _listed(kinds) if name.startswith(begun)]

    return complete


def words(*known: str) -> Completion:
    """Completes to one of some words."""
    return lambda incomplete: [(word, "") for word in known if word.startswith(incomplete)]


def _listed(kinds: Iterable[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for kind in kinds:
        if kind == THREAT:
            found += [(name, "") for name in THREAT_MODELS]
        elif kind in KINDS:
            found += [(one.name, one.summary) for one in shipped(kind)]
        else:
            found += [(one.name, one.summary) for one in REGISTRIES[kind].listing()]
    return found


SCENARIO, DEFENSE, ATTACK, MERGER = (names(kind) for kind in ("scenario", "defense", "attack", "merger"))
ATTACK_OR_GAUNTLET, MERGER_OR_GAUNTLET = names("attack", "gauntlet"), names("merger", "gauntlet")
THREAT_MODEL, PLAN = names(THREAT), names("plan")
WITH_CONTRACT, ANYTHING = names(*CONTRACTED), names(*ALL_KINDS)
