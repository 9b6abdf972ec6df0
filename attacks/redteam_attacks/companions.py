"""The attacker's own experts as one anchor: other fine-tunes of the victim's base, where that is withheld."""

from collections.abc import Sequence
from functools import reduce

import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import Inapplicable


def mean_of(experts: Sequence[Checkpoint]) -> Checkpoint:
    """The mean of what all experts have in one shape, in float64 and rounded once; of the first, what else it has.

    Raises:
        Inapplicable: If there is no expert.
    """
    if not experts:
        raise Inapplicable("There is no companion to fit to; expected at least one expert of the attacker's own.")
    first = experts[0]
    names = reduce(lambda held, expert: held & set(shared_tensors(expert, first)), experts, set(first))
    means = {}
    for name in sorted(names):
        mean = torch.stack([expert[name].to(torch.float64) for expert in experts]).mean(0)
        means[name] = mean.to(first.dtype(name))
    return first.replace(means)
