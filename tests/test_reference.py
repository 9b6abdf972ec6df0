"""The reports that are kept: each verdict is decided anew from its rows, and what is drawn from them is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from redteam.evaluation.gauntlet import Gauntlet
from redteam.evaluation.rederive import disagreements, judged_alike
from redteam.evaluation.results import Results
from redteam.plugins.files import module_from

ROOT = Path(__file__).resolve().parents[1]
TOOL = module_from(ROOT / "tools" / "reference.py")


KEPT = tuple(name for name in TOOL.NAMES if TOOL.is_kept(name))
PAGES = tuple(page for page in TOOL.PAGES if TOOL.is_kept(page))


@pytest.fixture(scope="module", params=KEPT)
def kept(request: pytest.FixtureRequest) -> Results:
    results: Results = TOOL.read(request.param)
    return results


def test_every_verdict_follows_from_the_rows(kept: Results) -> None:
    assert kept.verdicts
    assert judged_alike(kept)
    assert list(map(str, disagreements(kept))) == []


def test_it_is_of_the_plan_that_ships(kept: Results) -> None:
    from redteam.evaluation.plan import Plan, find_plan

    assert Plan.of(kept.plan) == find_plan(str(kept.plan["name"]))[0]
    assert len(kept.plan["seeds"]) == (1 if kept.plan["name"] == "mergers-docstrings" else 5)
    assert kept.coverage is not None
    assert kept.coverage.errors == kept.coverage.timeouts == 0
    assert kept.gauntlets == {name: Gauntlet.read(name).members for name in kept.gauntlets}
    assert kept.merger_gauntlets == {name: Gauntlet.read(name).members for name in kept.merger_gauntlets}


@pytest.mark.parametrize("page", PAGES)
def test_what_is_drawn_from_it_is_its(page: str, tmp_path: Path) -> None:
    shown = (ROOT / TOOL.TOLD[page]).read_text(encoding="utf-8")
    document = tmp_path / TOOL.TOLD[page]
    document.parent.mkdir(exist_ok=True)
    document.write_text(shown, encoding="utf-8")
    kept = [TOOL.keep(TOOL.read(name), tmp_path) for name in TOOL.PAGES[page] if TOOL.is_kept(name)]
    files = [*kept, *TOOL.draw(page, tmp_path, tmp_path)]
    assert len(files) > 2
    for name in (name for name in TOOL.PAGES[page] if TOOL.is_kept(name)):
        assert TOOL.read(name, tmp_path) == TOOL.read(name)
    for file in files:
        if file.suffix in (".svg", ".md") and file != document:
            assert (TOOL.HOME / file.name).read_bytes() == file.read_bytes(), f"{file.name}: run tools/reference.py"
    assert document.read_text(encoding="utf-8") == shown


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_of_the_same_run(name: str) -> None:
    page = (TOOL.HOME / f"{name}.html").read_text(encoding="utf-8")
    for number, verdict in enumerate(TOOL.page_of(name).verdicts, 1):
        head = page[page.index(f'id="v{number}"') :][:600]
        assert f'data-verdict="{verdict.verdict}"' in head
        assert verdict.theft is None or f'data-theft-mean="{verdict.theft.mean:.6g}"' in head


def test_the_folder_stays_small() -> None:
    assert sum(file.stat().st_size for file in TOOL.HOME.glob("*")) < 1_000_000 * len(PAGES)
