"""Fine-tuning: the protected weights trained on labelled samples so that the whole way from the base to them works."""

from typing import Annotated

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.training import Budget
from redteam.views import AttackerView
from redteam_attacks.training import Epsilon, Rate, Size, Steps, evenly, train


@attack(
    "fine-tune",
    needs=Needs.ANCHOR | Needs.COMPANIONS | Needs.SAMPLES,
    paper="the loss along a linear path as in MERGETUNE, arXiv:2601.10497, without the rest of it",
)
def fine_tune(
    view: AttackerView,
    *,
    steps: Steps = 150,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
    path: Annotated[tuple[float, float], Range(0.0, 2.0)] = (0.25, 1.0),
    reach: Annotated[float, Range(0.0, 1e6)] = 1.0,
) -> Checkpoint:
    """min over θ of E_c L(θ₀ + c (θ − θ₀)) by AdamW from the protected θ, with one c a step, the head frozen.

    A merge adds a part of each task vector to the base, so that what counts is the loss there and not at θ alone: plain
    fine-tuning stays in whatever basis it starts from, where the victim works already and there is nothing to learn.
    And what lies far from the base spoils the other tasks of the merge, so that no tensor may lie farther from it than
    the attacker's own experts do: what a lock has thrown away from there is brought back first, along a straight line,
    and learned anew. Whatever this gets is to be held against the same training from the base.

    Of MERGETUNE it has that the loss is asked for along the line to the zero-shot model, as in its `mma_LMC`, at one
    random point of it a step in place of five fixed ones beside the end; the pull, the line to the fine-tuned model and
    no bound on the distance are `mergetune`'s.

    Args:
        view: Grants the base, companions and labelled samples.
        steps: Optimizer steps, of one forward and backward pass each.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step; all where there are fewer.
        epsilon: AdamW's.
        path: The range from which c is drawn evenly, by default from an equal share in a merge of four up to the
            weights alone. `[1, 1]` with a large reach is plain fine-tuning.
        reach: How far a tensor may lie from the base, as a multiple of the farthest companion's distance.
    """
    return train(view, view.protected, Budget(steps, rate, batch, epsilon), points=evenly(path), reach=reach)
