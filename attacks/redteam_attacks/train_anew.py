"""Training anew: an expert trained from the base with everything that the owner has, the price of not stealing."""

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack
from redteam.training import Budget
from redteam.views import AttackerView
from redteam_attacks.training import Epsilon, Rate, Size, Steps, train


@attack("train-anew", role="anew", needs=Needs.ANCHOR | Needs.SAMPLES)
def train_anew(
    view: AttackerView,
    *,
    steps: Steps = 90,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
) -> Checkpoint:
    """AdamW on the task's own loss from the base, wearing the victim's head; of the victim nothing else is used.

    The defaults are how experts are commonly fine-tuned to be merged: few steps, weights with small gradients hardly
    moved. Where a scenario's owner trained otherwise, say so in the settings.

    Args:
        view: Grants the base and all labelled samples.
        steps: Optimizer steps.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step; all where there are fewer.
        epsilon: AdamW's.
    """
    protected, anchor = view.protected, view.anchor
    shared = shared_tensors(protected, anchor)
    start = protected.replace({name: anchor[name].to(protected.dtype(name)) for name in shared})
    return train(view, start, Budget(steps, rate, batch, epsilon))
