"""HTML: a comparison of two runs or two models as one offline page."""

from __future__ import annotations

from pathlib import Path

from redteam.diff import ModelDiff, RunDiff
from redteam.diff.words import distance, run_summary
from redteam.files import write_atomically
from redteam_reports.templating import asset, environment


def write(found: RunDiff | ModelDiff, path: Path) -> None:
    """Writes the page.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, render(found))


def render(found: RunDiff | ModelDiff) -> str:
    """The page. The same comparison gives the same text."""
    from markupsafe import Markup

    summary = found.summary if isinstance(found, ModelDiff) else tuple(run_summary(found))
    template = environment(distance=distance).get_template(f"diff_{found.kind}.html.j2")
    return template.render(d=found, summary=summary, style=Markup(asset("page.css")))
