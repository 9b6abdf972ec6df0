from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
PACKS = [ROOT / f"{room}/redteam_{room}" for room in ("attacks", "defenses", "reports", "scenarios")]


def tracked() -> list[Path]:
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_entry_points_as_installed_are_those_declared() -> None:
    declared = {
        (group, name, value)
        for group, items in PROJECT["project"]["entry-points"].items()
        for name, value in items.items()
    }
    installed = {(e.group, e.name, e.value) for e in distribution("merge-redteam").entry_points}
    assert installed - {("console_scripts", "redteam", "redteam.cli.main:main")} == declared


KINDS = ("attack", "defense", "merger", "scenario")


def plugins_in(source: str) -> dict[str, tuple[str, str]]:
    """Function → kind and name of the plugin, of the functions that a module decorates as plugins."""
    found = {}
    for node in ast.parse(source).body:
        for call in getattr(node, "decorator_list", ()) if isinstance(node, ast.FunctionDef) else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in KINDS:
                found[node.name] = (call.func.id, ast.literal_eval(call.args[0]))
    return found


def test_every_plugin_of_the_packs_is_declared_under_its_name() -> None:
    """A decorated function that no entry point names would be missing without a word."""
    written = set()
    for pack in PACKS:
        for path in pack.rglob("*.py"):
            module = ".".join(path.relative_to(pack.parent).with_suffix("").parts).removesuffix(".__init__")
            found = plugins_in(path.read_text(encoding="utf-8"))
            written |= {(f"redteam.{kind}s", name, f"{module}:{func}") for func, (kind, name) in found.items()}
    entries = PROJECT["project"]["entry-points"]
    groups = [f"redteam.{kind}s" for kind in KINDS]
    assert written == {(group, name, value) for group in groups for name, value in entries[group].items()}


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_packs_begin_empty(pack: Path) -> None:
    assert (pack / "__init__.py").read_text() == ""


@pytest.mark.parametrize("file", [f for pack in PACKS for f in pack.rglob("*.py")], ids=lambda f: f.name)
def test_packs_import_slow_libraries_only_in_functions(file: Path) -> None:
    slow = {"transformers", "sklearn", "matplotlib", "PIL", "ot", "open_clip", "mlflow", "optuna", "ray"}
    for node in ast.parse(file.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not slow & {name.partition(".")[0] for name in names}, ast.unparse(node)


def test_every_package_in_the_lock_is_pinned_and_hashed() -> None:
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==\S+", entry)
        assert "--hash=sha256:" in entry


def test_the_lock_holds_what_is_declared_and_what_installs_it() -> None:
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", LOCK, flags=re.MULTILINE))
    wanted = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    for extra in ("mlflow", "open-clip", "optuna", "peft"):
        wanted += PROJECT["project"]["optional-dependencies"][extra]
    assert {re.match(r"[A-Za-z0-9_-]+", each).group() for each in wanted} <= pinned  # type: ignore[union-attr]
    assert {"uv", "hatchling", "editables"} <= pinned


def test_the_lock_names_no_index_and_no_machine() -> None:
    assert "://" not in LOCK
    assert "--index" not in LOCK.replace("--no-emit-index-url", "")
    assert not re.search(r"\s/\w", LOCK)


def test_scripts_can_be_run() -> None:
    for script in (ROOT / ".ci/run", ROOT / "tools/setup.sh"):
        assert script.stat().st_mode & 0o111
        assert script.read_text().startswith("#!")


def test_no_file_is_large() -> None:
    sizes = [file.stat().st_size for file in tracked()]
    assert max(sizes) < 1_000_000
    assert sum(sizes) < 15_000_000  # weights of digits 4.3 MB, reference runs 3.2


def test_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"
