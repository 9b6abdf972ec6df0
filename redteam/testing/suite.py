"""From a plugin to the checks of its contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from redteam.errors import BadInput, UnknownName
from redteam.plugins.contracts import spec_of
from redteam.plugins.files import module_from
from redteam.plugins.reference import Reference
from redteam.plugins.registry import CONTRACTED, REGISTRIES, LoadedPlugin, Registry, kinds_of
from redteam.plugins.settings import bind
from redteam.testing import elsewhere
from redteam.testing.attacks import AttackSubject
from redteam.testing.common import Tried
from redteam.testing.defenses import DefenseSubject
from redteam.testing.mergers import MergerSubject
from redteam.testing.outcome import Check
from redteam.testing.scenarios import ScenarioSubject

KINDS: dict[str, Registry[Any]] = {kind: REGISTRIES[kind] for kind in CONTRACTED}
"""The kinds of plugins that have a contract."""

_SUBJECTS: dict[str, type[Tried[Any]]] = {
    "attack": AttackSubject,
    "defense": DefenseSubject,
    "merger": MergerSubject,
    "scenario": ScenarioSubject,
}

Plugin = str | Reference | LoadedPlugin[Any] | Callable[..., Any]
"""How a plugin can be given: as it is written on the shell, loaded, or as the function itself."""


def checks_for(plugin: Plugin, *, kind: str | None = None) -> tuple[Check, ...]:
    """The checks of a plugin's contract; nothing has run yet. They share what they try, so run them in order.

    Args:
        plugin: As it is written on the shell (`path/to/file.py@name:setting=value`), loaded, or the function.
        kind: `"attack"`, `"defense"`, `"merger"` or `"scenario"`, where a registered name is taken by several.

    Raises:
        UnknownName: If there is no such plugin.
        BadInput: If it cannot be loaded, has no contract, or the name is taken by several kinds.
        PluginFault: If it cannot be imported.
    """
    loaded = plugins(plugin, kind=kind)
    if len(loaded) > 1:
        kinds = " and ".join(one.spec.kind for one in loaded)
        raise BadInput(f"{plugin} is the name of {kinds}; say which with kind=….")
    return _checks(loaded[0])


def plugins(plugin: Plugin, *, kind: str | None = None) -> tuple[LoadedPlugin[Any], ...]:
    """The plugins of that name that have a contract, loaded: a name can be that of an attack and of a defense.

    Raises:
        RedteamError: As `checks_for`.
    """
    if isinstance(plugin, LoadedPlugin):
        return (plugin,)
    if isinstance(plugin, (str, Reference)):
        reference = Reference.parse(plugin) if isinstance(plugin, str) else plugin
        return tuple(KINDS[each].load(reference) for each in _kinds(reference) if kind in (None, each))
    spec = spec_of(plugin)
    if spec is None or spec.kind not in KINDS:
        raise BadInput(f"{plugin!r} is no plugin with a contract; expected a function under {' or '.join(_at())}.")
    file = inspect.getsourcefile(plugin)
    reference = Reference(f"{file}@{spec.name}" if file and file.endswith(".py") else spec.name)
    origin = str(Path(file).resolve()) if file and file.endswith(".py") else ""
    return (LoadedPlugin(spec.name, plugin, spec, bind(plugin, {}), "", origin, reference),)


def prepare(plugin: LoadedPlugin[Any]) -> None:
    """Makes what a plugin is tried on, and imports what that takes, so that no time of the plugin's goes into it."""
    subject_of(plugin).prepare()


def subject_of(plugin: LoadedPlugin[Any]) -> Tried[Any]:
    """The plugin on what it is tried on.

    Raises:
        BadInput: If its kind has no contract, or none that is tried on adapters.
    """
    if plugin.spec.kind not in _SUBJECTS:
        raise BadInput(f"A {plugin.spec.kind} has no contract to check; expected an {_either()}.")
    if getattr(plugin.spec, "factors", False):
        raise BadInput(
            f"{plugin.name} rewrites the factors of an adapter, and the contract is tried on whole models; try it with "
            f"redteam {'protect' if plugin.spec.kind == 'defense' else 'attack'} on an adapter."
        )
    return _SUBJECTS[plugin.spec.kind](plugin)


def _kinds(reference: Reference) -> tuple[str, ...]:
    if not reference.file:
        return kinds_of(reference.name)
    specs = [spec for value in vars(module_from(Path(reference.file))).values() if (spec := spec_of(value))]
    found = [spec.kind for spec in specs if spec.name == reference.plugin]
    known = {spec.name for spec in specs if spec.kind in KINDS}
    kinds = tuple(kind for kind in dict.fromkeys(found) if kind in KINDS)
    if not kinds:
        raise UnknownName.among(f"{_either()} in {reference.file}", reference.plugin, known)
    return kinds


def _either() -> str:
    *most, last = KINDS
    return f"{', '.join(most)} or {last}"


def _at() -> tuple[str, ...]:
    return tuple(f"@{kind}" for kind in KINDS)


def _checks(plugin: LoadedPlugin[Any]) -> tuple[Check, ...]:
    elsewhere.start()  # it takes seconds to be ready, and is asked last
    return _made(_Same(plugin))


class _Same:
    """A plugin, equal to itself loaded again, so that tests that each load it share what was tried."""

    def __init__(self, plugin: LoadedPlugin[Any]) -> None:
        self.plugin = plugin
        self._identity = (plugin.spec.kind, plugin.canonical, plugin.source_digest, plugin.origin, plugin.function)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


@lru_cache(maxsize=4)
def _made(same: _Same) -> tuple[Check, ...]:
    return tuple(subject_of(same.plugin).checks())
