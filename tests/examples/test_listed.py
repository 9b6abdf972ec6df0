"""No block of code in the documentation is there that nothing checks, but for those that are listed with a reason."""

from __future__ import annotations

import re

from tests.examples.listed import CHECKED, ELSEWHERE, NOT_OURS, ONLY_PARSED, PAGES, SHOWN, bare, blocks, commands
from tests.pages import ROOT


def test_every_block_is_checked_or_listed() -> None:
    known = {(name, begins) for name, begun in SHOWN.items() for begins in begun}
    met = set()
    for name, page in PAGES.items():
        for block in page.blocks:
            if block.language not in CHECKED:
                fits = {(at, begins) for at, begins in known if at == name and block.text.startswith(begins)}
                assert len(fits) == 1, f"{name}: give this a language, or list it as SHOWN:\n{block.text}"
                met |= fits
    assert known == met, "listed, and no longer there"
    assert all(list(blocks(language)) for language in CHECKED)


def test_listed_commands_are_there() -> None:
    every = {bare(line) for name in PAGES for line in commands(name)}
    assert set(ONLY_PARSED) <= every


def test_tests_that_are_named_as_reasons_exist() -> None:
    reasons = (
        *ONLY_PARSED.values(),
        *NOT_OURS.values(),
        *(told for begun in SHOWN.values() for told in begun.values()),
    )
    named = {file for told in reasons for file in re.findall(r"tests/[\w/]+\.py", told)}
    assert len(named) > 5
    assert all((ROOT / file).is_file() for file in named)
    for name, test in ELSEWHERE.items():
        assert name in (ROOT / test).read_text(encoding="utf-8"), f"{test} says nothing of {name}"
