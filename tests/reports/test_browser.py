"""The page in a real browser: nothing leaves it, it fits, everyone can read it, and its numbers are the results'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redteam_reports.results_html import write

from redteam.evaluation.gate import gate
from redteam.evaluation.results import Results
from tests.chromium import in_a_browser

pytestmark = in_a_browser
SIZES = [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")]


@pytest.fixture(scope="module")
def results(made: Any) -> Results:
    threats = ("weights-only", "few-shot:samples=8", "few-shot:samples=128")
    small: Results = made(listed=1, threats=threats)
    return small.model_copy(update={"gate": gate(small.verdicts, ["theft>=0.5"])})


@pytest.fixture(scope="module")
def file(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write(results, path)
    return path


@pytest.fixture(scope="module")
def little(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a page can have, and little of it: axe takes its time."""
    scales = ("mergelock:scale=[0.5,2]", "mergelock:scale=[0.1,10]", "mergelock:scale=[0.01,100]")
    defenses = ("none", *scales, "null-shift+rotation", "gaussian-noise", "split-neurons", "fresh-weights")
    threats = ("weights-only", "few-shot:samples=8", "few-shot:samples=128")
    small = made(listed=1, scenarios=("digits",), defenses=defenses, threats=threats, mergers=("task-arithmetic",))
    path = tmp_path_factory.mktemp("little") / "report.html"
    write(small.model_copy(update={"gate": gate(small.verdicts, ["theft>=0.5"])}), path)
    return path


class Opened:
    """The page, and everything that it asked for or complained of."""

    def __init__(self, browser: Any, file: Path, width: int, scheme: str, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.route("**/*", self._route)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(file.as_uri())

    def _route(self, route: Any) -> None:
        self.asked.append(route.request.url)
        if route.request.url.startswith("file://"):
            route.continue_()
        else:
            route.abort()


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size[0]}-{size[1]}")
def opened(browser: Any, file: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    one = Opened(browser, file, *request.param)
    yield one
    one.context.close()


def test_is_silent_and_asks_for_nothing_but_itself(opened: Opened, file: Path) -> None:
    opened.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    opened.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = false; })")
    assert opened.asked == [file.as_uri()]
    assert opened.complaints == []


def test_only_tables_scroll_sideways(opened: Opened) -> None:
    opened.page.evaluate(
        "document.querySelectorAll('main details').forEach(one => { one.open = one.closest('#cells') === null; })"
    )
    wide, room = opened.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= room
    lost = opened.page.evaluate(
        """() => [...document.querySelectorAll('main *')]
            .filter(one => one.checkVisibility() && !one.closest('.scroll, svg'))
            .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
            .map(one => one.outerHTML.slice(0, 80))"""
    )
    assert lost == []


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}-{size[1]}")
def test_axe_finds_nothing(browser: Any, little: Path, size: tuple[int, str]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened = Opened(browser, little, *size)
    opened.page.evaluate("document.querySelectorAll('details.more, details.why').forEach(one => { one.open = true; })")
    for part in ("#cells", "#controls"):
        opened.page.evaluate(f"document.querySelector('{part} details details').open = true")
    found = Axe().run(opened.page)
    assert "color-contrast" in {rule["id"] for rule in found.response["passes"]}
    assert found.violations_count == 0, found.generate_report()
    opened.context.close()


def test_the_keyboard_reaches_everything(opened: Opened) -> None:
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = false; })")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0, "it can be seen when it has focus"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    first = page.evaluate(
        "document.activeElement.matches('a, summary, .scroll') && document.activeElement.closest('main') !== null"
    )
    assert first
    stuck = page.evaluate(
        """() => [...document.querySelectorAll('.scroll, summary, button, a, input')]
            .filter(one => one.checkVisibility())
            .filter(one => { one.focus(); return document.activeElement !== one; }).length"""
    )
    assert stuck == 0
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(one => one.ariaLabel && one.tabIndex === 0)")


def test_the_verdict_is_in_the_first_screen(opened: Opened) -> None:
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = false; }); scrollTo(0, 0)")
    first = page.evaluate(
        """() => [...document.querySelectorAll('article.verdict')].slice(0, 2).map(one =>
            [one.querySelector('.word'), one.querySelector('.bars'), one.querySelector('.says')].map(part => {
                const box = part.getBoundingClientRect();
                return box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight && box.width > 40;
            }))"""
    )
    assert first == [[True, True, True]] * 2


def test_a_closed_page_is_short(opened: Opened, results: Results) -> None:
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = false; })")
    shown = page.evaluate("[...document.querySelectorAll('article.verdict')].filter(o => o.checkVisibility()).length")
    assert 0 < shown < len(results.verdicts)
    assert page.evaluate("document.documentElement.scrollHeight") < 3000 + 250 * shown


def test_a_link_opens_what_it_leads_to(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, 1280, "light")
    assert not opened.page.locator("#flag-costly").is_visible()
    opened.page.locator("article.verdict a.flag", has_text="COSTLY").first.click()
    assert opened.page.locator("#flag-costly").is_visible()
    opened.context.close()


def six_digits(*figures: float) -> list[float]:
    """As a page's data attributes have them."""
    return [float(f"{figure:.6g}") for figure in figures]


def test_its_numbers_are_those_of_the_results(opened: Opened, results: Results) -> None:
    found = opened.page.evaluate(
        """() => [...document.querySelectorAll('article.verdict')].map(one =>
            [one.id, one.dataset, one.querySelector('dl').textContent, one.querySelector('.word').textContent])"""
    )
    assert {name for name, *_ in found} == {f"v{number}" for number in range(1, len(results.verdicts) + 1)}
    for name, data, text, word in found:
        verdict = results.verdicts[int(name[1:]) - 1]
        assert (data["scenario"], data["defense"], data["threat"]) == (
            verdict.scenario,
            verdict.defense,
            verdict.threat,
        )
        assert word == data["verdict"] == verdict.verdict
        if verdict.theft is None:
            assert "theftMean" not in data
            continue
        told = [float(data[f"theft{part}"]) for part in ("Mean", "Low", "High")]
        assert told == six_digits(verdict.theft.mean, verdict.theft.low, verdict.theft.high)
        assert f"Theft{verdict.theft} by {verdict.attack} with {verdict.merger}" in text


def test_the_heat_maps_numbers_are_those_of_the_results(opened: Opened, results: Results) -> None:
    found = opened.page.evaluate(
        """() => [...document.querySelectorAll('table.heat')].flatMap(table => {
            const heads = [...table.tHead.rows[0].cells].slice(1).map(one => one.textContent);
            return [...table.tBodies[0].rows].flatMap(row => [...row.cells].slice(1).map((cell, k) => [
                table.dataset.scenario, table.dataset.threat, table.dataset.merger,
                row.cells[0].querySelector('code').textContent, heads[k], {...cell.dataset}, cell.textContent]));
        })"""
    )
    by_place = {
        (f.scenario, f.threat, f.merger, f.attack, f.defense): f for f in results.figures if f.choice == "attack"
    }
    assert len(found) == len(by_place)
    worst = {(v.scenario, v.threat, v.merger, v.attack, v.defense) for v in results.verdicts}
    for *place, data, text in found:
        figure = by_place[tuple(place)]
        if figure.theft is None or figure.counted is None:
            assert text == figure.status == data["status"]
            continue
        told = [float(data[f"theft{part}"]) for part in ("Mean", "Low", "High")]
        assert told == six_digits(figure.theft.mean, figure.theft.low, figure.theft.high)
        assert [float(data.get("countedMean", data["theftMean"]))] == six_digits(figure.counted.mean)
        assert text.startswith(
            f"{figure.theft.mean:.2f}[{figure.theft.low:.2f}, {figure.theft.high:.2f}] n={figure.cells}"
        )
        assert ("worst" in text) == (tuple(place) in worst)


def test_cells_can_be_filtered_and_sorted(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, 1280, "light")
    page = opened.page
    page.evaluate("document.querySelector('#cells details').open = true")
    page.fill("#filter-by", "growth=2 hungarian ties error")
    shown = page.evaluate(
        """() => [...document.querySelectorAll('#cells tbody tr')].filter(row => row.checkVisibility())
            .map(row => row.textContent)"""
    )
    assert len(shown) == 2
    assert all(text.startswith("hungarianties") and "error" in text for text in shown)
    page.fill("#filter-by", "")
    page.evaluate("document.querySelector('#cells details details').open = true")
    page.locator("#cells details details:first-of-type th button", has_text="theft").click()
    thefts = page.evaluate(
        "[...document.querySelector('#cells tbody').rows].map(row => parseFloat(row.cells[4].textContent))"
    )
    assert thefts == sorted(thefts)
    assert len(set(thefts)) > 1
    assert opened.complaints == []
    opened.context.close()


def test_is_whole_without_a_script(browser: Any, file: Path, results: Results) -> None:
    opened = Opened(browser, file, 1280, "light", java_script_enabled=False)
    assert opened.page.locator("article.verdict").count() == len(results.verdicts)
    assert not opened.page.locator("#filter").is_visible()
    assert opened.page.locator("#cells tbody tr").count() == len(results.cells)
    opened.context.close()


def test_prints_light_and_whole(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, 700, "dark")
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.evaluate("[...document.querySelectorAll('details.more')].every(one => one.open)")
    wide = opened.page.evaluate("[...document.querySelectorAll('.heat')].map(one => one.getBoundingClientRect().right)")
    assert max(wide) <= 700
    assert opened.page.pdf(format="A4").startswith(b"%PDF")
    opened.context.close()
