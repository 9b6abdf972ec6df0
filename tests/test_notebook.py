"""What notebooks get is what the terminal says, whole and escaped, in the colours of the page around it."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from redteam.audit import Audit, SiteFinding
from redteam.cli.answer import answer
from redteam.diff import ModelDiff, RunDiff
from redteam.diff.findings import Entry, KindDistance, VerdictChange
from redteam.notebook import Table, fragment, html
from redteam.search.results import SearchResults, Trial
from redteam.testing import toy_results

NASTY = "<script>alert(1)</script>\" onload='x' &amp; $x^2$ \u202egnp\u2069 \x1b[31m"
SHOWN = "<script>alert(1)</script>\" onload='x' &amp; $x^2$ \ufffdgnp\ufffd \ufffd[31m"


class Read(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def audit(name: str) -> Audit:
    site = SiteFinding(
        site="qk/0", kind="qk", layer=0, state="locked", group=name, before=1.5, after=0.02, comes_off=0.999
    )
    return Audit(
        model=name, base="base", architecture="vit", summary=(f"On {name} lies a lock.",), sites=(site,), tensors=()
    )


def search(name: str) -> SearchResults:
    trial = Trial(number=0, pipeline=name, status="ok", theft=0.97, seconds=0.5)
    asked = {"defense": name, "threat": "weights-only", "theft": 0.9, "repeat": f"redteam run {name}"}
    return SearchResults.model_construct(**asked, trials=(trial,), front=(0,), winner=0, scored=None, exhausted=False)


def runs(name: str) -> RunDiff:
    words = {"before": "BROKEN", "after": "HOLDS-SO-FAR", "raised": (), "dropped": ()}
    change = VerdictChange.model_construct(scenario="digits", defense=name, threat="weights-only", counts=True, **words)
    none: dict[str, Any] = dict.fromkeys(("figures", "controls", "only_a", "only_b", "engine"), ())
    return RunDiff.model_construct(
        a=name,
        b="b",
        verdicts=(change,),
        plan=(Entry(name=name, a="1", b=""),),
        compared=0,
        moved=0,
        agreeing=0,
        **none,
    )


def models(name: str) -> ModelDiff:
    kind = KindDistance.model_construct(
        kind="qk", sites=4, equal=0, as_is=1.4, up_to_gauge=1e-7, furthest=2.0, groups=(name,)
    )
    return ModelDiff.model_construct(a=name, b="b", summary=(f"{name} is b in another basis.",), kinds=(kind,))


def results(name: str) -> Any:
    whole = toy_results()
    return whole.model_copy(
        update={"verdicts": tuple(row.model_copy(update={"defense": name}) for row in whole.verdicts)}
    )


ALL: list[Callable[[str], Any]] = [results, audit, search, runs, models]


@pytest.mark.parametrize("made", ALL)
def test_strangers_names_stay_text(made: Callable[[str], Any]) -> None:
    plain, nasty = (Read(made(name)._repr_html_()) for name in ("mine", NASTY))
    assert nasty.tags == plain.tags
    assert nasty.attributes == plain.attributes <= {"class", "style", "scope"}
    assert SHOWN in nasty.text
    assert "mine" in plain.text


@pytest.mark.parametrize("made", ALL)
def test_it_is_small_and_has_no_colours_of_its_own(made: Callable[[str], Any]) -> None:
    page = made("mine")._repr_html_()
    assert len(page) < 10_000
    assert not re.search(r"color|background|url\(|src=", page)
    assert 'class="tex2jax_ignore mathjax_ignore"' in page, "dollars in names are no formulas"


def test_results_show_what_the_terminal_says() -> None:
    told = toy_results()
    text = re.sub(r"\s+", "", Read(told._repr_html_()).text)
    terminal = answer(told, width=1000)
    assert len(terminal.split()) > 40
    assert [word for word in terminal.split() if word not in text] == []


def test_tables_of_many_rows_are_cut_and_say_so() -> None:
    page = fragment((), [Table(("a",), [(str(at),) for at in range(250)]), Table(("empty",), ())])
    assert page.count("<tr>") == 101
    assert "and 150 more" in page
    assert "empty" not in page


def test_what_has_no_words_is_an_error() -> None:
    with pytest.raises(TypeError, match="no words for int"):
        html(3)
