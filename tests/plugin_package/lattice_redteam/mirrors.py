"""Mirrors: every head seen in a number of secret mirrors, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from redteam import Checkpoint, DefenderView, Range, defense
from redteam.anatomy import Sites
from redteam.symmetry import MatrixGauge, Orthogonal


@dataclass(frozen=True)
class Householder(Orthogonal):
    """Products of reflections 1 − 2 v vᵀ with v uniform on the sphere."""

    mirrors: int = 1

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MatrixGauge:
        """float64 [batch, width, width]."""
        matrix = torch.eye(width, dtype=torch.float64).expand(batch, -1, -1)
        for _ in range(self.mirrors):
            normal = torch.from_numpy(generator.standard_normal((batch, width, 1)))
            normal = normal / torch.linalg.vector_norm(normal, dim=1, keepdim=True)
            matrix = matrix - 2 * normal @ (normal.mT @ matrix)
        return MatrixGauge(matrix)


@defense("mirrors", exact=True, keyed=True, weakened={"mirrors": 4})
def mirrors(
    view: DefenderView, *, mirrors: Annotated[int, Range(1, 64)] = 16, sites: Sites = ("qk", "vo")
) -> Checkpoint:
    """A lock that a rotation undoes; with few mirrors most directions stay where they were.

    Args:
        view: The victim and its key.
        mirrors: How many reflections a head goes through.
        sites: Kinds of sites to lock.
    """
    return view.lock(sites, Householder(mirrors))
