"""A plugin's source: where it lies, its first line of documentation, and a digest, all without importing it.

A digest follows imports. Within the plugin's own package, and in code that no version number stands for (it lies
outside the interpreter's library folders), every module that is imported counts, however indirectly. So do the modules
of the engine that it reaches, but for those that only find plugins or phrase messages (`WORDS`).

Two assumptions, which the engine's own modules keep: what decides a number is imported by a statement, and a module
does nothing by being imported alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ENGINE = "redteam"
"""The package whose modules are followed name by name through the `__init__` that re-exports them."""

WORDS: Mapping[str, str] = {
    "redteam.errors": "sentences for users",
    "redteam.events": "tells how far work is",
    "redteam.terminal": "prints how far work is",
    "redteam.checkpoint.companion_files": "config, tokenizer and card beside weights; no tensor goes through it",
    "redteam.plugins.reference": "reads what the user wrote; the settings that come of it stand in every cell's name",
    "redteam.plugins.settings": "fills in settings; their values stand in every cell's name",
    "redteam.plugins.registry": "finds plugins; the digest of what it finds stands in every cell's name",
    "redteam.plugins.files": "imports plugins in files; the digest of what it imports stands in every cell's name",
    "redteam.plugins.source": "computes these digests, which change if it computes them otherwise",
}
"""Modules of the engine on which no number depends, with the reason. What is not named here counts."""

VERSIONED = ("torch", "transformers", "numpy", "scipy")
"""Libraries whose versions stand in every cell's name; their sources are never followed."""

Read = Callable[[Path], bytes]


@lru_cache(maxsize=1024)
def locate(module: str) -> Path | None:
    """The file or folder that an import of `module` would read, `None` if there is none or it is no source.

    Unlike `importlib.util.find_spec`, it runs no parent package's `__init__`, so that listing never imports torch.
    A package gives its `__init__.py`, a folder without one the folder.
    """
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = Path(spec.origin) if spec.origin and spec.has_location else (folders[0] if folders else None)
    for name in rest:
        found = next((file for folder in folders if (file := inside(folder, name)) is not None), None)
        if found is None:
            return None
        folders = [folder / name for folder in folders]
    return found if found is not None and (found.is_dir() or found.suffix == ".py") else None


def inside(folder: Path, name: str) -> Path | None:
    """What an import of `name` from a package in this folder would read."""
    for candidate in (folder / name / "__init__.py", folder / f"{name}.py", folder / name):
        if candidate.exists():
            return candidate
    return None


def first_line(file: Path | None) -> str:
    """The first line of the docstring of a Python file, empty if there is none or the file can't be read."""
    if file is None:
        return ""
    try:
        documentation = ast.get_docstring(ast.parse(file.read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return ""
    return (documentation or "").partition("\n")[0].strip()


def parameters_in(file: Path | None, function: str) -> tuple[str, ...] | None:
    """The keyword-only parameters of a function at the top of a Python file; `None` where it is not written there."""
    found = _function_in(file, function)
    return None if found is None else tuple(argument.arg for argument in found.args.kwonlyargs)


def decoration_in(file: Path | None, function: str) -> dict[str, str]:
    """The keywords of the decorators of such a function → the source of their values; empty where there are none."""
    found = _function_in(file, function)
    calls = [call for call in (found.decorator_list if found else ()) if isinstance(call, ast.Call)]
    return {keyword.arg: ast.unparse(keyword.value) for call in calls for keyword in call.keywords if keyword.arg}


def _function_in(file: Path | None, function: str) -> ast.FunctionDef | None:
    try:
        tree = ast.parse(file.read_bytes()) if file is not None else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):
        return None
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    return found[-1] if found else None


@dataclass(frozen=True)
class Import:
    """One name that a statement imports.

    Attributes:
        module: As written, without the leading dots.
        name: The name taken from it, empty where the module itself is imported.
        bound: What the importing module calls it.
        level: How many dots were in front.
        typing: Whether it stands under `if TYPE_CHECKING` and is never executed.
    """

    module: str
    name: str
    bound: str
    level: int
    typing: bool

    def absolute(self, package: str) -> str:
        """The module's full name, seen from a package."""
        if not self.level:
            return self.module
        parts = package.split(".")
        return ".".join([*parts[: len(parts) - self.level + 1], *([self.module] if self.module else [])])


@lru_cache(maxsize=4096)
def imports_in(source: bytes) -> tuple[Import, ...]:
    """Every import of a Python file, also those inside functions; none if it cannot be parsed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()
    found: list[Import] = []
    for node, typing in _statements(tree.body, typing=False):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, "", alias.asname or alias.name, 0, typing) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [
                Import(node.module or "", alias.name, alias.asname or alias.name, node.level, typing)
                for alias in node.names
            ]
    return tuple(found)


def digest_of(module: str, read: Read = Path.read_bytes) -> str:
    """SHA-256 over a module and what it imports, as this module's documentation says.

    Args:
        module: The module's full name.
        read: How files are read.

    Returns:
        64 hexadecimal digits.
    """
    return digest_over(sources([(module, "")], read))


def digest_over(contents: Mapping[str, bytes]) -> str:
    """SHA-256 over named contents, whatever their order."""
    total = hashlib.sha256()
    for name in sorted(contents):
        total.update(f"{name}\0{len(contents[name])}\0".encode() + contents[name])
    return total.hexdigest()


def sources(asked: Iterable[tuple[str, str]], read: Read = Path.read_bytes) -> dict[str, bytes]:
    """What is imported by `from module import name`, or `import module` where the name is empty, and all that counts.

    Args:
        asked: Pairs of a module and a name.
        read: How files are read.

    Returns:
        Full name of a module → its source, empty where there is none to read.
    """
    found, engine = dict[str, bytes](), set[str]()
    own, pending = {module.partition(".")[0] for module, _ in asked} - {ENGINE}, list(asked)
    while pending:
        module, name = pending.pop()
        top = module.partition(".")[0]
        if top == ENGINE:
            engine |= _named(module, name, read)
        if top == ENGINE or not (top in own or unversioned(top)):
            continue
        for each in (*_parents(module), module, *([f"{module}.{name}"] if name else [])):
            file = locate(each)
            if each in found or (file is None and each != module):
                continue
            found[each] = read(file) if file is not None and file.is_file() else b""
            pending += [
                (one.absolute(_package(each, file)), one.name) for one in imports_in(found[each]) if not one.typing
            ]
    return found | {name: read(file) for name, file in engine_modules(engine, read).items() if name not in WORDS}


def engine_modules(roots: Iterable[str], read: Read = Path.read_bytes) -> dict[str, Path]:
    """The engine's modules that the given ones import, however indirectly, they and their packages included.

    A name that a package re-exports leads to the module that defines it alone.

    Args:
        roots: Full names of modules.
        read: How files are read.
    """
    pending, followed, found = list(roots), set[str](), dict[str, Path]()
    while pending:
        name = pending.pop()
        file = locate(name)
        if name in followed or file is None or not file.is_file():
            continue
        followed.add(name)
        for around in (name, *_parents(name)):
            if (place := locate(around)) is not None and place.is_file():
                found[around] = place
        for one in imports_in(read(file)):
            target = one.absolute(_package(name, file))
            # A package can import on demand, in `__getattr__`, what it tells type checkers about.
            if target.partition(".")[0] == ENGINE and (not one.typing or file.name == "__init__.py"):
                pending.extend(_named(target, one.name, read))
    return found


@lru_cache(maxsize=256)
def unversioned(top: str) -> bool:
    """Whether a top-level package is code that can change without its version: it lies outside library folders."""
    if top in VERSIONED or top == ENGINE:
        return False
    file = locate(top)
    libraries = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return file is not None and not (
        {"site-packages", "dist-packages"} & set(file.parts) or any(file.is_relative_to(one) for one in libraries)
    )


def _named(module: str, name: str, read: Read) -> set[str]:
    """The modules of the engine that `from module import name` leads to."""
    if name and locate(f"{module}.{name}") is not None:
        return {f"{module}.{name}"}
    file = locate(module)
    if file is not None and file.name == "__init__.py":
        for one in imports_in(read(file)):
            target = one.absolute(module)
            if one.name and one.bound == name and target != module and target.partition(".")[0] == ENGINE:
                return _named(target, one.name, read)
    return {module}


def _statements(body: Iterable[ast.AST], *, typing: bool) -> Iterator[tuple[ast.AST, bool]]:
    for node in body:
        yield node, typing
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        yield from _statements(getattr(node, "body", ()), typing=typing or guarded)
        for part in ("orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, part, ()), typing=typing)


def _package(module: str, file: Path | None) -> str:
    return module if file is not None and file.name == "__init__.py" else module.rpartition(".")[0]


def _parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    for length in range(1, len(parts)):
        yield ".".join(parts[:length])
