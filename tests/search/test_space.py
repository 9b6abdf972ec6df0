"""What may be drawn, and that the same history draws the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from redteam.errors import BadInput, UnknownName
from redteam.plugins.reference import parse_chain
from redteam.plugins.registry import ATTACKS
from redteam.search.space import Space
from redteam.threat import threat_model

PLUGINS = Path(__file__).parent / "plugins.py"


def space(*attacks: str, threat: str = "weights-only", keyed: bool = True, **rest: Any) -> Space:
    return Space.of(
        threat_model(threat),
        keyed=keyed,
        defenses=["mergelock"],
        only=[f"{PLUGINS}@{name}" for name in attacks],
        **{"steps": 3, **rest},
    )


def test_all_installed_recovery_attacks_and_no_other() -> None:
    for threat in ("weights-only", "two-releases", "data-rich"):
        names = {option.name for option in space(threat=threat).options}
        for name in ATTACKS.names:
            spec = ATTACKS.load(name).spec
            assert (name in names) == (
                spec.role == "recovery" and not spec.factors and threat_model(threat).allows(spec.needs)
            )


def test_those_made_for_the_defense_come_first() -> None:
    aimed = ["mergelock" in option.plugin.spec.targets for option in space().options]
    assert aimed == sorted(aimed, reverse=True)


def test_attacks_are_taken_out_and_unknown_ones_named() -> None:
    left = {option.name for option in space(without=["gauge-fit", "graft"]).options}
    assert not left & {"gauge-fit", "graft"}
    assert left
    with pytest.raises(UnknownName, match="did you mean 'gauge-fit'"):
        space(without=["guage-fit"])


@pytest.mark.parametrize(("name", "why"), [("greedy", "threat model"), ("ceiling", "role is 'ceiling'")])
def test_what_cannot_be_searched_with_is_refused_if_asked_for(name: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        space(name)


def test_nothing_left() -> None:
    with pytest.raises(BadInput, match="No attack is left"):
        space("idle", without=["idle"])


def test_dials_are_ranges_choices_and_truth_values() -> None:
    dials = {option.plugin.spec.name: sorted(option.dials) for option in space("qk-part", "vo-part", "idle").options}
    assert dials == {"qk-part": ["strength"], "vo-part": ["much", "way"], "idle": []}


def test_settings_that_were_written_down_are_not_tuned() -> None:
    fixed = Space.of(
        threat_model("weights-only"),
        keyed=True,
        defenses=[],
        steps=1,
        only=[f"{PLUGINS}@vo-part:way=b"],
    )
    (option,) = fixed.options
    assert list(option.dials) == ["much"]
    assert "way=b" in fixed.draw(
        optuna.trial.FixedTrial({"length": 1, "1": option.name, f"1/{option.name}/much": True})
    )


def drawn(where: Space, count: int) -> list[str]:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=1))
    return [where.draw(study.ask()) for _ in range(count)]


def test_whatever_is_drawn_can_be_run_and_is_within_its_ranges() -> None:
    where = space("qk-part", "vo-part", "idle")
    pipelines = drawn(where, 60)
    for text in pipelines:
        links = parse_chain(text)
        assert 1 <= len(links) <= 3
        for link in links:
            ATTACKS.load(link)
    assert {len(parse_chain(text)) for text in pipelines} == {1, 2, 3}
    assert pipelines == drawn(where, 60)


def test_every_attack_alone_is_a_point_of_the_space() -> None:
    where = space("qk-part", "vo-part", "idle")
    for option, params in zip(where.options, where.singles(), strict=True):
        assert where.draw(optuna.trial.FixedTrial(params)) == option.name


def test_equal_spaces_are_equal_as_plain_values_and_others_are_not() -> None:
    assert space("qk-part").plain() == space("qk-part").plain()
    assert space("qk-part").plain() != space("qk-part", steps=2).plain()
    assert space("qk-part").plain() != space("qk-part", "idle").plain()
