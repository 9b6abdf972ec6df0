"""A merger with data in a run: where it is left out, that its labels count, and that no threat model shows in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

THREATS = ("weights-only", "few-shot:samples=16", "data-rich")
MERGER = "fisher:samples=16"


@pytest.fixture(scope="module")
def done(once: Callable[..., Any], toys: Any) -> Any:
    return once("merger-data", toys.plan(("rotation",), (), threats=THREATS, mergers=("linear", MERGER)))


def test_it_merges_where_data_are_granted_and_is_left_out_elsewhere(done: Any) -> None:
    cells = [cell for cell in done.results.cells if cell.attack == "none"]
    assert {(cell.threat, cell.merger) for cell in cells} == {
        *((threat, "linear") for threat in THREATS),
        *((threat, MERGER) for threat in THREATS[1:]),
    }
    assert {cell.status for cell in cells} == {"ok"}
    assert any(f"{MERGER} under weights-only: it takes 16 labelled" in told for told in done.results.untested)


def test_its_labels_are_counted_and_more_than_it_takes_change_nothing(done: Any) -> None:
    found = {(cell.threat, cell.merger): cell for cell in done.results.cells if cell.attack == "none"}
    few, rich = (found[threat, MERGER] for threat in THREATS[1:])
    assert few.cost["labels"] == rich.cost["labels"] == 16
    assert few.scores["theft"] == rich.scores["theft"]
    assert few.tasks == rich.tasks
    assert found["data-rich", "linear"].cost["labels"] == 0
