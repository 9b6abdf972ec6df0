"""The page of an audit: complete, offline, the same every time, and readable by everyone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from redteam_reports.audit_html import _codes, pictures, render, write

from redteam.anatomy import GROUPS
from redteam.audit import Audit, PairFinding, ShiftFinding, SiteFinding, TensorFinding
from tests.chromium import in_a_browser

LAYERS = 6
FOUND: dict[str, tuple[str, str | None, float | None, float | None]] = {
    "heads": ("locked", "permutation", 1.2, 0.1),
    "qk": ("locked", "planar", 23.0, 0.04),
    "vo": ("unexplained", None, 1.5, 1.2),
    "mlp": ("unlocked", None, 0.05, 0.05),
    "norm": ("equal", None, None, None),
    "experts": ("reshaped", None, None, None),
}


@pytest.fixture(scope="module")
def audited() -> Audit:
    """Every state that a site can have, shifts, a second model, and a name that must be escaped."""
    sites, pairs = [], []
    for layer in range(LAYERS):
        for kind, (state, group, before, after) in FOUND.items():
            sites.append(
                SiteFinding(
                    site=f"{kind}/{layer}",
                    kind=kind,
                    layer=layer,
                    state=state,  # type: ignore[arg-type]
                    group=group,
                    before=before,
                    after=after,
                    comes_off=1 - after / before if group and before and after else None,
                    shifts=(ShiftFinding(kind="key bias", size=9.5),) if kind == "qk" and layer < 2 else (),
                )
            )
            standing = {"heads": "apart", "qk": "shared", "experts": "reshaped"}.get(kind, "neither")
            pairs.append(PairFinding(site=f"{kind}/{layer}", kind=kind, layer=layer, standing=standing))  # type: ignore[arg-type]
    return Audit(
        model="<b>mine</b> & yours",
        base="base",
        other="other",
        architecture="llama",
        summary=("A lock of the planar group sits on qk of all 6 layers.", "One <more>."),
        sites=tuple(sites),
        tensors=(TensorFinding(name="a.weight", state="equal"), TensorFinding(name="b.weight", state="changed")),
        pairs=tuple(pairs),
    )


def test_everything_is_on_it_and_escaped(audited: Audit) -> None:
    page = render(audited)
    assert "<b>mine" not in page
    assert "&lt;b&gt;mine&lt;/b&gt; &amp; yours" in page
    assert "One &lt;more&gt;." in page
    for site in audited.sites:
        assert f'data-site="{site.site}" data-state="{site.state}"' in page
    for tensor in audited.tensors:
        assert f"<code>{tensor.name}</code>" in page
    assert page == render(audited)


def test_nothing_leads_away_from_it(audited: Audit) -> None:
    page = render(audited)
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|<link|url\(", page)


def test_every_site_is_in_every_picture(audited: Audit) -> None:
    lock, before, after, shared = pictures(audited)
    for picture in (lock, before, after, shared):
        assert set(picture.tiles) == {(site.kind, site.layer) for site in audited.sites}
    assert lock.tiles["qk", 0].mark
    assert not lock.tiles["qk", 3].mark
    assert len({lock.tiles[kind, 0].text for kind in FOUND}) == len(FOUND), "no two findings look alike without colour"
    meanings = {meaning for _, _, meaning in lock.legend}
    assert {
        "planar lock",
        "permutation lock",
        "no lock",
        "unexplained",
        "equals the base",
        "additive shifts",
    } <= meanings
    assert before.tiles["qk", 0].style == "h10"
    assert after.tiles["mlp", 0].style != after.tiles["vo", 0].style


def test_no_two_groups_have_the_same_code() -> None:
    codes = _codes(GROUPS)
    assert len(set(codes.values())) == len(GROUPS)
    assert max(map(len, codes.values())) <= 5
    assert codes["general-linear"] == "GL"


def test_a_single_model_has_no_picture_of_two(audited: Audit) -> None:
    alone = audited.model_copy(update={"pairs": (), "other": None})
    assert len(pictures(alone)) == 3
    assert "other model" not in render(alone)


@in_a_browser
def test_in_a_browser(audited: Audit, browser: Any, tmp_path: Path) -> None:
    """Silent, no wider than the window, and nothing for axe to complain of, in light and dark, wide and narrow."""
    from axe_playwright_python.sync_playwright import Axe

    write(audited, tmp_path / "audit.html")
    for width, scheme in ((1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page, asked, complaints = context.new_page(), [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, complaints=complaints: complaints.append(message.text))
        page.goto((tmp_path / "audit.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        wide, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room
        assert (len(asked), complaints) == (1, [])
        found = Axe().run(page)
        assert "color-contrast" in {rule["id"] for rule in found.response["passes"]}
        assert found.violations_count == 0, found.generate_report()
        context.close()
