"""Where plugins come from: entry points of installed packages, and single files.

One generic registry per kind. Nothing is imported until a plugin is loaded; `listing` reads sources only. The
built-in plugins enter by the same entry points as a stranger's.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from redteam.errors import BadInput, PluginFault, RedteamError, UnknownName
from redteam.plugins.contracts import AttackSpec, DefenseSpec, MergerSpec, ReportSpec, ScenarioSpec, Spec, spec_of
from redteam.plugins.files import SNAPSHOT, import_file, located, read_plugin_file
from redteam.plugins.reference import Reference, parse_chain
from redteam.plugins.settings import bind, unknown_setting
from redteam.plugins.source import decoration_in, digest_of, first_line, locate, parameters_in

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Listed:
    """What is known of a plugin without importing it.

    Attributes:
        kind: `"attack"`, `"defense"`, …
        name: The name in its entry point.
        package: The distribution that provides it.
        summary: First line of its module's docstring.
    """

    kind: str
    name: str
    package: str
    summary: str


@dataclass(frozen=True)
class Found(Generic[S]):
    """A plugin that was imported, before its settings are bound.

    Attributes:
        function: The plain function.
        spec: What it says about itself.
        source_digest: SHA-256 of its source as it was imported here, and of what it imports (`redteam.plugins.source`).
        origin: The distribution that provides it, or the file's path.
    """

    function: Callable[..., Any]
    spec: S
    source_digest: str
    origin: str


@dataclass(frozen=True)
class LoadedPlugin(Generic[S]):
    """A plugin with its settings bound, ready to be called with a view.

    Attributes:
        name: Its name; for one in a file `path/to/file.py@name`, as written.
        function: The plain function.
        spec: What it says about itself.
        settings: Every setting with its value, those left out included.
        source_digest: SHA-256 of its source as it was imported here, and of what it imports (`redteam.plugins.source`).
        origin: The distribution that provides it, or the file's path.
    """

    name: str
    function: Callable[..., Any]
    spec: S
    settings: Mapping[str, Any]
    source_digest: str
    origin: str
    reference: Reference = field(compare=False)

    @property
    def canonical(self) -> str:
        """Name and all settings in one text; two plugins that would behave alike have the same."""
        return str(Reference(self.name, self.settings))

    def __call__(self, *views: Any) -> Any:
        """Calls the function with the bound settings."""
        return self.function(*views, **self.settings)


class Registry(Generic[S]):
    """All plugins of one kind.

    Args:
        group: The group of entry points, for example `"redteam.attacks"`.
        spec: The class of spec that its plugins carry.
        readers: The group of entry points from an extension to the plugin that reads such files, its setting `file`;
            empty where plugins of this kind read none.
    """

    def __init__(self, group: str, spec: type[S], *, readers: str = "") -> None:
        self.group = group
        self.spec = spec
        self.readers = readers

    @property
    def kind(self) -> str:
        """What its plugins are called: `"attack"`, `"defense"` and so on."""
        return self.spec.kind

    @property
    def names(self) -> tuple[str, ...]:
        """Every registered name, sorted."""
        return tuple(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def names_where(self, holds: Callable[[S], bool]) -> tuple[str, ...]:
        """Names of those whose spec passes a check, sorted, for defaults and hints.

        All are imported; what cannot be is passed over, since whoever asks did not ask for it.
        """
        found = []
        for name in self.names:
            with suppress(RedteamError):
                if holds(self.find(Reference(name)).spec):
                    found.append(name)
        return tuple(found)

    def listing(self) -> tuple[Listed, ...]:
        """What is registered, sorted by name, without importing any of it; a name taken twice is listed twice."""
        return tuple(
            Listed(self.kind, name, package_of(entry), first_line(locate(entry.module)))
            for name in self.names
            for entry in self._entries[name]
        )

    def load(self, reference: Reference | str, *, folder: Path | None = None) -> LoadedPlugin[S]:
        """Imports a plugin and binds its settings.

        The same text gives the same plugin in another process.

        Args:
            reference: What the user wrote.
            folder: Where relative paths of files start; by default the working directory.

        Raises:
            UnknownName: If there is no such plugin or setting.
            BadSetting: If a setting is of the wrong type or out of range.
            BadInput: If the reference or the file cannot be read, or two packages provide the name.
            PluginFault: If the plugin cannot be imported or is none of this kind.
        """
        if isinstance(reference, str):
            # A report's name is an extension, which may have dots in it and then is no reference.
            reference = Reference(reference) if reference in self else Reference.parse(reference)
        found = self.find(reference, folder=folder)
        # Writers of reports have no settings; their arguments are those of the program.
        given = {**reference.settings, **({"file": found.origin} if reference.is_data else {})}
        settings = {} if isinstance(found.spec, ReportSpec) else bind(found.function, given)
        return LoadedPlugin(
            reference.name, found.function, found.spec, settings, found.source_digest, found.origin, reference
        )

    def require(self, reference: Reference, *, folder: Path | None = None) -> None:
        """Says what `load` would say of names, without importing anything that takes long.

        Names of settings are read in the source, their values are not looked at. What reads a file is imported, since
        it alone can tell what should stand in there.

        Raises:
            UnknownName: If there is no such plugin, or it has no such setting.
            BadInput: If a file is not there, or cannot be used.
        """
        if reference.is_data:
            plugin = self.load(reference, folder=folder)
            if isinstance(plugin.spec, ScenarioSpec) and plugin.spec.state is not None:
                plugin.spec.state(**plugin.settings)
        elif reference.file:
            read_plugin_file((folder or Path()) / Path(reference.file).expanduser(), reference.file)
        else:
            entry = self._entry(reference.name)
            known = parameters_in(locate(entry.module), entry.attr)
            for key in reference.settings:
                if known is not None and key not in known:
                    raise unknown_setting(reference.name, key, known)

    def require_all(self, text: str, *, folder: Path | None = None) -> None:
        """`require`, of every link of a chain `a+b`."""
        for reference in parse_chain(text):
            self.require(reference, folder=folder)

    def decorations(self, text: str) -> tuple[dict[str, str], ...]:
        """What each link of a chain `a+b` says of itself: keyword → source of its value; nothing of one in a file.

        Nothing is imported for it, so that a command can say at once what it lacks; `Spec` has the last word.

        Raises:
            UnknownName: If there is no such plugin.
        """
        links = [link for link in parse_chain(text) if not link.file and not link.is_data]
        entries = [self._entry(link.name) for link in links]
        return tuple(decoration_in(locate(entry.module), entry.attr) for entry in entries)

    def find(self, reference: Reference, *, folder: Path | None = None) -> Found[S]:
        """Imports a plugin and leaves its settings alone; see `load`."""
        if reference.is_data:
            return self._reader_of(reference, folder or Path())
        if reference.file:
            return self._from_file(reference, folder or Path())
        return self._from_entry(reference)

    def reader(self, suffix: str) -> Found[S] | None:
        """The plugin that reads files of a suffix such as `".toml"`, imported; `None` if there is none."""
        entries = importlib.metadata.entry_points(group=self.readers) if self.readers else ()
        names = [entry.value for entry in entries if entry.name == suffix.removeprefix(".")]
        return self._from_entry(Reference(names[0])) if names else None

    @cached_property
    def _entries(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        found: dict[str, list[importlib.metadata.EntryPoint]] = {}
        for entry in importlib.metadata.entry_points(group=self.group):
            found.setdefault(entry.name, []).append(entry)
        return found

    def _reader_of(self, reference: Reference, folder: Path) -> Found[S]:
        """The plugin that reads such a file; its origin is the file."""
        path = (folder / Path(reference.file).expanduser()).resolve()
        reader = self.reader(path.suffix)
        if reader is None:
            raise BadInput(f"{reference.file} names a file where the name of {_article(self.kind)} is expected.")
        if not path.is_file():
            raise BadInput(f"There is no {self.kind} {reference.file}; name a file that there is.")
        return replace(reader, origin=str(path))

    def _entry(self, name: str) -> importlib.metadata.EntryPoint:
        entries = self._entries.get(name)
        if not entries:
            raise UnknownName.among(self.kind, name, self.names)
        if len(entries) > 1:
            packages = " and ".join(sorted(package_of(entry) for entry in entries))
            raise BadInput(f"The {self.kind} {name!r} is provided by both {packages}; uninstall or rename one of them.")
        return entries[0]

    def _from_entry(self, reference: Reference) -> Found[S]:
        entry = self._entry(reference.name)
        with SNAPSHOT.steady(f"the {self.kind} {reference.name!r}"):
            digest = _digest(entry.module, locate(entry.module))
            try:
                function: Any = importlib.import_module(entry.module)
                for attribute in entry.attr.split("."):
                    function = getattr(function, attribute)
            except Exception as error:
                raise PluginFault(
                    f"The {self.kind} {reference.name!r} of {package_of(entry)} cannot be imported: "
                    f"{located(error, '')}."
                ) from error
        spec = self._checked(reference.name, function, f"{entry.value} of {package_of(entry)}")
        if spec.name != reference.name:
            raise PluginFault(f"The {self.kind} {reference.name!r} calls itself {spec.name!r}; use one name in both.")
        return Found(function, spec, digest, package_of(entry))

    def _from_file(self, reference: Reference, folder: Path) -> Found[S]:
        file = folder / Path(reference.file).expanduser()
        imported = import_file(file, shown=reference.file)
        found = {
            spec.name: value
            for value in vars(imported.module).values()
            if isinstance(spec := spec_of(value), self.spec)
        }
        if reference.plugin not in found:
            raise UnknownName.among(f"{self.kind} in {reference.file}", reference.plugin, found)
        function = found[reference.plugin]
        spec = self._checked(reference.plugin, function, reference.file)
        return Found(function, spec, imported.digest, str(file.resolve()))

    def _checked(self, name: str, function: object, where: str) -> S:
        spec = spec_of(function)
        if spec is None and self.spec is ReportSpec and callable(function):
            spec = ReportSpec(name=name)
        if not callable(function) or not isinstance(spec, self.spec):
            raise PluginFault(f"{where} is no {self.kind}; expected a function under @{self.kind}({name!r}, …).")
        return spec


@lru_cache(maxsize=1024)
def _digest(module: str, file: Path | None) -> str:
    """Once per process and file, as Python imports a module once."""
    return digest_of(module, SNAPSHOT)


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def package_of(entry: importlib.metadata.EntryPoint) -> str:
    """The name of the distribution that an entry point belongs to."""
    return entry.dist.name if entry.dist is not None else "an unknown package"


ATTACKS = Registry("redteam.attacks", AttackSpec)
DEFENSES = Registry("redteam.defenses", DefenseSpec)
MERGERS = Registry("redteam.mergers", MergerSpec)
SCENARIOS = Registry("redteam.scenarios", ScenarioSpec, readers="redteam.scenario_files")
REPORTS = Registry("redteam.reports", ReportSpec)
AUDIT_REPORTS = Registry("redteam.audit_reports", ReportSpec)
"""Writers of audits, by extension, as `REPORTS` are of results; no kind of plugin of their own."""
DIFF_REPORTS = Registry("redteam.diff_reports", ReportSpec)
"""And of what `redteam diff` found."""
SEARCH_REPORTS = Registry("redteam.search_reports", ReportSpec)
"""Writers of what a search found, likewise."""
DEFENSE_SEARCH_REPORTS = Registry("redteam.defense_search_reports", ReportSpec)
"""Writers of what a search for a defense found."""
REGISTRIES: Mapping[str, Registry[Any]] = {
    registry.kind: registry for registry in (SCENARIOS, DEFENSES, ATTACKS, MERGERS, REPORTS)
}
CONTRACTED = ("attack", "defense", "merger", "scenario")
"""The kinds of plugins that have a contract to be held to."""


def kinds_of(name: str, kinds: Sequence[str] = CONTRACTED) -> tuple[str, ...]:
    """In which of some kinds a name is registered: the same can be that of an attack and of a defense.

    Raises:
        UnknownName: If it is in none.
    """
    found = tuple(kind for kind in kinds if name in REGISTRIES[kind])
    if not found:
        known = {one for kind in kinds for one in REGISTRIES[kind]}
        raise UnknownName.among(f"{', '.join(kinds[:-1])} or {kinds[-1]}", name, known)
    return found
