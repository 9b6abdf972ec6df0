"""Threat models: what the attacker has, in words and as grants; written `name` or `name:setting=value`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from redteam.errors import UnknownName
from redteam.plugins.contracts import Needs
from redteam.plugins.reference import Reference
from redteam.plugins.settings import Range, bind

DATA = Needs.INPUTS | Needs.SAMPLES
"""What only the owner of the victim's task has, unless a threat model grants it."""

QUERIES = 4096
"""How many inputs an attacker who never sees the weights has answered by default."""


@dataclass(frozen=True)
class ThreatModel:
    """What an attacker knows and has.

    Attributes:
        name: As written in plans and on the shell, settings included.
        grants: What a view under this model hands out.
        words: The model as a sentence for reports.
        short: What an attack works from under it, as a phrase: "from the weights and the public base alone".
        anchor: Which checkpoint stands for "from before the lock": the public base, a companion where the base is
            withheld, or a base that isn't quite the owner's.
        drift: How far a stale base lies from the owner's, in units of the companions' mean ‖τ‖.
        labels: How many labelled samples of the victim's task are granted; `None` for all.
        shared: Whether the attacker's own protected expert is under the victim's key, or under one of its own.
        weights: Whether the attacker holds the protected weights, or can only run the model.
        queries: How many inputs the attacker may have answered; `None` for any number.
        sealed: Whether what is released does not run alone. It then speaks of defenses that seal, and these of no other
            model: the victim's score is that of whoever holds the key.
    """

    name: str
    grants: Needs
    words: str
    short: str
    anchor: Literal["base", "companion", "stale"] = "base"
    drift: float = 0.0
    labels: int | None = 0
    shared: bool = True
    weights: bool = True
    queries: int | None = None
    sealed: bool = False

    def allows(self, needs: Needs) -> bool:
        """Whether an attack with these needs can be run at all."""
        return needs in self.grants and (self.weights or Needs.OUTPUTS in needs)

    def lends(self, needs: Needs, samples: int) -> bool:
        """Whether so many samples of the victim's task are granted, with labels or without as is needed."""
        return needs in self.grants and (not needs or self.labels is None or samples <= self.labels)

    def matters(self, needs: Needs) -> dict[str, Any]:
        """What of this model an attack with these needs can notice, as plain values: models that agree share cells."""
        held: dict[str, Any] = {"grants": sorted(str(need.name) for need in needs & self.grants)}
        if Needs.ANCHOR in needs:
            held |= {"anchor": self.anchor, "drift": self.drift}
        if needs & DATA:
            held["labels"] = self.labels
        if Needs.SIBLINGS in needs:
            held["shared"] = self.shared
        if Needs.OUTPUTS in needs:
            held["queries"] = self.queries
        return held


_WEIGHTS = Needs.ANCHOR | Needs.COMPANIONS | Needs.CODE | Needs.OUTPUTS


def _weights_only() -> ThreatModel:
    return ThreatModel(
        "",
        _WEIGHTS,
        "The attacker has the protected weights, the public base, experts of their own tasks with validation data "
        "for those tasks, and the defense's code; not the key, and no data of the victim's task.",
        "from the weights and the public base alone",
    )


def _leaked_key() -> ThreatModel:
    return ThreatModel(
        "", _WEIGHTS | Needs.KEY, "As weights-only, and the defender's key has leaked.", "with the leaked key"
    )


def _no_base() -> ThreatModel:
    return ThreatModel(
        "",
        _WEIGHTS,
        "As weights-only, but the base is withheld: a companion, fine-tuned from the same base, stands in for it, and "
        "only mergers that need no base can be used.",
        "from the weights alone, without the base",
        anchor="companion",
    )


def _stale_base(*, drift: Annotated[float, Range(0.0, 100.0)] = 1.0) -> ThreatModel:
    return ThreatModel(
        "",
        _WEIGHTS,
        f"As weights-only, but what attacks take for the base is not quite the owner's: it lies {drift:g} times as far "
        "from it, in a random direction, as the companions do on average. Merges start from the companions' own base.",
        "from the weights and an inexact base",
        anchor="stale",
        drift=drift,
    )


def _two_releases() -> ThreatModel:
    return ThreatModel(
        "",
        _WEIGHTS | Needs.RELEASES,
        "As weights-only, and the owner has released the same victim twice, under two independent keys.",
        "from two releases under different keys",
    )


def _same_key(*, shared: bool = True) -> ThreatModel:
    key = "the victim's key" if shared else "a key of its own"
    return ThreatModel(
        "",
        _WEIGHTS | Needs.SIBLINGS,
        f"As weights-only, and one of the attacker's experts went through the victim's defense, under {key}, so that "
        "they have it as it was and as it is published.",
        f"from the weights and an expert under {key}",
        shared=shared,
    )


def _few_shot(*, samples: Annotated[int, Range(1, 10**9)] = 64) -> ThreatModel:
    return ThreatModel(
        "",
        _WEIGHTS | DATA,
        f"As weights-only, and {samples} labelled samples of the victim's task, none of which is scored on.",
        f"from the weights and {samples} labelled samples of the victim's task",
        labels=samples,
    )


def _data_rich() -> ThreatModel:
    return ThreatModel(
        "",
        _WEIGHTS | DATA,
        "As weights-only, and all labelled samples that the owner trained on, none of which is scored on.",
        "from the weights and all samples that the owner trained on",
        labels=None,
    )


def _outputs_only(*, queries: Annotated[int, Range(1, 10**9)] = QUERIES) -> ThreatModel:
    return ThreatModel(
        "",
        Needs.ANCHOR | Needs.COMPANIONS | Needs.OUTPUTS,
        f"The attacker can run the protected model on {queries} inputs of their own and never sees its weights; they "
        "have the public base, experts of their own tasks with validation data for those tasks, and the head that "
        "merges are scored with.",
        f"from answers to {queries} inputs alone",
        weights=False,
        queries=queries,
    )


def _sealed() -> ThreatModel:
    return ThreatModel(
        "",
        _WEIGHTS,
        "What is released does not run alone: an enclave or the user holds the rest. The attacker has the released "
        "weights, the public base, experts of their own tasks with validation data for those tasks, the defense's code "
        "and the model's answers; not the key nor what is kept inside, and no data of the victim's task. Fidelity and "
        "answers are those of whoever holds the key.",
        "from the sealed weights and the public base alone",
        sealed=True,
    )


THREAT_MODELS: dict[str, Callable[..., ThreatModel]] = {
    "weights-only": _weights_only,
    "no-base": _no_base,
    "stale-base": _stale_base,
    "two-releases": _two_releases,
    "same-key": _same_key,
    "few-shot": _few_shot,
    "data-rich": _data_rich,
    "leaked-key": _leaked_key,
    "outputs-only": _outputs_only,
    "sealed": _sealed,
}
"""Name → what makes the model from its settings."""

OWNER = ThreatModel(
    "owner",
    _WEIGHTS | Needs.RELEASES | Needs.SIBLINGS | DATA | Needs.KEY,
    "Everything that the owner has.",
    "with all that the owner has",
    labels=None,
)
"""What ceilings are granted, whatever the threat model."""


def threat_model(text: str) -> ThreatModel:
    """The threat model that is written so, under its canonical name.

    Raises:
        UnknownName: With the closest names, if there is none.
        BadSetting: If a setting has the wrong type or is out of range.
        BadInput: If the text cannot be read.
    """
    reference = Reference.parse(text)
    make = THREAT_MODELS.get(reference.name)
    if make is None:
        raise UnknownName.among("threat model", reference.name, THREAT_MODELS)
    settings = bind(make, reference.settings, name=reference.name)
    model = make(**settings)
    return replace(model, name=str(Reference(reference.name, settings)))
