"""Several tasks as the victim in turn: each a scenario with a verdict of its own, and a row over all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redteam.errors import BadInput, UnknownName
from redteam.evaluation.gate import gate
from redteam.evaluation.over_victims import decide, over_victims
from redteam.evaluation.packing import Packed
from redteam.evaluation.plan import Plan
from redteam.evaluation.preview import preview
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.results import OverVictims, Verdict
from redteam.evaluation.rows import Place
from redteam.evaluation.verdict import Evidence
from redteam.evaluation.verdict import decide as decide_one
from redteam.plugins.reference import Reference
from redteam.search.run import Asked, search
from tests.evaluation.merges import Bench, N, merge
from tests.evaluation.rows import around, subject

HERE = Path(__file__).parent


def turning(**settings: Any) -> str:
    return str(Reference(f"{HERE / 'toy.py'}@turning", settings))


def verdict(victim: str, word: str, theft: float = 0.9) -> Verdict:
    return Verdict(
        scenario=f"toy:victim={victim}", defense="lock", threat="weights-only", verdict=word, reason="so it is",
        flags=(), theft=around(theft), attack="fit", merger="mean", fidelity={"float32": around(theft)},
    )  # fmt: skip


def told(**words: str) -> tuple[str, str, tuple[str, ...]]:
    """What the verdicts come to; "dull" stands for a victim that gains too little."""
    verdicts = {v: verdict(v, "UNSCORABLE" if word == "dull" else word) for v, word in words.items()}
    gains = {"mean": around(0.01), "ties": around(0.02)}
    subjects = {
        v: subject(gains=gains, left_out=("mean", "ties") if word == "dull" else ()) for v, word in words.items()
    }
    return decide(verdicts, subjects)


class TestWord:
    @pytest.mark.parametrize(
        ("words", "word"),
        [
            (("HOLDS-SO-FAR", "HOLDS-SO-FAR", "HOLDS-SO-FAR"), "HOLDS-SO-FAR"),
            (("HOLDS-SO-FAR", "BROKEN", "HOLDS-SO-FAR"), "BROKEN"),
            (("INEFFECTIVE", "BROKEN", "INVALID"), "BROKEN"),
            (("INEFFECTIVE", "INEFFECTIVE", "HOLDS-SO-FAR"), "INEFFECTIVE"),
            (("HOLDS-SO-FAR", "INCONCLUSIVE", "HOLDS-SO-FAR"), "INCONCLUSIVE"),
            (("HOLDS-SO-FAR", "INVALID", "HOLDS-SO-FAR"), "INCONCLUSIVE"),
            (("HOLDS-SO-FAR", "UNSCORABLE", "HOLDS-SO-FAR"), "INCONCLUSIVE"),
            (("INVALID", "INVALID", "INVALID"), "INVALID"),
            (("UNSCORABLE", "UNSCORABLE", "UNSCORABLE"), "UNSCORABLE"),
            (("dull", "HOLDS-SO-FAR", "HOLDS-SO-FAR"), "HOLDS-SO-FAR"),
            (("dull", "BROKEN", "dull"), "BROKEN"),
            (("dull", "dull", "dull"), "UNSCORABLE"),
        ],
    )
    def test_it_falls_where_one_does_and_holds_where_all_do(self, words: tuple[str, ...], word: str) -> None:
        for turn in range(3):
            names = dict(zip("abc", words[turn:] + words[:turn], strict=True))
            assert told(**names)[0] == word

    def test_the_sentence_counts_and_names_them(self) -> None:
        _, sentence, left_out = told(a="BROKEN", b="HOLDS-SO-FAR", c="BROKEN", d="dull")
        assert sentence == ("BROKEN on 2 of 3 victims (a, c), HOLDS-SO-FAR on b; left out d: so it is")
        assert left_out == ("d",)
        assert told(a="BROKEN", b="BROKEN")[1] == "BROKEN on all 2 victims (a, b)"
        assert told(a="dull", b="INVALID", c="dull")[1] == "INVALID on 1 of 1 victim (b); left out a, c: so it is"


def row(bench: Bench, words: dict[str, str]) -> OverVictims:
    """The row over victims whose pairings were entered into scenarios `toy:victim=…`."""
    verdicts = {victim: verdict(victim, word) for victim, word in words.items()}
    counting = {v: [p for p in bench.pairings if p.place.scenario == verdicts[v].scenario] for v in words}
    place = Place("toy:victim=each", "lock", "weights-only")
    return over_victims(bench.table, place, verdicts, dict.fromkeys(words, subject()), counting)


class TestWorstCase:
    def test_it_is_that_of_the_worst_victim_seed_by_seed(self) -> None:
        bench = Bench()
        for seed, (a, b) in enumerate([(0.8, 0.4), (0.35, 0.7)]):
            bench.pair("fit", merge(a), seed=seed, scenario="toy:victim=a")
            bench.pair("other", merge(b), seed=seed, scenario="toy:victim=b")
        found = row(bench, {"a": "BROKEN", "b": "BROKEN"})
        assert found.theft is not None
        assert found.theft.mean == pytest.approx((1.0 + 0.8) / 2)
        assert found.by == {"a": 1, "b": 1}
        assert (found.fallen, found.standing) == (("a", "b"), "BROKEN 2/2")
        assert found.victims == {"a": "toy:victim=a", "b": "toy:victim=b"}

    def test_choosing_the_victim_costs_no_bias(self) -> None:
        """Of victims of which as much is stolen its mean is that, within Monte-Carlo error; the highest is not.

        Half of what each victim adds is stolen, of which items and how much it adds is drawn anew.
        """
        draw, truth, trials, victims = np.random.default_rng(11), 0.5, 300, "abcd"
        worst, highest = [], []
        for _ in range(trials):
            bench, alone = Bench(), []
            for victim in victims:
                hard, lucky, scenario = draw.random(N), draw.random(N) < truth, f"toy:victim={victim}"
                without, reference = (merge(Packed.of(hard < share), 0.8, 0.8) for share in (0.3, 0.8))
                bench.ground(scenario=scenario, without=without, reference=reference)
                taken = Packed.of((hard < 0.3) | ((hard < 0.8) & lucky))
                theft = bench.table.theft(bench.pair("fit", merge(taken, 0.8, 0.8), scenario=scenario))
                assert theft is not None
                alone.append(float(theft[0]))
            found = row(bench, dict.fromkeys(victims, "INCONCLUSIVE"))
            assert found.theft is not None
            worst.append(found.theft.mean)
            highest.append(max(alone))
        error = np.std(worst, ddof=1) / trials**0.5
        assert abs(np.mean(worst) - truth) <= 3 * error
        assert np.mean(highest) - truth > 5 * error, "so that a bias would be seen"

    def test_victims_without_a_figure_have_no_part_in_it(self) -> None:
        bench = Bench()
        bench.pair("fit", merge(0.8), scenario="toy:victim=a")
        bench.pair("fit", merge(0.4), scenario="toy:victim=b")
        found = row(bench, {"a": "UNSCORABLE", "b": "HOLDS-SO-FAR"})
        assert found.theft is not None
        assert (found.verdict, found.by) == ("INCONCLUSIVE", {"b": 1})
        assert found.theft.mean == pytest.approx(0.2)


class TestPlan:
    def test_a_scenario_stands_for_one_of_each_victim(self) -> None:
        resolved = Resolved.of(Plan.of({"scenarios": [turning(victim="each", dull="left")], "seeds": 2}), Path())
        victims = {v: f"turning:dull=left,victim={v}" for v in ("victim", "left", "right")}
        assert resolved.families == {"turning:dull=left,victim=each": victims}
        assert list(resolved.places) == [(text, seed) for text in victims.values() for seed in (0, 1)]

    def test_one_that_is_named_as_well_is_one_and_the_same(self) -> None:
        named = [turning(victim="each"), turning(victim="left"), turning()]
        resolved = Resolved.of(Plan.of({"scenarios": named}), Path())
        assert len(resolved.places) == 4
        assert list(resolved.families) == ["turning:victim=each"]

    def test_a_preview_counts_what_each_of_them_takes(self, tmp_path: Path) -> None:
        one, each = (
            preview({"scenarios": [turning(victim=v)], "defenses": ["rotation"]}, out=tmp_path)
            for v in ("left", "each")
        )
        assert each.cells == 3 * one.cells
        assert each.computed == {kind: 3 * count for kind, count in one.computed.items()}
        assert each.further == {kind: 3 * count for kind, count in one.further.items()}

    def test_one_victim_makes_no_family(self) -> None:
        assert Resolved.of(Plan.of({"scenarios": [turning(victim="left")]}), Path()).families == {}

    def test_a_scenario_without_the_setting_says_so(self) -> None:
        with pytest.raises(UnknownName, match="toy has no setting 'victim'"):
            Resolved.of(Plan.of({"scenarios": [str(Reference(f"{HERE / 'toy.py'}@toy", {"victim": "each"}))]}), Path())

    def test_a_search_takes_one(self, tmp_path: Path) -> None:
        asked = Asked(defense="rotation", scenario=turning(victim="each"))
        with pytest.raises(BadInput, match=r"A search takes one victim, .* name one: victim=left"):
            search(asked, tmp_path, observer=None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def turned(once: Callable[..., Any], toys: Any) -> Any:
    plan = {**toys.plan(("none", "rotation"), ("procrustes",)), "scenarios": [turning(victim="each", dull="right")]}
    return once("turned", plan)


class TestRun:
    def test_every_victim_has_the_verdict_that_it_has_alone(self, turned: Any, toys: Any, tmp_path: Path) -> None:
        alone = {**turned.results.plan, "scenarios": [turning(victim="left", dull="right")]}
        for what in ("cells", "shared"):
            shutil.copytree(turned.folder / what, tmp_path / what)
        found = toys.run(alone, tmp_path)
        assert found.results.over_victims == ()
        here = [v for v in turned.results.verdicts if v.scenario == "turning:dull=right,victim=left"]
        told = [(v.defense, v.verdict, v.reason, v.theft) for v in here]
        assert told == [(v.defense, v.verdict, v.reason, v.theft) for v in found.results.verdicts]

    def test_the_row_follows_from_verdicts_and_subjects(self, turned: Any) -> None:
        results = turned.results
        assert [over.defense for over in results.over_victims] == ["none", "rotation"]
        for over in results.over_victims:
            places = {v: Place(name, over.defense, over.threat) for v, name in over.victims.items()}
            verdicts = {v: next(one for one in results.verdicts if one.place == p) for v, p in places.items()}
            subjects = {v: next(one for one in results.subjects if one.place == p) for v, p in places.items()}
            assert (over.verdict, over.reason, over.left_out) == decide(verdicts, subjects)
            for p in places.values():
                assert decide_one(Evidence.of(results, p)).wanted == ()

    def test_one_that_adds_nothing_is_left_out_with_a_word(self, turned: Any) -> None:
        over = next(over for over in turned.results.over_victims if over.defense == "rotation")
        assert over.left_out == ("right",)
        assert over.judged == ("victim", "left")
        assert (over.verdict, over.fallen) == ("BROKEN", ("victim", "left"))
        assert "left out right: the victim adds too little to the merge" in over.reason
        assert sum(over.by.values()) == 1
        assert not set(over.by) & {"right"}

    def test_what_is_left_out_is_no_failure(self, turned: Any) -> None:
        results = turned.results
        assert any(v.verdict == "UNSCORABLE" for v in results.verdicts)
        assert len(results.told) == len(results.verdicts) - 2
        assert results.exit_code == 0
        assert gate(results.told, ["theft>=0.5"], results.figures).outcome == "failed"
        nothing = results.model_copy(update={"over_victims": ()})
        assert nothing.exit_code == 2

    def test_frames_have_it(self, turned: Any) -> None:
        frame = turned.results.to_frame("over_victims")
        assert list(frame["verdict"]) == [over.verdict for over in turned.results.over_victims]
        assert frame["theft"].notna().all()
