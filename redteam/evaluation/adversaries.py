"""Which attacks were made for a defense, and by whom: of pipelines, what `redteam.plugins.targets` says of plugins."""

from __future__ import annotations

from pathlib import Path

from redteam.evaluation.resolve import Pipeline
from redteam.plugins import targets as plugins


def targets(attack: Pipeline, defense: Pipeline) -> bool:
    """Whether one of an attack's links was made for one of a defense's."""
    return any(plugins.targets(a, d) for a in attack.links for d in defense.links)


def author(attack: Pipeline) -> str:
    """The distributions or names of files that an attack comes from."""
    origins = (Path(link.origin).name if link.reference.file else plugins.author(link) for link in attack.links)
    return ", ".join(dict.fromkeys(origins))


def own(attack: Pipeline, defense: Pipeline) -> bool:
    """Whether an attack comes from where the defense comes from."""
    return any(plugins.same_author(a, d) for a in attack.links for d in defense.links)
