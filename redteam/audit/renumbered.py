"""Tokens under other numbers: tables of the model whose rows are the base's in another order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.vocabulary import in_common, vocabulary_sizes
from redteam.plugins.contracts import Needs
from redteam.plugins.registry import ATTACKS

_FAR = 0.5
"""Squared distance of a row to the base's of its number, in units of that one's squared length about the mean row, from
which on it may be another token's: two tokens' rows stand at about 2, training moves one by hundredths."""
_NEAR = 0.25  # of that squared distance: as near as some other row of the base must then lie
_MOST = 0.9  # of the rows that are looked at must have one, each its own
_ROWS = 64
_BLOCK = 2**13  # rows of the base at a time


@dataclass(frozen=True)
class Renumbered:
    """Tables in another order of tokens.

    Attributes:
        names: Of the tensors.
        moved: Tokens whose row lies far from the base's, in the table where these are most.
        tokens: How many there are.
    """

    names: tuple[str, ...]
    moved: int
    tokens: int

    def __str__(self) -> str:
        """A sentence."""
        names, some = " and ".join(self.names), "" if self.moved == self.tokens else f"{self.moved} of "
        return (
            f"The rows of {names} are the base's in another order: {some}{self.tokens} tokens have other numbers than "
            "by the base's tokenizer."
        )


def renumbered_tokens(model: Checkpoint, base: Checkpoint) -> Renumbered | None:
    """Whether the tables with a row for each token are the base's in another order, by some of their rows.

    In some seconds for 150,000 tokens: only rows that lie far from the base's are looked for among all of its. None is
    found where a table lies in another basis, too.

    Args:
        model: What may be locked.
        base: The public model that it was made from; tokens that only one of them has are left out.
    """
    here, there = in_common(model, base)
    sizes = vocabulary_sizes(model.config)
    found: dict[str, int] = {}
    for name in here:
        shape = here.shape(name)
        if name in there and len(shape) == 2 and shape == there.shape(name) and model.shape(name)[0] in sizes:
            moved = _moved(here[name], there[name])
            if moved:
                found[name] = moved
    if not found:
        return None
    most = max(found, key=lambda name: found[name])
    return Renumbered(tuple(found), found[most], here.shape(most)[0])


def taking_off() -> tuple[str, ...]:
    """The installed attacks that give tokens the base's numbers again, with the base alone."""
    return tuple(
        ATTACKS.names_where(
            lambda spec: (
                spec.role == "recovery" and spec.renumbers and spec.needs == Needs.ANCHOR and spec.keeps_function
            )
        )
    )


def _moved(ours: Tensor, theirs: Tensor) -> int:
    """How many rows are another row of the base's; 0 unless nearly all do that are not where they were."""
    mean = theirs.mean(0, dtype=torch.float64).float()
    apart = torch.cat(
        [_apart(one, other, mean) for one, other in zip(*(x.split(_BLOCK) for x in (ours, theirs)), strict=True)]
    )
    rows = (apart > _FAR).nonzero().flatten()
    if len(rows) < 2:
        return 0
    looked = rows[torch.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).long()]
    some = ours[looked].float() - mean
    least, place = torch.full((len(some),), torch.inf), torch.zeros(len(some), dtype=torch.int64)
    for start in range(0, len(theirs), _BLOCK):
        block = theirs[start : start + _BLOCK].float() - mean
        distances = block.square().sum(1) - 2 * some @ block.T
        nearest = distances.min(1)
        nearer = nearest.values < least
        least, place = torch.where(nearer, nearest.values, least), torch.where(nearer, nearest.indices + start, place)
    own = (theirs[looked].float() - ours[looked].float()).square().sum(1)
    near = (least + some.square().sum(1) <= _NEAR * own) & (place != looked)
    partners = len(place[near].unique())
    return len(rows) if partners >= _MOST * len(looked) else 0


def _apart(ours: Tensor, theirs: Tensor, mean: Tensor) -> Tensor:
    """[n], the squared distance of rows in units of their squared length about the mean; 0 where that is 0."""
    there = theirs.float()
    size = (there - mean).square().sum(1)
    return torch.where(size > 0, (ours.float() - there).square().sum(1) / size, 0.0)
