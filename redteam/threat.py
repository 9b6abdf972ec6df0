"""Threat models: what the attacker has, in words and as grants."""

from __future__ import annotations

from dataclasses import dataclass

from redteam.errors import UnknownName
from redteam.plugins.contracts import Needs


@dataclass(frozen=True)
class ThreatModel:
    """What an attacker knows and has.

    Attributes:
        name: As written in plans and on the shell.
        grants: What a view under this model hands out.
        words: The model as a sentence for reports.
    """

    name: str
    grants: Needs
    words: str

    def allows(self, needs: Needs) -> bool:
        """Whether an attack with these needs can be run at all."""
        return needs in self.grants


_WEIGHTS = Needs.ANCHOR | Needs.COMPANIONS | Needs.CODE

THREAT_MODELS: dict[str, ThreatModel] = {
    model.name: model
    for model in (
        ThreatModel(
            "weights-only",
            _WEIGHTS,
            "The attacker has the protected weights, the public base, experts of their own tasks with validation data "
            "for those tasks, and the defense's code; not the key, and no data of the victim's task.",
        ),
        ThreatModel(
            "leaked-key",
            _WEIGHTS | Needs.KEY,
            "As weights-only, and the defender's key has leaked.",
        ),
    )
}


def threat_model(name: str) -> ThreatModel:
    """The threat model of that name.

    Raises:
        UnknownName: With the closest names, if there is none.
    """
    try:
        return THREAT_MODELS[name]
    except KeyError:
        raise UnknownName.among("threat model", name, THREAT_MODELS) from None
