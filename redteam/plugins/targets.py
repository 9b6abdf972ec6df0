"""Which defense an attack was made for, and who wrote the two.

An attack names its targets (`targets=("planar",)`). A name alone means the defense of that name in the attack's own
file, where there is one, else the installed one; it means a defense in another file only where none is installed under
that name. So a defense in a file that takes the name of one that ships does not inherit the attacks on that one.
`path/to/file.py@name` means a defense in a file and nothing else.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from redteam.plugins.contracts import AttackSpec, DefenseSpec, spec_of
from redteam.plugins.files import module_from
from redteam.plugins.registry import DEFENSES, LoadedPlugin

PROJECT = "merge-redteam"
"""The distribution that the engine comes in, with plugins by many hands."""


def targets(attack: LoadedPlugin[AttackSpec], defense: LoadedPlugin[DefenseSpec]) -> bool:
    """Whether the attack was made for this very defense."""
    return any(_means(attack, target, defense) for target in attack.spec.targets)


def author(plugin: LoadedPlugin[AttackSpec] | LoadedPlugin[DefenseSpec]) -> str:
    """Where a plugin comes from: its distribution, or the path of its file."""
    return plugin.origin


def same_author(attack: LoadedPlugin[AttackSpec], defense: LoadedPlugin[DefenseSpec]) -> bool:
    """Whether the attack comes with the defense: in one file, or in one distribution other than the project's own."""
    return author(attack) == author(defense) != PROJECT


def _means(attack: LoadedPlugin[AttackSpec], target: str, defense: LoadedPlugin[DefenseSpec]) -> bool:
    path, _, name = target.rpartition("@")
    if name != defense.spec.name:
        return False
    if path:
        folder = Path(attack.origin).parent if attack.reference.file else Path()
        return bool(defense.reference.file) and (folder / path).resolve() == Path(defense.origin)
    if attack.reference.file and name in _defenses_in(attack.origin, attack.source_digest):
        return defense.origin == attack.origin
    return not defense.reference.file or name not in DEFENSES


@lru_cache(maxsize=64)
def _defenses_in(file: str, digest: str) -> frozenset[str]:
    """Names of the defenses in a file, of which the digest says as which it was imported."""
    specs = (spec_of(value) for value in vars(module_from(Path(file))).values())
    return frozenset(spec.name for spec in specs if isinstance(spec, DefenseSpec))
