"""JSON: a comparison of two runs or two models as scripts read it."""

from pathlib import Path

from redteam.diff import ModelDiff, RunDiff
from redteam.files import write_atomically


def write(found: RunDiff | ModelDiff, path: Path) -> None:
    """Writes it whole or not at all.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, found.model_dump_json(indent=1, by_alias=True) + "\n")
