"""Fine-tuning: the protected weights trained further on labelled samples of the victim's task."""

from typing import Annotated

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView
from redteam_attacks.training import Budget, train


@attack("fine-tune", needs=Needs.SAMPLES, targets=("gaussian-noise",))
def fine_tune(
    view: AttackerView,
    *,
    steps: Annotated[int, Range(1, 100_000, log=True)] = 300,
    rate: Annotated[float, Range(1e-6, 1e-2, log=True)] = 3e-4,
    batch: Annotated[int, Range(1, 4096, log=True)] = 32,
) -> Checkpoint:
    """AdamW on the task's own loss, the head frozen: repairs what a protection has damaged, and leaves a basis alone.

    Gradient descent in a secret basis stays in it, so that this alone is weak against locks; `merge-tune` asks for
    weights that can be merged. Whatever it gets is to be held against the same training from the base.

    Args:
        view: Grants labelled samples.
        steps: Optimizer steps.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step.
    """
    return train(view, view.protected, Budget(steps, rate, batch))
