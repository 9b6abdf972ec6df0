"""The pictures of the page on symmetry are what the code draws, and show what the page says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redteam.plugins.files import module_from

ROOT = Path(__file__).parent.parent
TOOL = module_from(ROOT / "tools" / "pictures.py")


def test_the_page_shows_every_picture_in_order(page: Callable[[str], Any]) -> None:
    shown = re.findall(r"\(pictures/(.+)\.svg\)", page("docs/symmetry.md").text)
    assert shown == list(TOOL.DRAWN)
    assert {path.stem for path in TOOL.HOME.iterdir()} == set(shown)


def shades(picture: str) -> dict[str, tuple[int, ...]]:
    """Corner of a square → red, green, blue; white squares are not drawn."""
    paths = re.findall(r'<path fill="#(\w{6})" d="([^"]*)"/>', picture)
    return {
        corner: tuple(bytes.fromhex(colour)) for colour, path in paths for corner in re.findall(r"M(\d+ \d+)", path)
    }


def test_shades_are_read() -> None:
    assert set(shades(TOOL.picture("scaling")).values()) > {(255, 65, 65), (65, 65, 255)}


@pytest.mark.parametrize("name", TOOL.DRAWN)
def test_a_picture_is_what_the_code_draws(name: str) -> None:
    """Up to rounding, which another processor may do otherwise: one shade of a few squares, or a last digit."""
    kept, drawn = (TOOL.HOME / f"{name}.svg").read_text(encoding="utf-8"), TOOL.picture(name)
    rest = [re.sub(r"<path [^>]*/>\n|[\d.]+(?=, after|<)", "", text) for text in (kept, drawn)]
    assert rest[0] == rest[1]
    one, other = shades(kept), shades(drawn)
    white = (255, 255, 255)
    apart = [
        max(abs(a - b) for a, b in zip(one.get(corner, white), other.get(corner, white), strict=True))
        for corner in {*one, *other}
    ]
    assert max(apart) <= 32
    assert sum(map(bool, apart)) <= 3


@pytest.mark.parametrize("name", TOOL.DRAWN)
def test_a_lock_takes_the_head_away_and_the_fit_brings_it_back(name: str) -> None:
    locked, fitted = map(float, re.findall(r"locked ([\d.]+), after the fit ([\d.]+)<", TOOL.picture(name))[0])
    assert locked > 3
    assert 0.5 < fitted <= 1
