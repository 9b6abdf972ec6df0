"""A slip in a name or a file is told before torch is imported, which takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from redteam.cli.main import main
try:
    main(sys.argv[1:])
finally:
    assert "torch" not in sys.modules
"""
PLAN = 'scenarios = ["digits"]\ndefenses = ["{defense}"]\n{more}\n'


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("run --scenario digit", "There is no scenario called 'digit'; did you mean 'digits'?"),
        ("run --defense mergelok", "There is no defense called 'mergelok'; did you mean 'mergelock'"),
        ("run --defense none+mergelok", "There is no defense called 'mergelok'; did you mean 'mergelock'"),
        ("run --attack hungarion", "There is no attack called 'hungarion'; did you mean 'hungarian'?"),
        ("run --attack gauntlet-9", "There is no attack called 'gauntlet-9'"),
        ("run --merger tie", "There is no merger called 'tie'; did you mean 'ties'?"),
        ("run --defense permutation:site=[qk]", "permutation has no setting 'site'; did you mean 'sites'?"),
        ("run --attack none.py@mine", "Cannot read the plugin file"),
        ("run --scenario none.toml", "There is no scenario"),
        ("run --scenario broken.toml", "has an entry 'victm' that means nothing; did you mean 'victim'?"),
        ("run nope", "There is no plan called 'nope'"),
        ("run slip.toml", "There is no defense called 'mergelok'; did you mean 'mergelock'"),
        ("run wrong.toml", "keys must be a whole number from 1 on, not 'two'."),
        ("search --defense mergelok", "There is no defense called 'mergelok'; did you mean 'mergelock'"),
    ],
)
def test_a_slip_is_told_at_once(tmp_path: Path, words: str, sentence: str) -> None:
    (tmp_path / "broken.toml").write_text('base = "base"\nvictm = "mine"\n', encoding="utf-8")
    (tmp_path / "slip.toml").write_text(PLAN.format(defense="mergelok", more=""), encoding="utf-8")
    (tmp_path / "wrong.toml").write_text(PLAN.format(defense="none", more='keys = "two"'), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("Error: ")
    assert sentence in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
