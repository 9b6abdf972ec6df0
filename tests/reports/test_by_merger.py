"""The lock × merger tables of reports."""

from __future__ import annotations

from typing import Any

import pytest
from redteam_reports import by_merger, markdown, results_html

from redteam.evaluation.results import ByMerger
from redteam.evaluation.statistics import Interval


def interval(mean: float) -> Interval:
    return Interval(mean, mean - 0.1, mean + 0.1, 1, "test items")


@pytest.fixture
def small(made: Any) -> Any:
    return made(scenarios=("digits",), mergers=("ties",))


@pytest.fixture
def shown(small: Any) -> Any:
    place = {"scenario": "toy", "threat": "weights-only"}
    rows = (
        ByMerger(**place, defense="lock", merger="sum", gain=interval(0.6), telling=True, naive=interval(0.1),
                 worst=interval(0.7), attack="fit", cells=3),
        ByMerger(**place, defense="lock", merger="dull", gain=interval(0.01), naive=interval(0.3), worst=interval(0.3),
                 attack="none", cells=1, reason="gains too little"),
        ByMerger(**place, defense="lock", merger="two", reason="two merges exactly 2 experts and was given 3."),
        ByMerger(**place, defense="lock", merger="late", reason="the lock fell before its turn"),
        ByMerger(**place, defense="none", merger="sum", gain=interval(0.6), telling=True, naive=interval(1.0),
                 worst=interval(1.0), attack="none", cells=1),
    )  # fmt: skip
    return small.model_copy(update={"by_merger": rows, "merger_gauntlets": {"turns-1": ("sum", "dull", "two", "late")}})


def test_a_square_says_what_no_attack_and_all_attacks_take(shown: Any) -> None:
    (matrix,) = by_merger.matrices(shown)
    assert matrix.mergers == ("sum", "dull", "two", "late")
    assert [square.text for square in matrix.rows["lock"]] == [
        "0.10 → 0.70",
        "0.30 → 0.30 (gains too little)",
        "two merges exactly 2 experts and was given 3.",
        "–",
    ]
    assert [square.step for square in matrix.rows["lock"]] == [7, None, None, None]
    assert [square.text for square in matrix.rows["none"]] == ["1.00 → 1.00", "–", "–", "–"]
    assert matrix.gains == ("0.60 [0.50, 0.70]", "0.01 [-0.09, 0.11]", "–", "–")


def test_it_stands_in_both_reports(shown: Any, tmp_path: Any) -> None:
    markdown.write(shown, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "## Theft by merger" in text
    assert "| `lock` | 0.10 → 0.70 | 0.30 → 0.30 (gains too little) |" in text
    assert "`turns-1` merges with `sum`, `dull`, `two`, `late`" in text
    page = results_html.render(shown)
    assert 'data-threat="weights-only"' in page
    assert "0.10 → <b>0.70</b>" in page


def test_without_several_mergers_there_is_none(small: Any) -> None:
    bare = small.model_copy(update={"by_merger": ()})
    assert not by_merger.matrices(bare)
    assert "Theft by merger" not in results_html.render(bare)
