"""Plugins in single files: read once, imported from what was read, together with the modules that lie beside them.

A file is imported into a package of its own, whose name is made of its content. What it imports from its own folder
(`import helper`, `from . import helper`) becomes part of that package: two folders may each have a `helper.py`, an
edited one is imported anew, and the digest is that of the very bytes that run.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from redteam.errors import BadInput, PluginFault
from redteam.plugins.source import (
    ENGINE,
    Import,
    Read,
    digest_over,
    imports_in,
    inside,
    locate,
    sources,
    unversioned,
)


class Snapshot:
    """Reads each file once per process, as Python imports each module once, so that digests stay those of what runs."""

    def __init__(self) -> None:
        self._contents: dict[Path, bytes] = {}

    def __call__(self, file: Path) -> bytes:
        """The file's content when it was first asked for."""
        if file not in self._contents:
            self._contents[file] = file.read_bytes()
        return self._contents[file]

    @contextlib.contextmanager
    def steady(self, what: str) -> Iterator[None]:
        """Refuses what is imported in the block if a file that was read for it, just before or meanwhile, has changed.

        Raises:
            PluginFault: If so.
        """
        before = set(self._contents)
        yield
        for file in set(self._contents) - before:
            if file.read_bytes() != self._contents[file]:
                raise PluginFault(f"{file.name} was edited while {what} was imported; start again.")


SNAPSHOT = Snapshot()
"""What was read of modules that Python itself imports."""


@dataclass(frozen=True)
class PluginFile:
    """A file that was imported.

    Attributes:
        module: The module.
        digest: SHA-256 of what was imported: the file, what lies beside it, and what else counts of what they import.
    """

    module: ModuleType
    digest: str


def import_file(file: Path, *, shown: str = "") -> PluginFile:
    """Imports a Python file by its path, anew whenever it, or a module beside it that it imports, has changed.

    Args:
        file: The file.
        shown: What errors call it.

    Raises:
        BadInput: If it is no readable file.
        PluginFault: If running it raises.
    """
    shown = shown or str(file)
    content = read_plugin_file(file, shown)
    own = file.stem.replace(".", "_")
    parts = _gathered(file, own, content)
    digest = digest_over({name if name != own else "": part.source for name, part in parts.items()})
    package = f"redteam_file_{hashlib.sha256(os.fsencode(file.resolve()) + digest.encode()).hexdigest()[:16]}"
    module, path = f"{package}.{own}", list(sys.path)
    if module not in sys.modules:
        _FINDER.add(package, parts)
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:
            for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
                del sys.modules[name]
            raise PluginFault(f"The plugin file {shown!r} cannot be imported: {located(error, str(file))}.") from error
    if path != sys.path:
        locate.cache_clear()  # the file knows of more folders than we did
        unversioned.cache_clear()
    return PluginFile(sys.modules[module], digest_over({"": digest.encode(), **_elsewhere(parts)}))


def read_plugin_file(file: Path, shown: str) -> bytes:
    """The content of a Python file.

    Raises:
        BadInput: If it is no readable file.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BadInput(
            f"Cannot read the plugin file {shown!r} ({error.strerror}); write path/to/file.py@name."
        ) from None
    if file.suffix != ".py":
        raise BadInput(f"The plugin file {shown!r} is no Python file; its name must end in .py.")
    return content


def sources_of(file: Path) -> dict[str, bytes]:
    """A file that a plan names and, where it is Python, the modules beside it that it imports, however indirectly.

    Args:
        file: A plugin's file, or one that a plugin reads.

    Returns:
        Path below the file's folder, with slashes → content.

    Raises:
        OSError: If one of them cannot be read.
    """
    content = file.read_bytes()
    if file.suffix != ".py":
        return {file.name: content}
    parts = _gathered(file, file.stem.replace(".", "_"), content)
    return {one.file.relative_to(file.parent).as_posix(): one.source for one in parts.values() if one.file.is_file()}


def module_from(file: Path, *, shown: str = "") -> ModuleType:
    """The module of a Python file; see `import_file`."""
    return import_file(file, shown=shown).module


def located(error: BaseException, file: str) -> str:
    """`ValueError: text (line 3)`, the line being that of the given file, or file and line of where it was raised."""
    text = " ".join(str(error).split())
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError):
        elsewhere = f"{Path(error.filename).name}, " if error.filename and error.filename != file else ""
        return f"{type(error).__name__}: {error.msg} ({elsewhere}line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    if own:
        return f"{told} (line {own[-1].lineno})"
    if frames and not file:
        with contextlib.suppress(IndexError):
            last = [frame for frame in frames if not frame.filename.startswith("<frozen")][-1]
            return f"{told} ({Path(last.filename).name}, line {last.lineno})"
    return told


@dataclass(frozen=True)
class _Part:
    """One module of a file's package: where it was read, what was read (nothing for a folder), and its kind."""

    file: Path
    source: bytes
    package: bool
    beside: frozenset[str]
    """Names of modules that it imports as if they were on the path, and that lie beside the plugin's file."""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives Python what was read of a plugin's file and of the modules beside it."""

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}

    def add(self, package: str, parts: Mapping[str, _Part]) -> None:
        self._parts |= {f"{package}.{name}".rstrip("."): part for name, part in parts.items()}
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        part = self._parts.get(fullname)
        if part is None:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=str(part.file), is_package=part.package)
        spec.has_location = True
        return spec

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        part = self._parts[name]
        # Parsed here, so that a stale cached bytecode never stands in for a file that was just edited.
        tree: Any = _Moved(name.partition(".")[0], part.beside).visit(ast.parse(part.source, str(part.file)))
        exec(compile(ast.fix_missing_locations(tree), str(part.file), "exec", dont_inherit=True), vars(module))


class _Moved(ast.NodeTransformer):
    """Imports of modules beside the file, as imports from its package."""

    def __init__(self, package: str, beside: frozenset[str]) -> None:
        self._package, self._beside = package, beside

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        for alias in node.names:
            top, dot, _ = alias.name.partition(".")
            if top not in self._beside:
                made.append(ast.Import([alias]))
                continue
            full = f"{self._package}.{alias.name}"
            if dot and not alias.asname:  # `import a.b` imports both and calls the first one `a`
                made.append(ast.Import([ast.alias(full)]))
                full = f"{self._package}.{top}"
            made.append(ast.Import([ast.alias(full, alias.asname or top)]))
        return [ast.copy_location(one, node) for one in made]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        module = node.module or ""
        if node.level or module.partition(".")[0] not in self._beside:
            return node
        return ast.copy_location(ast.ImportFrom(f"{self._package}.{module}", node.names, 0), node)


_FINDER = _Finder()


def _gathered(file: Path, own: str, content: bytes) -> dict[str, _Part]:
    """The package that holds the file, and the modules that it imports from its folder, however indirectly."""
    found = {"": _Part(file.parent, b"", package=True, beside=frozenset())}
    pending = [(own, file, content)]
    while pending:
        name, path, source = pending.pop()
        if name in found:
            continue
        package = path.name == "__init__.py" or path.is_dir()
        imports = [one for one in imports_in(source) if not one.typing]
        beside = frozenset(
            top for one in imports if not one.level and _is_beside(top := one.module.partition(".")[0], file.parent)
        )
        found[name] = _Part(path, source, package, beside)
        for one in imports:
            if not one.level and one.module.partition(".")[0] not in beside:
                continue
            for other in _asked(one, name, package):
                place = _below(file.parent, other)
                if other not in found and place is not None:
                    pending.append((other, place, place.read_bytes() if place.is_file() else b""))
    return found


def _is_beside(top: str, folder: Path) -> bool:
    """Whether a name that is imported as if it were on the path is that of a module in the folder.

    As with Python's own scripts, the folder comes before installed packages, but a folder without `__init__.py`, which
    need be no module at all, comes after them.
    """
    if not top or top in sys.stdlib_module_names or top == ENGINE:
        return False
    place = inside(folder, top)
    return place is not None and (place.is_file() or (locate(top) is None and any(place.glob("*.py"))))


def _asked(one: Import, name: str, package: bool) -> Iterator[str]:
    """What an import asks for, as names below the file's package, with all packages around it."""
    around = name.split(".") if name else []
    if not package:
        around = around[:-1]
    if one.level > len(around) + 1:
        return
    base = (around[: len(around) - one.level + 1] if one.level else []) + (one.module.split(".") if one.module else [])
    full = [*base, *([one.name] if one.name else [])]
    for length in range(1, len(full) + 1):
        yield ".".join(full[:length])


def _below(folder: Path, name: str) -> Path | None:
    *packages, last = name.split(".")
    place = inside(folder.joinpath(*packages), last)
    return place if place is None or place.is_dir() or place.suffix == ".py" else None


def _elsewhere(parts: Mapping[str, _Part], read: Read = SNAPSHOT) -> dict[str, bytes]:
    """What counts of the other modules that the parts import: the engine's, and those without a version."""
    asked = {
        (one.module, one.name)
        for part in parts.values()
        for one in imports_in(part.source)
        if not one.level and not one.typing and (top := one.module.partition(".")[0]) not in part.beside
        if top == ENGINE or unversioned(top)
    }
    return sources(asked, read)
