"""Which defenses a search tries, what of its trials it keeps, and what it says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from redteam.errors import BadInput, UnknownName
from redteam.evaluation.resolve import Pipeline
from redteam.evaluation.steps import Cost, Locked
from redteam.plugins.registry import DEFENSES
from redteam.plugins.settings import Range, Setting, settings_of
from redteam.search.defenders.price import OwnersPrice
from redteam.search.defenders.results import best, front
from redteam.search.dials import Choice, Ends, Number, near_default
from redteam.search.space import Space
from redteam.threat import threat_model
from tests.search.made import FAILED, NAIVE, UNPROVEN, found, trial

WEIGHTS = threat_model("weights-only")


def test_all_installed_defenses_of_whole_models_that_are_more_than_a_comparison() -> None:
    names = {option.name for option in Space.of_defenses(WEIGHTS, steps=2).options}
    for name in DEFENSES.names:
        spec = DEFENSES.load(name).spec
        of_use = not spec.factors and not spec.sealed and (spec.protects or spec.keyed or spec.prepares)
        assert (name in names) == of_use, name
    assert {"mergelock", "gaussian-noise", "arf"} <= names
    assert not {"none", "fresh"} & names


def test_what_seals_is_searched_under_sealed_alone() -> None:
    names = {option.name for option in Space.of_defenses(threat_model("sealed"), steps=1).options}
    assert {"arrowcloak", "mergelock"} <= names


def test_what_protects_comes_first() -> None:
    meant = [option.plugin.spec.protects for option in Space.of_defenses(WEIGHTS, steps=1).options]
    assert meant == sorted(meant, reverse=True)


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ({"only": ("none",)}, BadInput, "for comparison alone"),
        ({"only": ("adapter-gauge",)}, BadInput, "factors of an adapter"),
        ({"only": ("arrowcloak",)}, BadInput, "does not run alone, and the threat model weights-only"),
        ({"only": ("mergelock",), "without": ("mergelock",)}, BadInput, "No defense is left"),
        ({"without": ("mergelok",)}, UnknownName, "did you mean 'mergelock'"),
    ],
)
def test_what_cannot_be_searched_with(asked: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        Space.of_defenses(WEIGHTS, steps=2, **asked)


def test_whatever_is_drawn_can_be_put_into_a_plan() -> None:
    space = Space.of_defenses(WEIGHTS, steps=2)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    chains = {space.draw(study.ask()) for _ in range(200)}
    loaded = [Pipeline.load(DEFENSES, text, Path()) for text in chains]
    assert {len(pipeline.links) for pipeline in loaded} == {1, 2}
    drawn = {link.spec.name for pipeline in loaded for link in pipeline.links}
    assert drawn == {option.plugin.spec.name for option in space.options}


def test_every_defense_alone_is_a_point_of_the_space() -> None:
    space = Space.of_defenses(WEIGHTS, steps=2)
    for option, params in zip(space.options, space.singles(), strict=True):
        assert space.draw(optuna.trial.FixedTrial(params)) == option.name


def test_numbers_are_looked_for_near_their_defaults() -> None:
    held = settings_of(DEFENSES.load("mergeguard").function)
    decay = near_default(held["decay"], 0.01)
    steps = near_default(held["steps"], 90)
    assert decay == Number(Range(1e-4, 1.0, log=True), 0.01)
    assert steps == Number(Range(1, 9000, log=True), 90, whole=True)
    assert near_default(held["keep_layers"], 0.1) == Number(held["keep_layers"].range or Range(0, 0), 0.1)
    assert near_default(Setting("x", float, 0.0, Range(0.0, 1e6)), 0.0) == Number(Range(0.0, 1e6), 0.0)


def test_ends_and_parts_of_lists_are_tuned() -> None:
    mergelock, noise = (settings_of(DEFENSES.load(name).function) for name in ("mergelock", "gaussian-noise"))
    scale = near_default(mergelock["scale"], (0.01, 100.0))
    assert isinstance(scale, Ends)
    # Drawn the wrong way round, they are still a range.
    drawn = scale.suggest(optuna.trial.FixedTrial({"s/0": 0.9, "s/1": 1.0}), "s")
    assert drawn == (0.9, 1.0)
    assert Ends(scale.ends[::-1]).suggest(optuna.trial.FixedTrial({"s/0": 1.5, "s/1": 0.5}), "s") == (0.5, 1.5)
    sites = near_default(noise["sites"], ("qk", "vo"))
    assert isinstance(sites, Choice)
    assert len(sites.values) == len(set(sites.values)) == 7
    assert ("qk", "vo") in sites.values
    assert ("qk", "vo", "mlp") in sites.values
    assert () not in sites.values
    kept = near_default(settings_of(DEFENSES.load("scaling").function)["sites"], ("qk", "vo"), exact=True)
    assert kept == Choice((("qk",), ("vo",), ("qk", "vo")), ("qk", "vo")), "where else it is exact, nobody says"
    assert near_default(Setting("x", tuple[float, ...], (1.0,), None), (1.0,)) is None


def test_the_front_holds_what_nothing_beats_and_nothing_else() -> None:
    made = [
        trial(0, 0.6, 0.99, 0.5),
        trial(1, 0.6, 0.98, 0.5),  # less fidelity for nothing
        trial(2, 0.3, 0.7, 0.5),
        trial(3, 0.6, 0.99, 4.0),  # dearer for nothing
        trial(4, 1.0, 1.0, 0.0),  # no better than no protection
        trial(5, 0.9, 1.0, 0.0),
        trial(6, 0.6001, 0.99, 0.51),  # no more different than noise
        UNPROVEN,
        FAILED,
    ]
    assert [one.number for one in front(made, NAIVE)] == [2, 0, 5]
    assert [one.number for one in front(list(reversed(made)), NAIVE)] == [2, 0, 5]


def test_training_on_is_no_merit_and_what_taught_nothing_has_no_values() -> None:
    first, second = trial(0, 0.5, 1.0, 1.0), trial(1, 0.5, 1.2, 1.0)
    assert first.values == second.values
    assert UNPROVEN.values is None
    assert FAILED.values is None


@pytest.mark.parametrize(
    ("wanted", "number"), [(0.95, 1), (0.5, 2), (0.999, None)], ids=["kept", "cheaper skill", "none keeps it"]
)
def test_the_best_keeps_the_fidelity_that_was_asked_for(wanted: float, number: int | None) -> None:
    made = [trial(0, 0.6, 0.97, 1.0), trial(1, 0.4, 0.96, 1.0), trial(2, 0.2, 0.6, 1.0), UNPROVEN]
    chosen = best(made, wanted)
    assert (chosen.number if chosen else None) == number


def test_the_sentence_says_whether_anything_holds() -> None:
    assert found(trial(0, 0.5, 0.97, 1.0)).sentences[0].startswith("d:x=0 keeps theft under imitation's 0.54 at a fid")
    told = found(trial(0, 0.55, 0.97, 1.0), trial(1, 0.1, 0.6, 1.0), UNPROVEN, FAILED).sentences
    assert told[0].startswith("Nothing of 4 keeps theft under imitation's 0.54 at a fidelity of 0.95 or more.")
    assert "stolen from d:x=0" in told[0]
    assert "1 of 4 taught nothing and count neither as strong nor as weak." in told
    assert "1 of 4 could not be put on." in told
    assert "none keeps so much skill" in found(trial(0, 0.1, 0.6, 1.0)).sentences[0]
    assert "under 0.5 " in found(trial(0, 0.55, 0.97, 1.0), imitation=None).sentences[0]
    nothing = found(UNPROVEN, FAILED, FAILED.model_copy(update={"number": 92})).sentences[0]
    assert "nothing is known" in nothing
    assert "not legal here" in nothing


def test_the_price_adds_what_is_paid_beyond_the_unprotected_victim() -> None:
    before = Locked("a", cost=Cost(3.0, steps=60))
    lock = Locked("b", cost=Cost(1.0), weights=1.5, inference=1.25)
    price = OwnersPrice.of([before, lock], Cost(8.0, steps=120))
    assert (price.seconds, price.steps, price.fine_tuning) == (0.5, 60, 120)
    assert price.total == pytest.approx(0.5 + 0.5 + 0.25)
    assert OwnersPrice.of([Locked("c", cost=Cost(0.0))], Cost(8.0)).total == 0.0
    assert "1.50× the parameters" in str(price) or "1.5× the parameters" in str(price)
    assert OwnersPrice(parameters=0.5).total == 0.0, "a smaller model is no payment for others' prices"
