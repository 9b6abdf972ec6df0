"""The documentation's site: built strictly, it asks the network for nothing, and everybody can read and search it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock

from tests.chromium import in_a_browser

ROOT = Path(__file__).parent.parent
LOOKED_AT = ("index", "leaderboard", "verdicts", "reference/commands", "reference/python")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once for all workers, in a process of its own, which leaves these without mkdocs's loggers and warnings."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    build = (sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder)
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            done = subprocess.run(build, cwd=ROOT, env=env, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
    return folder


class Read(HTMLParser):
    """What a page loads, what it links to, and where links to it can lead."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] or "" for name in ("id", "name") if name in given}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        elif tag == "link" and given.get("rel") in ("canonical", "prev", "next"):
            return
        else:
            self.loads += [given[name] or "" for name in ("src", "srcset", "href", "data") if given.get(name)]


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Read]:
    # 404.html is served under any address, so that its links begin at the root.
    return {path: Read(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_nothing_comes_from_elsewhere(site: Path, pages: dict[Path, Read]) -> None:
    loaded = {(path, one) for path, read in pages.items() for one in read.loads}
    assert any(one.endswith("iframe-worker.js") for _, one in loaded)
    for path, one in loaded:
        parts = urlsplit(one)
        assert (parts.scheme, parts.netloc) in (("", ""), ("data", "")), f"{path.name} loads {one}"
        assert parts.scheme or (path.parent / unquote(parts.path)).exists(), f"{path.name} loads {one}"
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']*", styles) == []


def test_every_link_and_anchor_leads_somewhere(pages: dict[Path, Read]) -> None:
    inner = 0
    for path, read in pages.items():
        for link in read.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            inner += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link}"
    assert inner > 1000


def test_every_command_export_and_row_is_there(pages: dict[Path, Read], site: Path) -> None:
    import redteam
    from redteam.cli.main import COMMANDS
    from redteam.evaluation.results import Results

    assert {f"redteam-{name}" for name in COMMANDS} <= pages[site / "reference/commands.html"].anchors
    exported = {f"{redteam._HOME[name]}.{name}" for name in redteam.__all__}
    assert exported <= pages[site / "reference/python.html"].anchors
    rows = {name.lower() for name in Results.model_json_schema()["$defs"]}
    assert rows <= pages[site / "reference/results.html"].anchors


class Opened:
    """A page of the site, and everything that it asked the network for or complained of."""

    def __init__(self, browser: Any, file: Path, width: int = 1280) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900})
        self.page = self.context.new_page()
        self.away: list[str] = []
        self.complaints: list[str] = []
        self.context.route(lambda address: not address.startswith(("file:", "data:")), self._refuse)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(file.as_uri())

    def _refuse(self, route: Any) -> None:
        self.away.append(route.request.url)
        route.abort()


@pytest.mark.slow
@in_a_browser
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", LOOKED_AT)
def test_axe_finds_nothing_and_no_request_leaves(browser: Any, site: Path, name: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened = Opened(browser, site / f"{name}.html", width)
    assert (opened.away, opened.complaints) == ([], [])
    found = Axe().run(opened.page)
    assert "color-contrast" in {rule["id"] for rule in found.response["passes"]}
    assert found.violations_count == 0, found.generate_report()
    assert opened.away == []
    wide, room = opened.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= room
    opened.context.close()


@in_a_browser
def test_the_search_finds_a_page_without_a_server(browser: Any, site: Path) -> None:
    opened = Opened(browser, site / "index.html")
    opened.page.fill("input.md-search__input", "vocabulary")
    opened.page.wait_for_selector(".md-search-result__link", state="attached")
    links = opened.page.eval_on_selector_all(".md-search-result__link", "all => all.map(one => one.href)")
    assert any("/audit.html" in link or "/attacks.html" in link for link in links), links
    assert (opened.away, opened.complaints) == ([], [])
    opened.context.close()


@in_a_browser
def test_the_leaderboard_sorts_and_filters(browser: Any, site: Path) -> None:
    opened = Opened(browser, site / "leaderboard.html")
    page = opened.page

    def column(name: str) -> list[str]:
        at = page.eval_on_selector_all("#board th", "all => all.map(one => one.textContent)").index(name)
        script = "(all, at) => all.filter(one => !one.hidden).map(one => one.cells[at].textContent)"
        shown: list[str] = page.eval_on_selector_all("#board tbody tr", script, at)
        return shown

    every = column("defense")
    assert len(every) > 27
    head = page.get_by_role("button", name="theft")
    for sign in (1, -1):
        head.click()
        thefts = [float(one.split()[0]) for one in column("theft") if one[0].isdigit()]
        assert len(set(thefts)) > 2
        assert thefts == sorted(thefts, key=lambda theft: sign * theft)
        assert sorted(column("defense")) == sorted(every)
    assert page.get_attribute("#board th:has(button:text-is('theft'))", "aria-sort") == "descending"
    page.get_by_label("verdict").select_option("INEFFECTIVE")
    found = column("verdict")
    assert 0 < len(found) < len(every)
    assert {one.split()[0] for one in found} == {"INEFFECTIVE"}
    page.get_by_label("Filter").fill("trap2")
    assert column("defense")
    assert all("trap2" in one for one in column("defense"))
    assert page.text_content(".filters output") == f"{len(column('defense'))} of {len(every)}"
    page.get_by_label("Filter").fill("no such lock")
    assert column("defense") == []
    assert (opened.away, opened.complaints) == ([], [])
    opened.context.close()
