"""Tuning for mergeability: the protected weights trained so that the whole way from the base to them works."""

from typing import Annotated

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView
from redteam_attacks.training import Budget, train


@attack(
    "merge-tune",
    needs=Needs.ANCHOR | Needs.SAMPLES,
    paper="after MERGETUNE's loss along the linear path",
)
def merge_tune(
    view: AttackerView,
    *,
    steps: Annotated[int, Range(1, 100_000, log=True)] = 300,
    rate: Annotated[float, Range(1e-6, 1e-2, log=True)] = 3e-4,
    batch: Annotated[int, Range(1, 4096, log=True)] = 32,
    points: Annotated[int, Range(1, 16)] = 3,
) -> Checkpoint:
    """min over θ of the mean of L(θ₀ + c (θ − θ₀)) over c = 1/points, …, 1, from the protected θ, the head frozen.

    A merge moves from the base towards the sum of the task vectors, and so passes points where an expert counts in
    part. With one point this is `fine-tune`.

    Args:
        view: Grants the base and labelled samples.
        steps: Optimizer steps, each of as many passes as there are points.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step.
        points: How many points of the path.
    """
    shares = [point / points for point in range(1, points + 1)]
    return train(view, view.protected, Budget(steps, rate, batch), shares=lambda _: shares)
