"""Tensors that are one in the network and stored twice, as a tied head is beside the embedding."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from redteam.checkpoint.checkpoint import Checkpoint
from redteam.checkpoint.vocabulary import vocabulary_sizes


def tied_twins(base: Checkpoint, experts: Iterable[Checkpoint]) -> dict[str, str]:
    """A tied head that the base stores beside the embedding and some expert doesn't: name → its twin."""
    sizes, found = vocabulary_sizes(base.config), dict[str, str]()
    tables = [name for name in base if len(base.shape(name)) == 2 and base.shape(name)[0] in sizes]
    for name in (n for n in tables if any(n not in one for one in experts)):
        alike = (n for n in tables if n not in (name, *found) and base.shape(n) == base.shape(name))
        twin = next((n for n in alike if torch.equal(base[n], base[name])), None)
        if twin is not None and all(
            torch.equal(one[name], one[twin]) for one in experts if name in one and twin in one
        ):
            found[name] = twin
    return found


def is_a_copy(name: str, expert: Checkpoint, base: Checkpoint) -> bool:
    """Whether a tensor is what another one is that is merged, as a tied head that is stored is the embedding."""
    alike = (n for n in expert if n != name and n in base and expert.shape(n) == expert.shape(name))
    return len(expert.shape(name)) == 2 and any(torch.equal(expert[name], expert[other]) for other in alike)
