"""Which attacks were made for a defense, and by whom."""

from __future__ import annotations

from redteam.evaluation.resolve import Pipeline


def targets(attack: Pipeline, defense: Pipeline) -> bool:
    """Whether one of an attack's links names one of a defense's as its target."""
    return any(d.spec.name in a.spec.targets for a in attack.links for d in defense.links)


def author(attack: Pipeline) -> str:
    """The distribution or the file that an attack comes from."""
    return ", ".join(dict.fromkeys(link.origin for link in attack.links))


def own(attack: Pipeline, defense: Pipeline) -> bool:
    """Whether an attack comes with the defense that it targets."""
    return any(a.origin == d.origin and d.reference.file for a in attack.links for d in defense.links)
