"""The README's figures are those of the reports that are kept, and the leaderboard is drawn from its own."""

from pathlib import Path

import pytest

from redteam.evaluation.gauntlet import Gauntlet
from redteam.evaluation.results import Results
from redteam.plugins.files import module_from

ROOT = Path(__file__).resolve().parents[1]
TOOL = module_from(ROOT / "tools" / "reference.py")


def read(name: str) -> Results:
    return Results.model_validate_json((TOOL.HOME / f"{name}.json").read_text(encoding="utf-8"))


def test_the_readme_says_what_the_report_says() -> None:
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split(TOOL.BEGIN)[1].split(TOOL.END)[0]
    assert shown.strip() == TOOL.drawn(read("paper")).strip()


@pytest.mark.parametrize("name", ["paper", "tables"])
def test_the_report_is_of_the_plan_that_ships(name: str) -> None:
    from redteam.evaluation.run import find_plan

    kept = read(name)
    assert kept.plan == find_plan(name)[0].model_dump(mode="json")
    assert len(kept.plan["seeds"]) == 5
    assert kept.coverage is not None
    assert kept.coverage.errors == kept.coverage.timeouts == 0


def test_the_leaderboard_is_drawn_from_its_run() -> None:
    from redteam_reports import leaderboard

    kept = read("tables")
    assert (TOOL.HOME / "tables.md").read_text(encoding="utf-8") == leaderboard.markdown(kept)
    assert kept.gauntlets["gauntlet-1"] == Gauntlet.read("gauntlet-1").attacks


@pytest.mark.parametrize("name", ["paper", "tables"])
def test_the_page_is_of_the_same_run(name: str) -> None:
    page = (TOOL.HOME / f"{name}.html").read_text(encoding="utf-8")
    assert len(page) < 5_000_000
    for verdict in read(name).verdicts:
        assert f'data-verdict="{verdict.verdict}"' in page
        if verdict.theft is not None:
            assert f'data-theft-mean="{verdict.theft.mean}"' in page
