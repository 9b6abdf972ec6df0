"""What pages share: templates that escape everything, the style sheet, and Markdown without foreign tags."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

_TAG = re.compile(r"<(?!/?(?:details|summary)>)(?=[A-Za-z/!?])")


def without_tags(markdown: str) -> str:
    """Markdown in which nothing but what folds is HTML, whatever strangers' names and sentences hold."""
    return _TAG.sub("&lt;", markdown)


def environment(**filters: Callable[..., Any]) -> Environment:
    """Templates of this package, with some filters more.

    Args:
        filters: By name; what they return is escaped unless it is `Markup`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("redteam_reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= filters
    return made


def asset(name: str) -> str:
    """The text of a file beside the templates."""
    return files("redteam_reports").joinpath("templates", name).read_text("utf-8")
