from __future__ import annotations

import sys
from pathlib import Path

import pytest

from redteam.errors import BadInput, BadSetting, PluginFault, UnknownName
from redteam.plugins.contracts import AttackSpec, MergerSpec, ReportSpec
from redteam.plugins.reference import Reference
from redteam.plugins.registry import REGISTRIES, Registry
from redteam.plugins.settings import settings_of

from .conftest import Install

PLUGIN = '''
    """Does nothing, slowly.

    More about it.
    """
    from redteam.plugins.contracts import attack, defense
    from stranger_a.helper import HELP

    @attack("idle")
    def idle(view, *, rounds: int = 3):
        return view, rounds

    @defense("idle", exact=True, keyed=False)
    def other(view): ...
'''
FILES = {"stranger_a/__init__.py": "", "stranger_a/plugin.py": PLUGIN, "stranger_a/helper.py": "HELP = 1\n"}
ENTRIES = {"redteam.attacks": {"idle": "stranger_a.plugin:idle"}}


def attacks() -> Registry[AttackSpec]:
    return Registry("redteam.attacks", AttackSpec)


def test_a_strangers_plugin_enters_like_our_own(install: Install) -> None:
    install("stranger-a", FILES, ENTRIES)
    registry = attacks()
    assert "idle" in registry
    listed = {one.name: one for one in registry.listing()}["idle"]
    assert (listed.kind, listed.package, listed.summary) == ("attack", "stranger-a", "Does nothing, slowly.")
    assert "stranger_a.plugin" not in sys.modules
    assert "stranger_a" not in sys.modules
    plugin = registry.load("idle:rounds=5")
    assert plugin("view") == ("view", 5)
    assert (plugin.name, plugin.origin, plugin.canonical) == ("idle", "stranger-a", "idle:rounds=5")
    assert registry.load("idle").canonical == "idle:rounds=3"
    assert len(plugin.source_digest) == 64


def test_listing_survives_a_plugin_that_cannot_be_imported(install: Install) -> None:
    broken = '"""Needs what is not there."""\nimport no_such_module_anywhere\n'
    install("stranger-b", {"stranger_b.py": broken}, {"redteam.attacks": {"broken": "stranger_b:broken"}})
    registry = attacks()
    assert [one.summary for one in registry.listing() if one.name == "broken"] == ["Needs what is not there."]
    with pytest.raises(PluginFault, match=r"'broken' of stranger-b .*no_such_module_anywhere.*stranger_b.py, line 2"):
        registry.load("broken")


def test_a_name_taken_twice_names_both_packages(install: Install) -> None:
    install("stranger-a", FILES, ENTRIES)
    install("stranger-c", {"stranger_c.py": ""}, {"redteam.attacks": {"idle": "stranger_c:idle"}})
    with pytest.raises(BadInput, match="both stranger-a and stranger-c"):
        attacks().load("idle")
    assert {one.package for one in attacks().listing() if one.name == "idle"} == {"stranger-a", "stranger-c"}


def test_unknown_names_and_settings(install: Install) -> None:
    install("stranger-a", FILES, ENTRIES)
    with pytest.raises(UnknownName, match="no attack called 'idel'; did you mean 'idle'"):
        attacks().load("idel")
    with pytest.raises(UnknownName, match="idle has no setting 'round'; did you mean 'rounds'"):
        attacks().load("idle:round=1")
    with pytest.raises(BadSetting, match="rounds of idle must be a whole number"):
        attacks().load("idle:rounds=many")


def test_an_entry_of_another_kind_or_name_is_a_fault(install: Install) -> None:
    entries = {
        "redteam.mergers": {"idle": "stranger_a.plugin:idle"},
        "redteam.attacks": {"other": "stranger_a.plugin:idle", "number": "stranger_a.helper:HELP"},
    }
    install("stranger-a", FILES, entries)
    with pytest.raises(PluginFault, match="is no merger"):
        Registry("redteam.mergers", MergerSpec).load("idle")
    with pytest.raises(PluginFault, match="calls itself 'idle'"):
        attacks().load("other")
    with pytest.raises(PluginFault, match="is no attack"):
        attacks().load("number")


def test_a_writer_of_reports_is_a_plain_function(install: Install) -> None:
    writer = '"""Writes text."""\ndef write(results, path): return path\n'
    install("stranger-d", {"stranger_d.py": writer}, {"redteam.reports": {"txt": "stranger_d:write"}})
    plugin = Registry("redteam.reports", ReportSpec).load("txt")
    assert plugin.spec == ReportSpec(name="txt")
    assert plugin.function(None, 3) == 3


FILE = """
from redteam.plugins.contracts import attack, merger

@attack("mine")
def mine(view, *, strength: float = 1.0):
    return VALUE

@merger("mine")
def mix(view): ...

VALUE = 1
"""


def test_a_plugin_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(FILE)
    registry = attacks()
    by_path = registry.load(f"{tmp_path}/own.py@mine:strength=2")
    assert by_path(None) == 1
    assert by_path.settings == {"strength": 2.0}
    assert by_path.origin == str((tmp_path / "own.py").resolve())
    assert registry.load("own.py@mine", folder=tmp_path).source_digest == by_path.source_digest
    monkeypatch.chdir(tmp_path)
    assert registry.load("own.py@mine").function is by_path.function
    assert Registry("redteam.mergers", MergerSpec).load("own.py@mine").spec == MergerSpec(name="mine")
    (tmp_path / "own.py").write_text(FILE.replace("VALUE = 1", "VALUE = 2"))
    edited = registry.load("own.py@mine")
    assert edited(None) == 2
    assert by_path(None) == 1
    assert edited.source_digest != by_path.source_digest


def test_two_files_of_one_name_do_not_mix(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(FILE.replace("VALUE = 1", f"VALUE = {value}"))
    registry = attacks()
    assert [registry.load("own.py@mine", folder=tmp_path / f)(None) for f in ("a", "b", "a")] == [1, 2, 1]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FILE)
    (tmp_path / "raises.py").write_text("x = 1\n\ndef f():\n    raise ValueError('no\\nway')\nf()\n")
    (tmp_path / "syntax.py").write_text("x = 1\ny = (\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "folder.py").mkdir()
    registry = attacks()

    def fails(name: str, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match) as caught:
            registry.load(name, folder=tmp_path)
        assert "\n" not in str(caught.value)

    fails("own.py@mein", UnknownName, r"no attack in own.py called 'mein'; did you mean 'mine'")
    fails("none.py@x", BadInput, r"Cannot read the plugin file 'none.py'")
    fails("folder.py@x", BadInput, r"Cannot read the plugin file 'folder.py'")
    fails("raises.py@x", PluginFault, r"'raises.py' cannot be imported: ValueError: no way \(line 4\)")
    fails("syntax.py@x", PluginFault, r"'syntax.py' cannot be imported: SyntaxError: .* \(line 2\)")
    fails("leaves.py@x", PluginFault, r"'leaves.py' cannot be imported: SystemExit: 3 \(line 2\)")


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_built_in_plugin_loads_with_its_defaults(kind: str) -> None:
    registry = REGISTRIES[kind]
    assert registry.names
    for listed in registry.listing():
        assert listed.summary, f"{kind} {listed.name} has no docstring"
        found = registry.find(Reference(listed.name))
        if not any(setting.required for setting in settings_of(found.function).values()):
            assert registry.load(listed.name).spec.name == listed.name
        else:  # it is nothing without the file that it reads
            assert "file" in settings_of(found.function)
