"""A merger's setting is chosen on the companions-only merge, each value tried in a step of its own."""

from __future__ import annotations

from redteam.evaluation import computations
from redteam.evaluation.steps import Tried


class _Bench:
    def __init__(self, *scores: float) -> None:
        self.tried = {str(n): Tried({"coefficient": 0.1 * n}, score) for n, score in enumerate(scores)}

    def record(self, role: str) -> Tried:
        return self.tried[role]


class _Step:
    def __init__(self, bench: _Bench) -> None:
        self.inputs = bench.tried


def test_the_best_is_chosen_and_the_first_of_several() -> None:
    bench = _Bench(0.2, 0.7, 0.4, 0.7)
    found = computations._tune(_Step(bench), bench)  # type: ignore[arg-type]
    assert found.settings == {"coefficient": 0.1}
    assert [score for _, score in found.table] == [0.2, 0.7, 0.4, 0.7]
