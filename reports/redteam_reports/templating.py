"""What the HTML pages share: a template environment that escapes everything, and the style sheet."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


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
