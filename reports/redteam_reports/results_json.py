"""JSON: the results as scripts read them."""

from pathlib import Path

from redteam.evaluation.results import Results
from redteam.evaluation.store import write_atomically


def write(results: Results, path: Path) -> None:
    """Writes what `results.json` in the run's folder holds."""
    write_atomically(path, results.model_dump_json(indent=1, by_alias=True) + "\n")
