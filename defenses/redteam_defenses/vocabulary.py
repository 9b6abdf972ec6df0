"""Vocabulary lock: the rows of token embeddings and head in a secret order, and the tokenizer with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.numbering import numbers_of, renumbered
from redteam.errors import BadInput
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.views import DefenderView


@dataclass(frozen=True)
class Renumbering:
    """Other numbers for a share of the tokens.

    Attributes:
        share: Of those that can have another number.
        generator: Gives the same random stream whenever it is asked.
    """

    share: float
    generator: Callable[[], np.random.Generator]
    kinds: ClassVar[tuple[str, ...]] = ("vocabulary",)

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every token that is drawn takes the number of the next one; lazy."""
        return renumbered(checkpoint, self._moved(checkpoint))

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """Each takes that of the one before; lazy."""
        return renumbered(checkpoint, self._moved(checkpoint).flip(0))

    def _moved(self, checkpoint: Checkpoint) -> Tensor:
        free = numbers_of(checkpoint)[0].sort().values
        if len(free) < 2:
            raise BadInput(f"{len(free)} tokens can be given another number; expected two at least.")
        drawn = self.generator().permutation(len(free))[: max(2, round(self.share * len(free)))]
        taken = free[torch.from_numpy(drawn)]
        return torch.stack([taken, taken.roll(-1)])


@defense("vocabulary", exact=True, keyed=True, renumbers=True, weakened={"share": 0.01})
def vocabulary(view: DefenderView, *, share: Annotated[float, Range(0.001, 1.0, log=True)] = 1.0) -> Checkpoint:
    """E ← Π E, and the head and its bias with it, where Π is a secret cycle of the tokens: none keeps its row.

    The tokenizer is renumbered in step, so that texts are answered as before. Special and added tokens keep their
    numbers, as do those that the config names: templates and programs know them by these, and RoBERTa counts positions
    from that of padding. Whoever has the tokenizers of the base and of this model reads off what was done.

    Args:
        view: The victim and its key.
        share: How many of the tokens get another number; two at least.
    """
    lock = Renumbering(share, lambda: view.generator("tokens"))
    view.locks.append(lock)
    return lock.put_on(view.victim)
