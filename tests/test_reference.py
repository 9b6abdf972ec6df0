"""The README's figures are those of the report that is kept."""

from pathlib import Path

import pytest

from redteam.evaluation.results import Results
from redteam.plugins.registry import module_from

ROOT = Path(__file__).resolve().parents[1]
TOOL = module_from(ROOT / "tools" / "reference.py")


@pytest.fixture(scope="module")
def reference() -> Results:
    return Results.model_validate_json((TOOL.HOME / "paper.json").read_text(encoding="utf-8"))


def test_the_readme_says_what_the_report_says(reference: Results) -> None:
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split(TOOL.BEGIN)[1].split(TOOL.END)[0]
    assert shown.strip() == TOOL.drawn(reference).strip()


def test_the_report_is_of_the_plan_that_ships(reference: Results) -> None:
    from redteam.evaluation.run import find_plan

    assert reference.plan == find_plan("paper")[0].model_dump(mode="json")
    assert len(reference.plan["seeds"]) == 5
    assert reference.coverage is not None
    assert reference.coverage.errors == reference.coverage.timeouts == 0


def test_the_page_is_of_the_same_run(reference: Results) -> None:
    page = (TOOL.HOME / "paper.html").read_text(encoding="utf-8")
    assert len(page) < 5_000_000
    for verdict in reference.verdicts:
        assert f'data-verdict="{verdict.verdict}"' in page
        if verdict.theft is not None:
            assert f'data-theft-mean="{verdict.theft.mean}"' in page
