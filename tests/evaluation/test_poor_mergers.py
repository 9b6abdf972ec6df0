"""What a report says of mergers whose unlocked merge is a poor measure of theft."""

from __future__ import annotations

from typing import Any

from redteam.evaluation.poor_mergers import sentences
from redteam.evaluation.results import Subject
from tests.evaluation.rows import around


def subject(scenario: str = "toy", defense: str = "lock", **held: Any) -> Subject:
    return Subject(
        scenario=scenario, defense=defense, threat="weights-only", protects=True, published=False, exact=True,
        keyed=True, **held,
    )  # fmt: skip


MANY = {f"merger-{i}": around(0.5 + i / 100) for i in range(20)}
GOOD = dict.fromkeys(MANY, around(0.6))


def test_many_mergers_of_a_scenario_are_one_sentence_the_worst_first() -> None:
    (told,) = sentences([subject(copied=MANY, gains=GOOD), subject(defense="other", copied=MANY, gains=GOOD)])
    assert told.startswith("Whether merging on toy beats using the victim's model as it is")
    assert told.endswith(", ".join(f"merger-{i} ({0.5 + i / 100:.2f})" for i in reversed(range(20))) + ".")


def test_each_scenario_has_its_own_and_what_is_below_the_threshold_none() -> None:
    copied = {"ties": around(0.7), "linear": around(0.49)}
    found = list(sentences([subject(s, copied=copied, gains=dict.fromkeys(copied, around(0.6))) for s in "ab"]))
    assert [sentence.split(" beats")[0] for sentence in found] == ["Whether merging on a", "Whether merging on b"]
    assert all("ties (0.70)" in sentence and "linear" not in sentence for sentence in found)


def test_of_several_places_the_worst_figure_is_told() -> None:
    held = [
        subject(defense=str(copy), copied={"ties": around(copy)}, gains={"ties": around(0.6)}) for copy in (0.6, 0.8)
    ]
    (told,) = sentences(held)
    assert told.endswith("ties (0.80).")


def test_why_a_merger_was_left_out_is_told_by_reason() -> None:
    gains = {"dull": around(0.04), "copy": around(0.6), "duller": around(0.0)}
    copied = {"dull": around(0.9), "copy": around(0.9), "duller": around(0.0)}
    dull, copy = sentences([subject(gains=gains, copied=copied, left_out=("dull", "copy", "duller"))])
    assert dull.endswith("too little to be stolen: duller (0.00 [0.00, 0.05]), dull (0.04 [0.00, 0.09]).")
    assert copy.startswith("Mergers left out on toy")
    assert copy.endswith("copy (0.90).")


def test_nothing_is_said_where_every_merger_measures_well() -> None:
    assert not list(sentences([subject(copied={"ties": around(0.1)}, gains={"ties": around(0.5)})]))
