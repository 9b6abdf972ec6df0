"""Mergers that are of no use, one that merges nothing, and one that a lock of the body does not stop."""

from __future__ import annotations

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import Inapplicable
from redteam.plugins.contracts import merger
from redteam.views import MergerView


@merger("ignores-experts")
def ignores_experts(view: MergerView) -> Checkpoint:
    """Returns the base: whoever is merged, nothing is gained."""
    return view.base


@merger("first-only")
def first_only(view: MergerView) -> Checkpoint:
    """Takes the first expert whole, the victim if there is one, and merges nothing."""
    expert = next(iter(view.experts.values()))
    return view.base.replace(expert.only(shared_tensors(expert, view.base)))


@merger("words-summed")
def words_summed(view: MergerView) -> Checkpoint:
    """Sums task vectors of embeddings and takes the rest of the first expert, as one whose body the others share."""
    first, words = next(iter(view.experts.values())), "bert.embeddings.word_embeddings.weight"
    total = view.base[words] + sum(expert[words] - view.base[words] for expert in view.experts.values())
    return view.base.replace({**first.only(shared_tensors(first, view.base)), words: total})


@merger("takes-two")
def takes_two(view: MergerView) -> Checkpoint:
    """Refuses any other number of experts."""
    if len(view.experts) != 2:
        raise Inapplicable(f"takes-two merges exactly 2 experts and was given {len(view.experts)}.")
    return view.base.replace({n: (a[n] + b[n]) / 2 for n, (a, b) in view.shared()})
