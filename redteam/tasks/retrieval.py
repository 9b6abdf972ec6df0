"""Retrieval: an encoder's vectors of queries and passages, scored by where the relevant passages come."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from redteam.checkpoint.placed import device_of
from redteam.tasks.samples import Samples
from redteam.tasks.task import Batch, Scores, Split, forward

if TYPE_CHECKING:
    from torch import nn

MISSING = -1
"""Padding among the places of relevant passages."""
DEPTH = 10
_SHARPNESS = 20.0  # of cosines in the loss, as sentence encoders are trained


@dataclass(frozen=True)
class Retrieval(Samples):
    """Queries against a corpus, ranked by the cosine of the vectors that the network gives as `.logits`.

    Attributes:
        name: What the task is called.
        chance: What a random order scores, as `expected` gives it.
        inputs: Split → the queries, `input_ids` and `attention_mask`, int64 `[n, tokens]`.
        labels: Split → the places of each query's relevant passages in the corpus, int64 `[n, most]`, padded behind
            with `MISSING`.
        corpus: The passages, in the form of the queries, `[passages, tokens]`.
    """

    corpus: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def scores(self, module: nn.Module, split: Split = "test") -> Scores:
        """nDCG@10 of each query, float64 `[n]`; passages that are as near as a relevant one come before it."""
        nearness = self._nearness(module, split)
        found: Scores = ndcg(nearness, self.labels[split]).numpy()
        return found

    def predictions(self, module: nn.Module, split: Split) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The place of the nearest passage, int64 `[n]`."""
        return self._nearness(module, split).argmax(1).numpy()

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean cross-entropy of finding each query's first relevant passage among those of the batch."""
        inputs, labels = batch
        wanted, place = labels[:, 0].unique(return_inverse=True)
        passages = module(**{name: held[wanted] for name, held in self.corpus.items()}).logits
        queries = module(**inputs).logits
        nearness = F.normalize(queries.float(), dim=-1) @ F.normalize(passages.float(), dim=-1).T
        also = (wanted[None, None] == labels[:, :, None]).any(1)
        also[torch.arange(len(place)), place] = False  # other relevant ones are no mistake
        also, place = also.to(nearness.device), place.to(nearness.device)
        return F.cross_entropy((_SHARPNESS * nearness).masked_fill(also, -torch.inf), place)

    def digest(self) -> str:
        """SHA-256 of queries, relevance and corpus, in hexadecimal."""
        digest = hashlib.sha256(super().digest().encode())
        for name, held in sorted(self.corpus.items()):
            digest.update(f"\0{name}\0{tuple(held.shape)}\0".encode())
            digest.update(held.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _nearness(self, module: nn.Module, split: Split) -> torch.Tensor:
        """Cosines, float32 `[n, passages]`; those of vectors that are not finite are not numbers."""
        passages = forward(module, self.corpus, lambda _, found, __: F.normalize(found.float(), dim=-1))
        passages = passages.to(device_of(module))
        return forward(module, self.inputs[split], lambda _, found, __: F.normalize(found.float(), dim=-1) @ passages.T)


def ndcg(nearness: torch.Tensor, relevant: torch.Tensor) -> torch.Tensor:
    """nDCG@10 with passages that are relevant or not, float64 `[n]`.

    Args:
        nearness: `[n, passages]`; what is not a number is nearest to every query and relevant to none.
        relevant: int64 `[n, most]`, padded with `MISSING`.
    """
    there = relevant != MISSING
    places = relevant.clamp_min(0)
    hits = _hits(nearness, relevant)
    own = nearness.gather(1, places)
    found = torch.zeros(len(nearness), dtype=torch.float64)
    for column in range(places.shape[1]):
        mine = own[:, column : column + 1]
        before = torch.where(hits, nearness > mine, ~(nearness < mine)).sum(1)
        before += _ties_before(own, there, column)
        counts = there[:, column] & (before < DEPTH) & mine[:, 0].isfinite()
        found += torch.where(counts, 1 / torch.log2(before.double() + 2), 0.0)
    return found / _best(there.sum(1))


def expected(counts: torch.Tensor, passages: int) -> torch.Tensor:
    """nDCG@10 of a random order, float64 `[n]`.

    Args:
        counts: How many passages are relevant to each query, int64 `[n]`.
        passages: How many there are.
    """
    depth = min(DEPTH, passages)
    total = (1 / torch.log2(torch.arange(depth, dtype=torch.float64) + 2)).sum()
    return counts.double() / passages * total / _best(counts)


def _hits(nearness: torch.Tensor, relevant: torch.Tensor) -> torch.Tensor:
    hits = torch.zeros(len(nearness), nearness.shape[1] + 1, dtype=torch.bool)
    hits.scatter_(1, torch.where(relevant == MISSING, nearness.shape[1], relevant), True)
    return hits[:, :-1]


def _ties_before(own: torch.Tensor, there: torch.Tensor, column: int) -> torch.Tensor:
    """How many relevant passages are exactly as near and listed before."""
    return ((own[:, :column] == own[:, column : column + 1]) & there[:, :column]).sum(1)


def _best(counts: torch.Tensor) -> torch.Tensor:
    """The largest DCG@10 with so many relevant passages, float64 `[n]`."""
    sums = (1 / torch.log2(torch.arange(DEPTH, dtype=torch.float64) + 2)).cumsum(0)
    return sums[counts.clamp(1, DEPTH) - 1]
