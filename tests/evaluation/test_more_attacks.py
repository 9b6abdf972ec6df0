"""Adding an attack never makes a defense safer, whatever the attacks and whichever of them were tried."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from redteam.evaluation import aggregate
from redteam.evaluation.verdict import Evidence, decide
from tests.evaluation.merges import Bench, coin
from tests.evaluation.rows import around, passing, subject

SAFETY = {"INEFFECTIVE": 0, "BROKEN": 1, "INCONCLUSIVE": 2, "HOLDS-SO-FAR": 3}


def words(bench: Bench, attacks: list[str]) -> str:
    """The verdict where these were tried, of which the first was made for the defense; all of them have proven
    themselves."""
    bench_ = bench.asked()
    tried = [p for p in bench.pairings if p.role == "naive" or p.attack in attacks]
    figures = aggregate.figures(bench.table, bench_, tried)
    known = subject(attacks, gains={"mean": around(0.4)})
    evidence = Evidence(known, figures, tuple(enumerate(passing(attacks))))
    return decide(evidence).word


@settings(max_examples=15, deadline=None)
@given(
    shares=st.lists(st.tuples(*[st.floats(0.3, 0.8)] * 2), min_size=2, max_size=5),
    draw=st.integers(0, 2**16),
    order=st.randoms(use_true_random=False),
)
def test_more_attacks_never_make_it_safer(shares: list[tuple[float, float]], draw: int, order: object) -> None:
    bench, generator = Bench(), np.random.default_rng(draw)
    names = ["fit", *(f"other {index}" for index in range(len(shares) - 1))]
    for seed in range(2):
        bench.pair("none", coin(generator, 0.3), seed=seed, role="naive")
        for name, by_seed in zip(names, shares, strict=True):
            bench.pair(name, coin(generator, by_seed[seed]), seed=seed)
    others = names[1:]
    order.shuffle(others)  # type: ignore[attr-defined]
    before = words(bench, names[:1])
    for count in range(1, len(others) + 1):
        after = words(bench, ["fit", *others[:count]])
        assert SAFETY[after] <= SAFETY[before], (before, after)
        before = after
