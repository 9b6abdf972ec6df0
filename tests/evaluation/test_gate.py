"""The gate: what `--fail-on` may say, and what it answers."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest

from redteam.errors import BadInput
from redteam.evaluation.gate import Condition, gate, told
from redteam.evaluation.results import Figure, SeedFigure, Verdict
from redteam.evaluation.statistics import Interval
from redteam.evaluation.verdict import Word


def verdict(defense: str = "lock", word: str = "BROKEN", theft: float | None = 0.6, **more: Any) -> Verdict:
    given = {
        "scenario": "toy",
        "defense": defense,
        "threat": "weights-only",
        "verdict": word,
        "reason": "r",
        "flags": (),
    }
    interval = None if theft is None else Interval(theft, theft - 0.1, theft + 0.1, 5, "seeds")
    return Verdict(**{**given, "theft": interval, **more})


def even(value: float) -> Interval:
    return Interval(value, value - 0.01, value + 0.01, 5, "seeds")


READ = {
    "theft>=0.5": ("theft", "", "mean", ">=", 0.5),
    " theft.high > .5 ": ("theft", "", "high", ">", 0.5),
    "counted.low<=5e-1": ("counted", "", "low", "<=", 0.5),
    "advantage<-0.1": ("advantage", "", "mean", "<", -0.1),
    "protection.mean<1": ("protection", "", "mean", "<", 1.0),
    "fidelity<0.985": ("fidelity", "", "mean", "<", 0.985),
    "fidelity.float16<0.985": ("fidelity", "float16", "mean", "<", 0.985),
    "fidelity.bfloat16.low<0.985": ("fidelity", "bfloat16", "low", "<", 0.985),
}
MALFORMED = ["", "theft", "theft=0.5", "theft==0.5", "theft=>0.5", ">=0.5", "theft>=", "theft>=half", "theft>=nan"]
MALFORMED += ["theft>=inf", "thief>=0.5", "theft.median>=0.5", "theft.low.high>=0.5", "theft.float16>=0.5", "theft.>=1"]
MALFORMED += ["fidelity..low<1", "theft>=0.5 fidelity<1", "0.5<=theft", "Theft>=0.5", "theft!=0.5", "theft>==0.5"]
MALFORMED += [
    "verdict=BROKEN",
    "verdict>=BROKEN",
    "verdict",
    "verdict==",
    "verdict.low==BROKEN",
    "verdict==BROKEN BROKEN",
]
MALFORMED += ["verdict==broken", "verdict!=HOLDS", "verdict==SAFE"]
HINTS = {
    "verdict==broken": "did you mean BROKEN?",
    "verdict!=HOLDS": "did you mean HOLDS-SO-FAR?",
    "verdict!=INVALD": "did you mean INVALID?",
    "verdict==SAFE": "known are UNSCORABLE, INEFFECTIVE, BROKEN, INVALID, HOLDS-SO-FAR, INCONCLUSIVE.",
    "verdict>=BROKEN": "a verdict is compared with == or !=",
    "theft==0.5": "write it as in 'verdict!=HOLDS-SO-FAR', 'theft>=0.5'",
}
ALWAYS = ["theft>=0", "theft<=1", "theft.high<2", "counted>-0.1", "protection.low>=0", "advantage>=-1", "advantage<=1"]
ALWAYS += ["fidelity>=0", "fidelity.float16>-1"]
NEVER = ["theft.high>=2", "theft>1", "theft<0", "counted>=1.01", "protection.mean<=-0.5", "advantage>1", "advantage<-1"]
NEVER += ["fidelity<0", "fidelity.bfloat16.low<=-0.1"]
AT_AN_END = ["theft>0", "theft<1", "theft>=1", "theft<=0", "protection<1", "advantage>=1", "advantage>-1"]
AT_AN_END += ["fidelity<=0", "fidelity>=1", "fidelity<1.5"]  # rounding can help by luck


@pytest.mark.parametrize("text", READ)
def test_reads(text: str) -> None:
    c = Condition.parse(text)
    assert (c.metric, c.dtype, c.part, c.comparison, c.limit) == READ[text]
    assert c.text == text.strip()


@pytest.mark.parametrize("word", get_args(Word))
@pytest.mark.parametrize("comparison", ["==", "!="])
def test_reads_every_word(word: str, comparison: str) -> None:
    c = Condition.parse(f" verdict {comparison} {word} ")
    assert (c.metric, c.comparison, c.limit) == ("verdict", comparison, word)


@pytest.mark.parametrize("text", MALFORMED)
def test_refuses_in_one_sentence(text: str) -> None:
    with pytest.raises(BadInput) as error:
        Condition.parse(text)
    assert str(error.value).startswith(f"Cannot read the gate {text!r}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", HINTS)
def test_says_how_to_write_it(text: str) -> None:
    with pytest.raises(BadInput) as error:
        Condition.parse(text)
    assert HINTS[text] in str(error.value)


@pytest.mark.parametrize("text", [*ALWAYS, *NEVER])
def test_refuses_what_does_not_depend_on_the_figure(text: str) -> None:
    outcome = "always fails" if text in ALWAYS else "can never fail"
    with pytest.raises(BadInput, match=f"^The gate {re.escape(text)} {outcome}, since .*; choose a limit"):
        Condition.parse(text)


@pytest.mark.parametrize("text", AT_AN_END)
def test_accepts_a_limit_at_the_end_of_the_range_where_it_still_decides(text: str) -> None:
    assert Condition.parse(text).text == text


@pytest.mark.parametrize("word", get_args(Word))
def test_words_are_defined_whatever_the_verdict(word: str) -> None:
    one = verdict(word=word, theft=None)
    for other in get_args(Word):
        assert gate([one], [f"verdict=={other}"]).outcome == ("failed" if word == other else "held")
        assert gate([one], [f"verdict!={other}"]).outcome == ("held" if word == other else "failed")


def test_words_and_figures_together() -> None:
    lost, good = verdict(word="INVALID", theft=0.1), verdict(word="HOLDS-SO-FAR", theft=0.1)
    both = ["verdict!=HOLDS-SO-FAR", "theft>=0.5"]
    assert gate([good], both).outcome == "held"
    answer = gate([good, lost], both)
    assert answer.outcome == "undefined", "the figure is"
    assert answer.failed == answer.undefined == (("toy", "lock", "weights-only"),)
    assert gate([lost], ["verdict!=HOLDS-SO-FAR"]).outcome == "failed"


@pytest.mark.parametrize(("part", "limit"), [("low", 0.5), ("mean", 0.6), ("high", 0.7)])
@pytest.mark.parametrize(("comparison", "at", "under"), [(">=", 1, 0), (">", 0, 0), ("<=", 1, 1), ("<", 0, 1)])
def test_every_part_and_operator_at_its_edge(part: str, limit: float, comparison: str, at: int, under: int) -> None:
    one = verdict(theft=0.6)
    assert one.theft is not None
    edge = float(getattr(one.theft, part))
    assert edge == pytest.approx(limit)
    for value, failed in ((edge, at), (edge + 1e-9, under)):
        answer = gate([one], [f"theft.{part}{comparison}{value!r}"])
        assert answer.outcome == ("failed" if failed else "held")
        assert bool(answer.failed) == bool(failed)


def test_fidelity_is_that_of_the_worst_dtype() -> None:
    one = verdict(fidelity={"float32": even(1.0), "float16": even(0.9)})
    assert gate([one], ["fidelity<0.95"]).outcome == "failed"
    assert gate([one], ["fidelity.float32<0.95"]).outcome == "held"
    assert gate([one], ["fidelity.float16<0.95"]).outcome == "failed"
    assert gate([one], ["fidelity.float64<0.95"]).outcome == "undefined"
    assert gate([verdict()], ["fidelity<0.95"]).outcome == "undefined"


def test_what_does_not_exist_or_cannot_be_trusted_is_undefined() -> None:
    for one in (verdict(theft=None), verdict(word="INVALID", theft=0.1), verdict(word="UNSCORABLE", theft=0.1)):
        answer = gate([one], ["theft>=0.5"])
        assert (answer.outcome, answer.failed) == ("undefined", ())
        assert answer.undefined == (("toy", "lock", "weights-only"),)
    assert gate([verdict(theft=float("nan"))], ["theft>=0.5"]).outcome == "undefined"
    assert gate([verdict()], ["advantage>=0.5"]).outcome == "undefined"


def test_speaks_of_gated_verdicts_alone() -> None:
    free, lock = verdict("none", theft=1.0, gated=False), verdict(theft=0.1)
    assert gate([free, lock], ["theft>=0.5"]).outcome == "held"
    assert gate([free], ["theft>=0.5"]).outcome == "undefined", "a gate that speaks of nothing has not held"
    assert gate([], ["theft>=0.5"]).outcome == "undefined"


def test_one_failing_expression_is_enough_and_undefined_comes_first() -> None:
    good, bad, lost = verdict("good", theft=0.1), verdict("bad", theft=0.9), verdict("lost", theft=None)
    answer = gate([good, bad], ["protection<0.5", "theft>=0.5"])
    assert answer.expression == "protection<0.5 or theft>=0.5"
    assert (answer.outcome, answer.failed) == ("undefined", (("toy", "bad", "weights-only"),))
    answer = gate([good, bad, lost], ["theft>=0.5"])
    assert (answer.outcome, answer.failed) == ("undefined", (("toy", "bad", "weights-only"),))
    assert answer.undefined == (("toy", "lost", "weights-only"),)
    assert gate([good, bad], ["theft>=0.95", "theft<0.2"]).failed == (("toy", "good", "weights-only"),)


def test_told_in_words() -> None:
    good, bad, lost = verdict("good", theft=0.1), verdict("bad", theft=0.9), verdict("lost", theft=None)
    say = {len(found): told(gate(found, ["theft>=0.5"])) for found in ([], [good], [good, bad], [good, bad, lost])}
    assert say[0] == "The gate theft>=0.5 is undefined: there is no verdict that it speaks of."
    assert say[1] == "The gate theft>=0.5 held for every defense that it speaks of."
    assert say[2] == "The gate theft>=0.5 failed for bad on toy under weights-only."
    assert say[3].startswith("The gate theft>=0.5 is undefined for lost on toy under weights-only, and failed for bad")
    assert told(None) == "No gate was asked for."


def test_the_worst_seed_counts() -> None:
    """One retraining in five on which everything is stolen: the mean is 0.2, and an owner publishes one model."""
    place = {"scenario": "toy", "defense": "lock", "threat": "weights-only"}

    def figure(choice: str, thefts: list[float]) -> Figure:
        rows = tuple(
            SeedFigure(
                seed=k,
                key=0,
                attack="fit",
                merger="linear",
                theft=x,
                counted=x,
                low=0.9 * x,
                high=1.0 * x,
                sure=0.8 * x,
            )
            for k, x in enumerate(thefts)
        )
        given: dict[str, Any] = {**place, "choice": choice, "attack": "fit", "role": "recovery", "merger": "linear"}
        return Figure(**given, status="ok", per_seed=rows)

    rows = [figure("worst", [0.0, 0.0, 1.0, 0.0, 0.0]), figure("naive", [0.0, 0.7, 0.0, 0.0, 0.0])]
    one = verdict(theft=0.2, counted=even(0.2), protection=even(0.9))
    other = verdict("other", theft=0.2)
    for text in ("theft>=0.5", "theft.low>=0.9", "counted>=0.5", "protection<0.5", "protection.low<0.31"):
        assert gate([one], [text]).outcome == "held"
        assert gate([one], [text], rows).outcome == "failed"
    assert gate([one], ["protection.high<0.3"], rows).outcome == "held"
    assert gate([other], ["theft>=0.5"], rows).outcome == "held", "rows of another place say nothing about it"
    labelled = verdict(theft=0.2, advantage=even(0.1))
    assert gate([labelled], ["advantage>=0.5"], rows).outcome == "held"
