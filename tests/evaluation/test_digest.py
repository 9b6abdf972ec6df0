from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import redteam
from redteam.evaluation.digest import ROOT, engine_digest, engine_files, versions
from redteam.plugins.source import WORDS, engine_modules, locate

PACKAGE = Path(redteam.__file__).parent

EDITS = """
import json, sys
from pathlib import Path
from redteam.evaluation import digest
from redteam.plugins.files import SNAPSHOT

def fresh():
    SNAPSHOT._contents.clear()
    digest.engine_digest.cache_clear()
    return digest.engine_digest()

assert Path(digest.__file__).is_relative_to(sys.argv[1]), digest.__file__
before, changed = fresh(), {}
for name in json.load(sys.stdin):
    file = Path(sys.argv[1], name)
    content = file.read_bytes() if file.exists() else None
    file.write_bytes((content or b"") + b"\\n")
    changed[name] = fresh() != before
    file.unlink() if content is None else file.write_bytes(content)
assert fresh() == before
print(json.dumps(changed))
"""


def changed_by_editing(folder: Path, names: list[str]) -> dict[str, bool]:
    """For each file of a copy of the engine, whether one more line in it changes the digest."""
    shutil.copytree(PACKAGE, folder / "redteam", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", EDITS, str(folder)],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return dict(json.loads(done.stdout))


def test_every_module_that_computes_a_cell_counts_or_is_left_out_by_name(tmp_path: Path) -> None:
    closure = engine_modules([ROOT])
    assert {"redteam.evaluation.pipelines", "redteam.plugins.returned", ROOT} <= set(closure)
    files = {f"redteam/{file.relative_to(PACKAGE).as_posix()}": name for name, file in closure.items()}
    others = ["redteam/cli/run.py", "redteam/evaluation/verdict.py", "redteam/anatomy/new.json", "redteam/cli/x.toml"]
    changed = changed_by_editing(tmp_path, [*files, *others])
    assert {name for file, name in files.items() if not changed[file]} == set(closure) & set(WORDS)
    assert [changed[file] for file in others] == [False, False, True, False]


@pytest.mark.parametrize("name", WORDS)
def test_what_is_left_out_is_there_and_has_a_reason(name: str) -> None:
    assert locate(name) is not None, f"{name} is no module any more; take it out of WORDS"
    assert WORDS[name]


def test_no_module_of_the_engine_does_anything_by_being_imported() -> None:
    """Or following a name past the package that re-exports it would miss what that package's import does."""
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 50
    assert [act for file in files for act in acts(file)] == []


def acts(file: Path) -> list[str]:
    """The statements of a module that do more than import, define and name."""
    found = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)):
            continue
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if all(isinstance(target, (ast.Name, ast.Tuple)) for target in targets):
                continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.If) and (
            ast.unparse(node.test) == "__name__ == '__main__'"
            or all(isinstance(one, (ast.Import, ast.ImportFrom)) for one in (*node.body, *node.orelse))
        ):
            continue
        found.append(f"{file.name}, line {node.lineno}: {ast.unparse(node)[:60]}")
    return found


def test_what_one_plugin_needs_is_no_part_of_every_cell() -> None:
    assert not {"redteam.training", "redteam.symmetry.reshaping"} & set(engine_files())
    assert len(engine_digest()) == 64
    assert set(versions()) == {"torch", "transformers", "numpy", "scipy"}
