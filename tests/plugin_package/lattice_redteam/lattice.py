"""Lattice: a random network whose experts are right by definition; no training, no data to fetch."""

from redteam import Scenario, scenario
from redteam.testing import toy_scenario


@scenario("lattice")
def lattice(*, seed: int = 0, drift: float = 0.35) -> Scenario:
    """The toy vision transformer of the contract suite."""
    return toy_scenario("vit", seed=seed, drift=drift)
