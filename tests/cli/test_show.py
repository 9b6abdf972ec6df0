from __future__ import annotations

from pathlib import Path

import pytest

from redteam.cli.show import found
from redteam.errors import BadInput, UnknownName
from redteam.plugins.registry import REGISTRIES
from redteam.plugins.shipped import shipped
from redteam.threat import THREAT_MODELS, threat_model

FILE = '''
"""A file with one plugin of each of two kinds."""
from typing import Annotated, Literal

from redteam.plugins.contracts import Needs, attack, defense
from redteam.plugins.settings import Range


class Rotation:
    name = "orthogonal"


@attack(
    "mine", breaks={("qk", Rotation)}, needs=Needs.ANCHOR | Needs.KEY, targets=("mergelock",), paper="arXiv:0000.00000"
)
def mine(
    view,
    *,
    samples: int,
    scale: Annotated[tuple[float, float], Range(0.001, 1e3)] = (0.5, 2),
    way: Literal["up", "down"] = "up",
):
    """Does its thing.

    At length.
    """


@defense("mine", exact=False, keyed=True)
def lock(view, *, note: str | None = None): ...


@defense("other", exact=True, keyed=False)
def other(view): ...
'''


def described(text: str) -> tuple[str, ...]:
    """What is printed, one block for each."""
    return tuple(str(one) for one in found(text))


def test_what_is_declared_is_shown(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FILE)
    attack, defense = described(f"{tmp_path}/own.py@mine")
    for text in (
        f"attack {tmp_path}/own.py@mine",
        "orthogonal at qk",
        "anchor, key",
        "mergelock",
        "arXiv:0000.00000",
        "Does its thing.",
        "At length.",
        "samples: whole number, required",
        "scale: list of 2: number, number, default [0.5,2], within [0.001, 1000]",
        "way: one of 'up', 'down', default up",
    ):
        assert text in attack
    assert "no, the function changes" in defense
    assert "A file with one plugin" in defense
    assert "note: text or nothing, default none" in defense
    assert "no settings" in described(f"{tmp_path}/own.py@other")[0]


def test_unknown_names(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FILE)
    with pytest.raises(UnknownName, match="did you mean 'mine'"):
        described(f"{tmp_path}/own.py@mien")
    with pytest.raises(
        UnknownName, match="no plugin, plan, gauntlet or threat model called 'hungarain'; did you mean 'hungarian'"
    ):
        described("hungarain")
    with pytest.raises(BadInput, match="chains 2"):
        described("none+none")


def test_a_name_of_several_kinds_shows_them_all() -> None:
    kinds = [block.split()[0] for block in described("none")]
    assert kinds == ["defense", "attack"]


@pytest.mark.parametrize("kind", REGISTRIES)
def test_everything_built_in_can_be_shown(kind: str) -> None:
    for name in REGISTRIES[kind]:
        blocks = described(name)
        assert any(block.startswith(f"{kind} {name}\n") for block in blocks)


def test_plans_can_be_shown() -> None:
    for plan in shipped("plan"):
        (block,) = [block for block in described(plan.name) if block.startswith("plan ")]
        assert f"{plan.name}.toml" in block


@pytest.mark.parametrize("name", THREAT_MODELS)
def test_threat_models_can_be_shown(name: str) -> None:
    (block,) = described(name)
    assert block.startswith(f"threat {threat_model(name).name}\n  grants    ")
    assert threat_model(name).words in " ".join(block.split())
    assert max(map(len, block.splitlines())) <= 100


def test_a_threat_model_with_a_setting() -> None:
    (block,) = described("few-shot:samples=8")
    assert block.startswith("threat few-shot:samples=8\n")
    assert "8 labelled samples" in block
    assert "samples: whole number, default 64, within [1, " in block
    with pytest.raises(UnknownName, match="did you mean 'few-shot'"):
        described("fewshot")


def test_a_scenario_says_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path))
    (told,) = described("digits")
    lines = [line.split(maxsplit=1) for line in told.splitlines()[1:]]
    said = {line[0]: line[1] for line in lines[:8] if len(line) == 2}
    assert said["digits"].startswith(
        "the victim; image classification: 900 train, 300 validation, 597 test; 10 classes"
    )
    assert said["letters"].endswith("13 classes, guessing 0.08")
    assert "CC BY 4.0" in said["licence"]
    assert said["cache"].startswith(f"{tmp_path / 'digits'},")
    assert list(tmp_path.iterdir()) == []


PUBLISHED = ("clip-8", "glue")  # fetched before more can be said of them than tests/scenarios/test_published.py asks


@pytest.mark.parametrize("name", sorted(name for name in REGISTRIES["scenario"] if name not in ("folder", *PUBLISHED)))
def test_every_scenario_says_its_tasks_licence_and_cache(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", "/nowhere")
    told, *_ = described(name)  # a plan may have the same name
    assert told.count("the victim; ") == 1
    assert told.count(" test") >= 2
    assert "\n  licence " in told
    assert str(Path("/nowhere") / name) in told
