from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from redteam.errors import BadInput, PluginFault
from redteam.plugins.contracts import AttackSpec
from redteam.plugins.files import Snapshot, import_file
from redteam.plugins.registry import LoadedPlugin, Registry

OWN = """
from redteam import attack
{imports}

@attack("mine")
def mine(view):
    return {value}
"""


def load(folder: Path) -> LoadedPlugin[AttackSpec]:
    return Registry("redteam.attacks", AttackSpec).load("own.py@mine", folder=folder)


def write(folder: Path, **files: str) -> None:
    """Files by their names, `__` between folders; `a__` is the `__init__` of `a`."""
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/') + '__init__' * name.endswith('__')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


WAYS = {
    "import": ("import helper", "helper.VALUE"),
    "import as": ("import helper as other", "other.VALUE"),
    "from": ("from helper import VALUE", "VALUE"),
    "relative": ("from . import helper", "helper.VALUE"),
    "relative name": ("from .helper import VALUE", "VALUE"),
    "through another": ("import middle", "middle.helper.VALUE"),
    "inside a package": ("import folder.deep", "folder.deep.VALUE"),
    "from a package": ("from folder import deep", "deep.VALUE"),
    "of the package itself": ("from folder import VALUE", "VALUE"),
    "from a plain folder": ("from plain import deep", "deep.VALUE"),
    "in the function": (
        "",
        "__import__('sys') and value()\n\ndef value():\n    import helper\n    return helper.VALUE",
    ),
    "by sys.path": (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).parent))\nimport helper",
        "helper.VALUE",
    ),
    "elsewhere by sys.path": (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).parent / 'lib'))\nimport farther",
        "farther.VALUE",
    ),
}


def beside(folder: Path, value: int) -> None:
    text = f"VALUE = {value}\n"
    write(folder, helper=text, middle="from . import helper\n", lib__farther=text)
    write(folder, folder__="from .deep import VALUE\n", folder__deep=text, plain__deep=text)


@pytest.mark.parametrize("way", WAYS)
def test_what_lies_beside_a_file_is_imported_and_counts(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    imports, value = WAYS[way]
    write(tmp_path, own=OWN.format(imports=imports, value=value))
    beside(tmp_path, 1)
    plugin = load(tmp_path)
    assert plugin(None) == 1
    assert load(tmp_path).source_digest == plugin.source_digest
    assert load(tmp_path).function is plugin.function
    beside(tmp_path, 2)
    if way == "elsewhere by sys.path":
        sys.modules.pop("farther")  # Python keeps what it has imported; another process imports anew
        assert digest_elsewhere(tmp_path) != plugin.source_digest
        return
    edited = load(tmp_path)
    assert edited(None) == 2
    assert edited.source_digest != plugin.source_digest
    assert digest_elsewhere(tmp_path) == edited.source_digest
    assert plugin(None) == 1, "what was imported before stays what it was"


def digest_elsewhere(folder: Path) -> str:
    """The digest of the same plugin in a process of its own."""
    code = "import sys; from redteam.plugins.registry import ATTACKS; print(ATTACKS.load(sys.argv[1]).source_digest)"
    command = [sys.executable, "-c", code, f"{folder / 'own.py'}@mine"]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.strip()


def test_what_is_not_imported_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, own=OWN.format(imports="import helper", value="helper.VALUE"), helper="VALUE = 1\n", other="")
    before = load(tmp_path).source_digest
    write(tmp_path, other="X = 1\n", json="raise RuntimeError('not the one of Python itself')\n")
    assert load(tmp_path).source_digest == before


def test_two_folders_have_helpers_of_their_own(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2)):
        write(
            tmp_path / name, own=OWN.format(imports="import helper", value="helper.VALUE"), helper=f"VALUE = {value}\n"
        )
    assert [load(tmp_path / name)(None) for name in ("a", "b", "a")] == [1, 2, 1]
    assert "helper" not in sys.modules


@pytest.mark.parametrize("module", ["own", "helper"])
def test_the_digest_is_that_of_what_was_imported(tmp_path: Path, module: str) -> None:
    """A file that is edited while it is imported: here it edits itself, which comes after it was read."""
    edit = "from pathlib import Path\nPath(__file__).write_text(Path(__file__).read_text().replace('ONE', 'TWO'))\n"
    own = OWN.format(imports="from helper import VALUE", value="(VALUE, 'ONE')")
    write(tmp_path, own=own + edit * (module == "own"), helper="VALUE = 'ONE'\n" + edit * (module == "helper"))
    first, second = load(tmp_path), load(tmp_path)
    assert first(None) == ("ONE", "ONE")
    assert "TWO" in second(None)
    assert first.source_digest != second.source_digest


def test_a_module_that_changes_while_python_imports_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    snapshot = Snapshot()
    with snapshot.steady("this"):
        assert snapshot(tmp_path / "a.py") == b"1"
    (tmp_path / "a.py").write_text("2")
    assert snapshot(tmp_path / "a.py") == b"1", "Python would not import it again"
    (tmp_path / "b.py").write_text("1")

    def edited_meanwhile() -> None:
        with snapshot.steady("this"):
            snapshot(tmp_path / "b.py")
            (tmp_path / "b.py").write_text("2")

    with pytest.raises(PluginFault, match=r"b\.py was edited while this was imported"):
        edited_meanwhile()


def test_a_file_behaves_as_python_would_run_it(tmp_path: Path) -> None:
    text = '"""Own."""\nimport inspect\nfrom dataclasses import dataclass\n\n@dataclass\nclass Row:\n    x: int = 1\n'
    write(tmp_path, own=text + "ANNOTATION = Row.__annotations__['x']\nSOURCE = inspect.getsource(Row)\n")
    module = import_file(tmp_path / "own.py").module
    assert module.__doc__ == "Own."
    assert module.ANNOTATION is int
    assert module.SOURCE == "@dataclass\nclass Row:\n    x: int = 1\n"


def test_errors_name_the_place(tmp_path: Path) -> None:
    write(tmp_path, own=OWN.format(imports="import helper", value="1"), helper="x = 1\nx = (\n")
    before = set(sys.modules)
    with pytest.raises(PluginFault, match=r"'own.py' cannot be imported: SyntaxError: .* \(helper.py, line 2\)"):
        load(tmp_path)
    write(tmp_path, helper="raise ValueError('no')\n")
    with pytest.raises(PluginFault, match=r"ValueError: no \(line 3\)"):
        load(tmp_path)
    assert not [name for name in set(sys.modules) - before if name.startswith("redteam_file_")]
    write(tmp_path, helper="")
    assert load(tmp_path)(None) == 1
    (tmp_path / "own.txt").write_text("")
    with pytest.raises(BadInput, match=r"must end in \.py"):
        import_file(tmp_path / "own.txt")
