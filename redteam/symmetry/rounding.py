"""What rounding explains of a change in the outputs where shapes were restored: what cancelled did so nearly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.symmetry.proof import prove

_DRAWS = 2
_ALLOWED = 2.5  # times the expected change: on the toys honest releases stay under 1.5 of it, in bfloat16


def explained_by_rounding(stored: Checkpoint, restored: Checkpoint, *, eps: bool = True) -> float:
    """The largest change of the outputs that rounding accounts for once what was too many is gone, as `Proof.change`.

    The tensors of other shapes are rounded at random, each number by up to half a unit in its last place, as they were
    when they were stored. Of the variance of what this does to the outputs a share falls to what was taken out: that of
    the numbers.

    Args:
        stored: The network with shapes of its own, in the dtypes of its release.
        restored: With those of the base.
        eps: As in `prove`.

    Raises:
        BadInput, NotACheckpoint: As `prove`.
    """
    names = [n for n in stored if n not in restored or restored.shape(n) != stored.shape(n)]
    numbers = sum(math.prod(stored.shape(name)) for name in names)
    left = sum(math.prod(restored.shape(name)) for name in names if name in restored)
    if left >= numbers:
        return 0.0
    exact = stored.cast(torch.float64)
    moved = (prove(exact, _rounded_anew(stored, exact, names, draw), eps=eps).change for draw in range(_DRAWS))
    return _ALLOWED * math.sqrt(1 - left / numbers) * max(moved)


def _rounded_anew(stored: Checkpoint, exact: Checkpoint, names: Sequence[str], draw: int) -> Checkpoint:
    """In float64, with other numbers that could have been rounded to those of some tensors; lazy."""
    key = Key.derive(seed=0, index=draw, name="rounding")

    def other(name: str) -> Tensor:
        tensor, limits = exact[name], torch.finfo(stored.dtype(name))
        unit = limits.eps * torch.ldexp(torch.ones_like(tensor), torch.frexp(tensor).exponent - 1).clamp(limits.tiny)
        drawn = np.asarray(key.generator(name).uniform(-0.5, 0.5, tuple(tensor.shape)))
        moved: Tensor = tensor + unit * torch.from_numpy(drawn)
        return moved

    return exact.replace(Checkpoint.computed(exact.outline(names), other))
