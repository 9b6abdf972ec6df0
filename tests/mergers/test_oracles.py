"""Every merger against mergekit, peft, its release or its paper, and the table that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redteam.plugins.registry import MERGERS
from tests.mergers.oracles import differences, rows

FOUND = list(differences())


@pytest.mark.parametrize(("text", "source", "difference"), FOUND, ids=[f"{text} {source}" for text, source, _ in FOUND])
def test_it_is_what_its_source_makes(text: str, source: str, difference: float) -> None:
    in_float32 = source == "mergekit" or MERGERS.load(text).spec.needs  # networks run in it
    assert difference <= (1e-6 if in_float32 else 1e-9)


def test_the_docs_say_of_every_merger_what_it_was_held_against(page: Callable[[str], Any]) -> None:
    """Differences are rounding, and may be a digit less or more elsewhere than where the table was made."""
    told = [line.strip("| ").split(" | ") for line in page("docs/mergers.md").between("held").splitlines()[2:]]
    found = [line.strip("| \n").split(" | ") for line in list(rows())[1:]]
    assert [row[:2] for row in told] == [row[:2] for row in found], "\n" + "".join(rows())
    assert {row[0].strip("`") for row in told} == {*MERGERS.names} - {"mergekit"}, "which is itself a source"
    for row, made in zip(told, found, strict=True):
        assert float(made[2]) <= 10 * float(row[2]), row
