"""What networks answer, and how far two of them are apart: for whatever learns to answer as another network does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from redteam.errors import Inapplicable
from redteam.tasks import Batch
from redteam.training import Loss

if TYPE_CHECKING:
    from torch import nn

_SAME_BASIS = 0.5  # of the base's embeddings: fine-tuning moves them by hundredths, another basis by √2


def imitating(teacher: nn.Module, temperature: float, features: float) -> Loss:
    """T² KL(teacher ‖ student) of the logits, a mean over samples or tokens, and the hidden states' error.

    Args:
        teacher: Whose answers are learned; no gradient reaches it.
        temperature: T.
        features: Weight of the mean over hidden states of ‖student − teacher‖² ÷ ‖teacher − its mean‖².
    """

    def loss(student: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted, there = answers(teacher, batch[0], features > 0)
        logits, here = answers(student, batch[0], features > 0)
        total = divergence(logits, wanted, batch[0], temperature)
        if features and here:
            total = total + features * torch.stack([_error(a, b) for a, b in zip(here, there, strict=True)]).mean()
        return total

    return loss


def divergence(logits: Tensor, wanted: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """T² KL(wanted ‖ logits), a mean over rows."""
    soft, hard = (torch.log_softmax(_rows(x, inputs) / temperature, -1) for x in (logits, wanted))
    return temperature**2 * torch.nn.functional.kl_div(soft, hard, reduction="batchmean", log_target=True)


def _rows(logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """[rows, classes]: a row for each sample, or for each token that is not padding."""
    mask = inputs.get("attention_mask")
    return logits.flatten(0, -2) if mask is None or logits.ndim == 2 else logits[mask != 0]


def _error(here: Tensor, there: Tensor) -> Tensor:
    """The squared error as a share of what varies from sample to sample."""
    varies = (there - there.mean(0, keepdim=True)).square().sum()
    return (here - there).square().sum() / varies.clamp_min(torch.finfo(there.dtype).tiny)


def answers(network: nn.Module, inputs: Mapping[str, Tensor], hidden: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits, and hidden states where they are asked for and the network has them."""
    extra = {"output_hidden_states": True} if hidden and hasattr(network, "save_pretrained") else {}
    output: Any = network(**inputs, **extra)
    logits = getattr(output, "logits", None)
    if logits is None:
        raise Inapplicable("The network gives no logits to learn from; expected a classifier or a language model.")
    return logits, tuple(getattr(output, "hidden_states", None) or ())


def same_basis(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    """Whether what the blocks read first, the embeddings, lies where the base has it."""
    if not ours or [x.shape for x in ours] != [x.shape for x in theirs]:
        return False
    return bool((theirs[0] - ours[0]).norm() < _SAME_BASIS * ours[0].norm())


def unlabelled(inputs: Mapping[str, Tensor]) -> Batch:
    """In the form of a batch; the labels say nothing."""
    return dict(inputs), torch.zeros(len(next(iter(inputs.values()))), dtype=torch.int64)
