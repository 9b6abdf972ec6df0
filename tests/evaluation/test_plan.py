"""A plan is what its file says, or one sentence about what is wrong with it."""

from pathlib import Path

import pytest

from redteam.errors import BadInput, BadPlan, RedteamError, UnknownName
from redteam.evaluation.plan import Plan


def test_a_number_of_seeds_stands_for_that_many() -> None:
    assert Plan.of({"seeds": 3}).seeds == (0, 1, 2)
    assert Plan.of({"seeds": [4, 7]}).seeds == (4, 7)


def test_references_are_canonical_and_named_once() -> None:
    plan = Plan.of({"defenses": ["mergelock:scale=[0.5, 2]", "mergelock:scale=[0.5,2]", "a + b"]})
    assert plan.defenses == ("mergelock:scale=[0.5,2]", "a+b")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seeds": 0}, r"seeds must be a number of seeds from 1 on, or a list of seeds from 0 on, not \[\]\.$"),
        ({"seeds": "x"}, "seeds must be a number of seeds .*, not 'x'"),
        ({"keys": 0}, r"keys must be a whole number from 1 on, not 0\.$"),
        ({"keys": "three"}, "keys must be a whole number from 1 on, not 'three'"),
        ({"also": [{"keys": 0}]}, r"also\.0\.keys must be a whole number"),
        ({"also": 3}, "also must be tables"),
        ({"controls": "some"}, "controls must be 'needed' or 'all', not 'some'"),
        ({"attacks": "gauntlet-1"}, "attacks must be a list of names, not 'gauntlet-1'"),
        ({"defences": ["none"]}, "'defences' that means nothing"),
        ({"defenses": []}, "defenses must be a list of names, at least one"),
        ({"time_limit": -1}, "time_limit must be a number of seconds above 0, not -1"),
        ({"memory": "4 apples"}, "memory must be a size such as '4GB' or '512MB', not '4 apples'"),
        ({"memory": "0GB"}, "memory must be a size"),
        ({"fail_on": "theft>=0.5"}, "fail_on must be a list of conditions, such as 'verdict!=HOLDS-SO-FAR'"),
        ({"memory": 4}, "memory must be a size such as '4GB' or '512MB', not 4"),
        ({"name": "../outside"}, "name must be letters"),
    ],
)
def test_what_is_wrong_is_named(given: dict, told: str) -> None:
    with pytest.raises(BadPlan, match=told):
        Plan.of(given)


def test_its_gate_is_read_at_once() -> None:
    assert Plan.of({"fail_on": [" theft>=0.5 "]}).fail_on == ("theft>=0.5",)
    with pytest.raises(BadInput, match="The gate theft>=2 can never fail"):
        Plan.of({"fail_on": ["theft>=2"]})


def test_an_unknown_threat_model_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="did you mean 'weights-only'"):
        Plan.of({"threats": ["weight-only"]})


@pytest.mark.parametrize("text", ["seeds = ", "\x00", "[[["])
def test_a_file_that_is_not_toml_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(BadPlan, match="not TOML"):
        Plan.read(path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="cannot be read"):
        Plan.read(tmp_path / "none.toml")


def test_a_plan_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('defenses = ["none"]')
    assert Plan.read(path).name == "mine"


def test_an_unreadable_reference_is_one_sentence() -> None:
    with pytest.raises(RedteamError):
        Plan.of({"defenses": ["mergelock:scale=["]})


@pytest.mark.parametrize("file", ["../outside.py", "/tmp/outside.py", "~/outside.py", "link.py"])
def test_a_plan_runs_no_file_from_outside_its_folder(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "plans"
    folder.mkdir()
    (tmp_path / "outside.py").write_text("")
    (folder / "link.py").symlink_to(tmp_path / "outside.py")
    (folder / "plan.toml").write_text(f'attacks = ["{file}@mine"]')
    with pytest.raises(BadPlan, match="outside its folder"):
        Plan.read(folder / "plan.toml")


def test_a_plan_may_bring_plugins_in_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('attacks = ["deep/../mine.py@mine"]')
    assert Plan.read(path).attacks == ("deep/../mine.py@mine",)
