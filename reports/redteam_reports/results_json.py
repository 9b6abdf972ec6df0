"""JSON: the results as scripts read them."""

from pathlib import Path

from redteam.evaluation.results import Results


def write(results: Results, path: Path) -> None:
    """Writes what `results.json` in the run's folder holds."""
    results.write(path)
