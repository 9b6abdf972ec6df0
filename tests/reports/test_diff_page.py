"""The pages of comparisons: complete, offline, the same every time, and readable by everyone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from redteam_reports.diff_html import render, write

from redteam.diff import ModelDiff, RunDiff
from redteam.diff.findings import (
    ControlChange,
    Entry,
    KindDistance,
    OnlyIn,
    Parted,
    ShapeChange,
    TensorDistance,
    VerdictChange,
)
from redteam.evaluation.statistics import Interval
from tests.chromium import in_a_browser

NAMED = {"a": "<b>mine</b> & yours", "b": "a/rather/long/path/to/where/the/other/one/of/the/two/has/been/put"}
PLACE = {"scenario": "digits", "defense": "mergelock", "threat": "weights-only"}

MODELS = ModelDiff(
    **NAMED,
    architectures=("llama", ""),
    relation="near-regauged",
    summary=(f"One <more> of {NAMED['b']}.",),
    only_a=("only.a.weight",),
    only_b=("only.b.weight",),
    shapes=(ShapeChange(name="head.weight", a=(10, 64), b=(39, 64)),),
    dtypes={"float32 / bfloat16": ("x.weight",)},
    settings=(Entry(name="hidden_act", a="gelu", b="silu"),),
    shared=3,
    equal=1,
    distance=1.4,
    up_to_gauge=0.02,
    kinds=(KindDistance(kind="qk", sites=4, equal=0, groups=("planar",), as_is=1.4, up_to_gauge=2e-7, furthest=3e-7),),
    tensors=(TensorDistance(name="q.weight", as_is=1.4, up_to_gauge=2e-7), TensorDistance(name="n", as_is=0.1)),
)
RUNS = RunDiff(
    **NAMED,
    verdicts=(
        VerdictChange(
            **PLACE, before="HOLDS-SO-FAR", after="BROKEN", raised=("SOMETIMES",), reason="it <fell>", counts=True
        ),
    ),
    figures=(
        Parted(
            table="figures",
            **PLACE,
            attack="gauge-fit",
            merger="linear",
            figure="theft",
            before=Interval(0.1, 0.0, 0.2, 5, "seeds"),
            after=Interval(0.9, 0.8, 1.0, 5, "seeds"),
        ),
    ),
    compared=12,
    moved=3,
    controls=(
        ControlChange(control="planted", scenario="digits", attack="gauge-fit", before="passed", after="failed"),
    ),
    only_a=(OnlyIn(**PLACE),),
    only_b=(OnlyIn(**PLACE, attack="procrustes", merger="linear"),),
    plan=(Entry(name="keys", a="2", b="1"),),
    engine=(Entry(name="torch", a="2.14", b="2.15"),),
    agreeing=3,
)


@pytest.mark.parametrize("found", [MODELS, RUNS], ids=["models", "runs"])
def test_everything_is_on_it_escaped_and_nothing_leads_away(found: ModelDiff | RunDiff) -> None:
    page = render(found)
    assert "<b>mine" not in page
    assert "&lt;b&gt;mine&lt;/b&gt; &amp; yours" in page
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|<link|url\(", page)
    assert page == render(found)
    for tag in ("section", "table", "tbody", "tr", "td", "th", "details", "ul", "li"):
        assert page.count(f"<{tag}>") + page.count(f"<{tag} ") == page.count(f"</{tag}>"), tag


def test_every_row_is_on_its_page() -> None:
    page = render(MODELS)
    for text in ("q.weight", "only.a.weight", "only.b.weight", "10 × 64", "x.weight", "hidden_act", "2e-07", "planar"):
        assert text in page, text
    page = render(RUNS)
    for text in ("it &lt;fell&gt;", "0.90 [0.80, 1.00]", "+SOMETIMES", "planted", "procrustes", "2.14", "keys"):
        assert text in page, text
    assert 'data-counts="true"' in page


@in_a_browser
@pytest.mark.parametrize("found", [MODELS, RUNS], ids=["models", "runs"])
def test_in_a_browser(found: ModelDiff | RunDiff, browser: Any, tmp_path: Path) -> None:
    """Silent, no wider than the window, and nothing for axe to complain of, in light and dark, wide and narrow."""
    from axe_playwright_python.sync_playwright import Axe

    write(found, tmp_path / "diff.html")
    for width, scheme in ((1280, "light"), (400, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.goto((tmp_path / "diff.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        wide, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room
        findings = Axe().run(page)
        assert findings.violations_count == 0, findings.generate_report()
        context.close()
