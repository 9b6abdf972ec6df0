"""Packages that only an extra of this one brings, and the sentence where one of them is needed and not there."""

from __future__ import annotations

from importlib.util import find_spec

from redteam.errors import BadInput


def require_extra(extra: str, what: str, error: type[BadInput] = BadInput) -> None:
    """Refuses what needs a package that is not installed, without importing it where it is.

    Args:
        extra: The extra, called as the module that it brings but for hyphens.
        what: What needs it, for example `"redteam search"`.
        error: What is raised.

    Raises:
        BadInput: Or `error`, if the package is not there.
    """
    module = extra.replace("-", "_")
    if find_spec(module) is None:
        raise error(f"{what} needs {module}, which is not installed; pip install 'merge-redteam[{extra}]'.")
