"""Training anew: an expert trained from the base with everything that the owner has, the price of not stealing."""

from typing import Annotated, Any

from redteam.anatomy import ARCHITECTURES
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView
from redteam_attacks.training import Budget, train


@attack("train-anew", role="anew", needs=Needs.ANCHOR | Needs.SAMPLES, changes_architecture=True)
def train_anew(
    view: AttackerView,
    *,
    steps: Annotated[int, Range(1, 100_000, log=True)] = 300,
    rate: Annotated[float, Range(1e-6, 1e-2, log=True)] = 3e-4,
    batch: Annotated[int, Range(1, 4096, log=True)] = 32,
) -> Checkpoint:
    """AdamW on the task's own loss from the base, wearing the victim's head; of the victim nothing else is used.

    Args:
        view: Grants the base and all labelled samples.
        steps: Optimizer steps.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step.
    """
    return train(view, _as_before_training(view.protected, view.anchor), Budget(steps, rate, batch))


def _as_before_training(protected: Checkpoint, anchor: Checkpoint) -> Checkpoint:
    """The base with the victim's head, in the base's shapes whatever a defense made of them."""
    if len(shared_tensors(anchor, protected)) == len(anchor):
        return protected.replace({name: anchor[name] for name in anchor})
    architecture = ARCHITECTURES.get(anchor.architecture)
    sizes = () if architecture is None else (architecture.neurons, architecture.head_width)
    config: dict[str, Any] = {key: value for key, value in protected.config.items() if key not in sizes}
    config |= {key: anchor.config[key] for key in sizes if key in anchor.config}
    head = {name: protected[name] for name in protected if name not in anchor}
    return Checkpoint.of(dict(anchor) | head, config)
