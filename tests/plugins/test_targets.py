from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redteam.plugins.contracts import AttackSpec, DefenseSpec
from redteam.plugins.registry import ATTACKS, DEFENSES, LoadedPlugin, Registry
from redteam.plugins.targets import author, same_author, targets

from .conftest import Install

ATTACK = """
from redteam import attack
@attack("fit-{name}", targets=("{target}",))
def fit(view): ...
"""
DEFENSE = """
from redteam import defense
@defense("{name}", exact=True, keyed=True)
def lock_{name}(view): ...
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files with an attack on something, a defense, or both."""
    texts = {
        "both": ATTACK.format(name="planar", target="planar") + DEFENSE.format(name="planar"),
        "other": DEFENSE.format(name="planar") + DEFENSE.format(name="own"),
        "on_planar": ATTACK.format(name="planar", target="planar"),
        "on_own": ATTACK.format(name="own", target="own"),
        "on_path": ATTACK.format(name="path", target="other.py@planar"),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("attack", "defense", "meant"),
    [
        ("head-matching", "planar", True),
        ("head-matching", "fresh", False),
        ("head-matching", "other.py@planar", False),
        ("head-matching", "both.py@planar", False),
        ("both.py@fit-planar", "both.py@planar", True),
        ("both.py@fit-planar", "planar", False),
        ("both.py@fit-planar", "other.py@planar", False),
        ("on_planar.py@fit-planar", "planar", True),
        ("on_planar.py@fit-planar", "other.py@planar", False),
        ("on_own.py@fit-own", "other.py@own", True),
        ("on_own.py@fit-own", "other.py@planar", False),
        ("on_path.py@fit-path", "other.py@planar", True),
        ("on_path.py@fit-path", "both.py@planar", False),
        ("on_path.py@fit-path", "planar", False),
    ],
)
def test_targets_mean_a_plugin_and_not_a_name(files: Path, attack: str, defense: str, meant: bool) -> None:
    assert targets(ATTACKS.load(attack, folder=files), DEFENSES.load(defense, folder=files)) is meant


def test_a_worker_loads_by_another_path_and_finds_the_same(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = ATTACKS.load("both.py@fit-planar", folder=files)
    monkeypatch.chdir(files)
    assert targets(attack, DEFENSES.load(f"{files}/both.py@planar"))
    assert targets(attack, DEFENSES.load("both.py@planar"))
    assert targets(ATTACKS.load(f"{files}/on_path.py@fit-path"), DEFENSES.load("other.py@planar"))


def test_every_shipped_target_is_a_shipped_defense_and_meant() -> None:
    attacks = [ATTACKS.load(name) for name in ATTACKS]
    named = [(attack, name) for attack in attacks for name in attack.spec.targets]
    assert len(named) > 50
    for attack, name in named:
        assert targets(attack, DEFENSES.load(name)), f"{attack.name} on {name}"


def test_who_attacks_what_they_wrote_themselves(files: Path, install: Install) -> None:
    install(
        "stranger",
        {
            "stranger_a.py": ATTACK.format(name="sea", target="sea"),
            "stranger_b.py": DEFENSE.format(name="sea"),
        },
        {"redteam.attacks": {"fit-sea": "stranger_a:fit"}, "redteam.defenses": {"sea": "stranger_b:lock_sea"}},
    )

    theirs = Registry("redteam.attacks", AttackSpec).load("fit-sea")
    lock = Registry("redteam.defenses", DefenseSpec).load("sea")
    ours: LoadedPlugin[Any] = ATTACKS.load("head-matching")
    assert (author(theirs), author(ours)) == ("stranger", "merge-redteam")
    assert same_author(theirs, lock)
    assert not same_author(ours, DEFENSES.load("planar"))
    assert not same_author(ours, lock)
    assert not same_author(theirs, DEFENSES.load("planar"))
    in_file = ATTACKS.load("both.py@fit-planar", folder=files)
    assert author(in_file) == str(files / "both.py")
    assert same_author(in_file, DEFENSES.load("both.py@planar", folder=files))
    assert not same_author(in_file, DEFENSES.load("other.py@planar", folder=files))
