"""Makes the table in README.md.

python -m redteam_scenarios.docstrings.make 0 1 2   measures seeds, training those that the cache lacks
"""

from __future__ import annotations

import sys

from redteam_scenarios.docstrings.cache import load
from redteam_scenarios.docstrings.recipe import TASKS, Recipe
from redteam_scenarios.docstrings.source import MODEL
from redteam_scenarios.measure import interval, mean, measure


def row(seed: int) -> str:
    """One line of the table."""
    scenario = load(Recipe(), seed=seed, model=MODEL)
    measured = measure(scenario)
    low, high = interval(scenario, measured.coefficient)

    def each(scores: dict[str, float]) -> str:
        return " / ".join(f"{scores[task]:.2f}" for task in TASKS)

    return (
        f"| {seed} | {each(measured.experts)} | {each(measured.base)} "
        f"| {measured.coefficient} | {each(measured.merged)} "
        f"| {mean(measured.merged):.3f} | {each(measured.without)} | {measured.gain:.3f} [{low:.3f}, {high:.3f}] |"
    )


def main(arguments: list[str]) -> int:
    """Runs the command."""
    if not arguments or not all(seed.isdecimal() for seed in arguments):
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    for seed in arguments:
        print(row(int(seed)), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
