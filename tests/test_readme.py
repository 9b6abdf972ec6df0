"""What the README and the page on plans show is so."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redteam.evaluation.flags import FLAGS
from redteam.evaluation.plan import Plan
from redteam.evaluation.verdict import Word

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def readme(page: Callable[[str], Any]) -> Any:
    return page("README.md")


def test_the_plan_that_shows_the_defaults_shows_the_defaults(page: Callable[[str], Any]) -> None:
    assert Plan.of(tomllib.loads(page("docs/plans.md").fenced("toml")[0])) == Plan()


def test_every_verdict_is_explained(readme: Any) -> None:
    assert all(f"| {word} |" in readme.text for word in Word.__args__)
    assert set(re.findall(r"\b[A-Z]+(?:-[A-Z]+)+\b", readme.text)) <= {*Word.__args__, *FLAGS}


def test_every_page_is_linked_and_every_link_leads_somewhere(readme: Any) -> None:
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", readme.text)}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= links
    assert all((ROOT / link).exists() for link in links)


def test_its_commands_exist(readme: Any) -> None:
    from redteam.cli.main import COMMANDS

    named = set(re.findall(r"^redteam ([a-z]+)", readme.text, re.MULTILINE))
    assert len(named) >= 8
    assert named <= set(COMMANDS)


def test_it_is_short(readme: Any) -> None:
    assert len(readme.text.splitlines()) < 200
