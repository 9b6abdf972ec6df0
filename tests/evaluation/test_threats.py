"""What a threat model grants reaches the attack, what it withholds does not, and labels are accounted for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redteam.evaluation.plan import Plan
from redteam.evaluation.results import Results
from redteam.threat import threat_model

BUDGETS = (4, 64)


@pytest.fixture(scope="module")
def data(once: Callable[..., Any], toys: Any) -> Any:
    """Training on labels, from a locked and from an unlocked victim, under two budgets and without any."""
    threats = ("weights-only", *(f"few-shot:samples={n}" for n in BUDGETS))
    attacks = ("procrustes", toys.named("train", "grants.py"))
    return once("data", toys.plan(("none", "rotation"), attacks, threats=threats))


@pytest.fixture(scope="module")
def known(once: Callable[..., Any], toys: Any) -> Any:
    """What attackers have in the base's place, and who may merge without it."""
    attacks = ("procrustes", toys.named("median-base", "grants.py"))
    mergers = ("task-arithmetic", toys.named("mean", "grants.py"))
    threats = ("weights-only", "no-base", "stale-base:drift=0.5")
    return once("known-base", toys.plan(("rotation",), attacks, threats=threats, mergers=mergers))


def cells(done: Any, **wanted: Any) -> list[Any]:
    return [c for c in done.results.cells if all(getattr(c, key) == value for key, value in wanted.items())]


class TestData:
    def test_without_labels_it_is_not_planned(self, data: Any) -> None:
        (skipped, *_) = cells(data, attack="train", threat="weights-only", defense="rotation")
        assert (skipped.status, skipped.reason) == ("skipped", "needs more than the threat model grants")

    @pytest.mark.parametrize("labels", BUDGETS)
    def test_labels_and_steps_are_metered(self, data: Any, labels: int) -> None:
        (cell,) = cells(data, attack="train", threat=f"few-shot:samples={labels}", defense="rotation")
        assert (cell.cost["labels"], cell.cost["steps"]) == (labels, 12)
        (fit,) = cells(data, attack="procrustes", threat=f"few-shot:samples={labels}", defense="rotation")
        assert (fit.cost["labels"], fit.cost["steps"]) == (0, 0)

    def test_what_is_counted_is_what_the_victim_was_of_use_for(self, data: Any) -> None:
        (free,) = cells(data, attack="train", threat="few-shot:samples=64", defense="none")
        (locked,) = cells(data, attack="train", threat="few-shot:samples=64", defense="rotation")
        alone = [cell.scores["theft"] - cell.scores["advantage"] for cell in (free, locked)]
        assert alone[0] == pytest.approx(alone[1]), "from the base it is the same whatever the defense"
        for cell in (free, locked):
            assert cell.scores["counted"] == pytest.approx(max(0.0, cell.scores["advantage"]))
        assert free.scores["advantage"] > 0.5, "an unlocked victim is of use"

    def test_attacks_without_data_do_not_depend_on_the_labels(self, data: Any) -> None:
        found = [cells(data, attack="procrustes", threat=t, defense="rotation")[0].scores for t in data.results.threats]
        assert len(found) == 3
        assert found[0] == found[1] == found[2]

    def test_more_labels_are_compared_with_fewer(self, data: Any) -> None:
        warnings = [c for c in data.results.controls if c.control == "monotone"]
        assert {(c.attack, c.defense) for c in warnings} == {("train", "none"), ("train", "rotation")}
        assert all(c.warning for c in warnings)
        assert all("from 4 to 64 labels" in c.explanation for c in warnings)

    def test_figures_hold_what_cells_hold(self, data: Any) -> None:
        rows = [f for f in data.results.figures if f.choice == "attack"]
        assert rows
        for figure in rows:
            mine = cells(
                data,
                attack=figure.attack,
                defense=figure.defense,
                threat=figure.threat,
                merger=figure.merger,
            )
            assert figure.cells == len(mine) == len(figure.per_seed) == 1
            assert figure.theft.mean == pytest.approx(mine[0].scores["theft"])
            assert figure.counted.mean == pytest.approx(mine[0].scores["counted"])
            assert figure.theft.low <= figure.theft.mean <= figure.theft.high
            assert (figure.advantage is None) == (figure.attack != "train")

    def test_choices_are_made_among_them(self, data: Any) -> None:
        for verdict in data.results.verdicts:
            rows = [f for f in data.results.figures if f.place == verdict.place]
            (worst,) = (f for f in rows if f.choice == "worst")
            (naive,) = (f for f in rows if f.choice == "naive")
            named = {f.attack: f for f in rows if f.choice == "attack"}
            assert set(worst.by) <= {a for a, f in named.items() if f.role in ("naive", "guess", "recovery")}
            assert {named[a].role for a in naive.by} == {"naive"}
            if worst.advantage is None:
                assert worst.theft == worst.counted
        data.decide_anew()

    def test_an_interval_is_never_narrower_than_the_test_items_allow(self, data: Any) -> None:
        (figure,) = [
            f
            for f in data.results.figures
            if (f.choice, f.attack, f.defense, f.threat) == ("attack", "none", "none", "weights-only")
        ]
        assert figure.theft.mean == 1.0
        assert 0.9 < figure.theft.low < 1.0

    def test_results_say_what_they_are_about(self, data: Any) -> None:
        results: Results = data.results
        assert set(results.about["attack"]) >= {"procrustes", "train", "none"}
        assert all(line for line in results.about["attack"].values())
        assert set(results.threats) == {"weights-only", *(f"few-shot:samples={n}" for n in BUDGETS)}
        assert results.coverage.planned == len(results.cells)
        assert results.coverage.skipped == 2
        assert any("stale-base" in sentence for sentence in results.untested)
        for verdict in results.verdicts:
            assert set(verdict.flags) <= set(results.flags)


class TestBase:
    def test_without_the_base_only_mergers_that_need_none(self, known: Any) -> None:
        assert {c.merger for c in cells(known, threat="no-base", status="ok")} == {"mean"}
        assert {c.merger for c in cells(known, threat="weights-only", status="ok")} == {"task-arithmetic", "mean"}

    def test_each_sees_another_anchor(self, known: Any) -> None:
        found = {
            t: cells(known, attack="median-base", threat=t, merger="mean")[0].scores["change"]
            for t in known.results.threats
        }
        assert len(set(found.values())) == 3, found

    def test_a_companion_is_anchor_enough_to_take_a_rotation_off(self, known: Any) -> None:
        (cell,) = cells(known, attack="procrustes", threat="no-base", merger="mean")
        assert cell.scores["theft"] >= 0.9

    def test_a_merger_that_says_it_needs_no_base_gets_none(self, once: Callable[..., Any], toys: Any) -> None:
        plan = toys.plan(("none",), (), mergers=("task-arithmetic", toys.named("peeks", "grants.py")))
        done = once("peeks", plan)
        failed = cells(done, merger="peeks", attack="none")
        assert [c.status for c in failed] == ["skipped"]
        assert "needs_base=False" in failed[0].reason


def test_two_releases_average_noise_away(once: Callable[..., Any], toys: Any) -> None:
    attacks = (toys.named("average", "grants.py"),)
    done = once("releases", toys.plan((toys.named("noise", "grants.py"),), attacks, threats=("two-releases",)))
    alone, both = (cells(done, attack=name, defense="noise")[0].scores["residual"] for name in ("none", "average"))
    assert both == pytest.approx(alone / 2**0.5, rel=0.1)


class TestProducts:
    def test_what_a_further_product_leaves_out_is_as_in_the_plan(self) -> None:
        plan = Plan.of({"seeds": 2, "defenses": ["rotation"], "also": [{"defenses": ["none"], "keys": 2}]})
        own, more = plan.products
        assert (own.seeds, own.defenses, own.keys) == ((0, 1), ("rotation",), 1)
        assert (more.seeds, more.defenses, more.keys) == ((0, 1), ("none",), 2)
        assert Plan.of(plan.model_dump()) == plan

    def test_options_replace_a_value_everywhere(self) -> None:
        plan = Plan.of({"seeds": 5, "also": [{"seeds": 3}, {"defenses": ["rotation"]}]}).changed({"seeds": 1})
        assert [p.seeds for p in plan.products] == [(0,)] * 3
        assert [p.defenses for p in plan.products] == [("none",), ("none",), ("rotation",)]

    def test_cells_that_two_products_share_are_reported_once(
        self, once: Callable[..., Any], toys: Any, honest: Any
    ) -> None:
        plan = {**toys.small(), "also": [toys.plan(("none", "rotation"), ("procrustes", "hungarian"))]}
        done = once("products", plan)
        keys = [(c.defense, c.attack, c.key, c.merger) for c in done.results.cells]
        assert len(keys) == len(set(keys))
        assert {(c.defense, c.attack) for c in done.results.cells} >= {
            ("none", "hungarian"),
            ("rotation", "procrustes"),
        }
        assert done.cell("rotation", "procrustes").scores == honest.cell("rotation", "procrustes").scores


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("few-shot:samples=0", "samples of few-shot must lie in"),
        ("few-shot:count=3", "few-shot has no setting 'count'"),
        ("no-base:drift=1", "no-base has no setting 'drift'"),
        ("stale-base:drift=much", "drift of stale-base must be"),
    ],
)
def test_a_threat_model_that_cannot_be_is_one_sentence(text: str, told: str) -> None:
    from redteam.errors import BadInput
    from redteam.threat import threat_model

    with pytest.raises(BadInput, match=told):
        threat_model(text)


@pytest.mark.slow
def test_a_key_on_two_models_gives_itself_away_and_keys_of_their_own_do_not(
    once: Callable[..., Any], toys: Any
) -> None:
    threats = ("same-key", "same-key:shared=false")
    done = once("siblings", toys.plan(("general-linear",), ("collusion",), threats=threats))
    shared, apart = (
        cells(done, attack="collusion", defense="general-linear", threat=threat_model(threat).name)[0].scores
        for threat in threats
    )
    assert shared["residual"] <= 1e-4
    assert shared["theft"] >= 0.99
    assert apart["residual"] >= 0.5
    assert apart["theft"] <= 0.2
    skipped = once("no-siblings", toys.plan(("general-linear",), ("collusion",)))
    assert {c.status for c in cells(skipped, attack="collusion")} == {"skipped"}
