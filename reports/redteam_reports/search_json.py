"""JSON: what a search found as scripts read it, with every trial."""

from pathlib import Path

from redteam.files import write_atomically
from redteam.search.defenders.results import Defenses
from redteam.search.results import SearchResults


def write(found: SearchResults | Defenses, path: Path) -> None:
    """Writes it whole or not at all.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, found.model_dump_json(indent=1, by_alias=True) + "\n")
