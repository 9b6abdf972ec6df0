"""The whole audit of a checkpoint."""

from __future__ import annotations

from itertools import zip_longest

from redteam.audit.findings import Audit, PairFinding, SiteFinding
from redteam.audit.pairs import compare_gauges
from redteam.audit.renumbered import renumbered_tokens
from redteam.audit.tensors import compare_tensors
from redteam.audit.walk import Progress, Walk
from redteam.audit.words import summary
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.vocabulary import in_common
from redteam.errors import BadInput


def audit(
    model: Checkpoint,
    base: Checkpoint,
    other: Checkpoint | None = None,
    *,
    device: str = "cpu",
    names: tuple[str, str, str] = ("the model", "the base", "the other model"),
    progress: Progress | None = None,
) -> Audit:
    """Says which lock is on a model, at which sites, and how much of it comes off. Reads it layer by layer.

    Args:
        model: What may be locked.
        base: The public model that it was made from.
        other: A second model made from the same base: do the two share their gauges?
        device: Where to compute.
        names: What the audit calls the three.
        progress: Called before every step with steps done, steps in all, and what comes next.

    Raises:
        BadInput: If the architecture is not known or the models are of different ones, or if a tensor holds NaN or
            infinity.
    """
    walk = Walk(*in_common(model, base), device)
    second = None if other is None else Walk(*in_common(other, base), device)
    if second is not None and [site.label for site in second.sites] != [site.label for site in walk.sites]:
        raise BadInput("The two models have different numbers of layers; expected two that were made from one base.")
    steps = len(walk.sites) + len(dict.fromkeys((*model, *base)))

    def told(done: int, what: str) -> None:
        if progress is not None:
            progress(done, steps, what)

    sites: list[SiteFinding] = []
    pairs: list[PairFinding] = []
    told(0, walk.sites[0].label if walk.sites else "tensors")
    for mine, theirs in zip_longest(walk, second or ()):
        sites.append(mine.finding)
        if theirs is not None:
            pairs.append(compare_gauges(mine, theirs, walk.explainer))
        told(len(sites), mine.site.label)
    tensors = compare_tensors(model, base, lambda done, _, name: told(len(sites) + done, name))
    told(steps, "done")
    return Audit(
        model=names[0],
        base=names[1],
        other=names[2] if other is not None else None,
        architecture=model.architecture,
        summary=summary(sites, tensors, pairs, renumbered_tokens(model, base)),
        sites=tuple(sites),
        tensors=tensors,
        pairs=tuple(pairs),
    )
