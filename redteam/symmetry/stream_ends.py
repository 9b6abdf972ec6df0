"""What lies at the two ends of a residual stream: the embeddings that nothing else moves, and the head."""

from __future__ import annotations

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint

_GAINS = ("norm", "norm-scale")  # sites of which a head is a part, and which move no row of it


def stream_ends(checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the matrices that begin a stream and of those that end it, a row for each token or class.

    Position embeddings and a patch embedding begin one too. A tied head is no tensor of its own and stands with the
    embeddings. Both are empty where a network's stream is not described.

    Raises:
        BadInput: If the architecture is not known.
    """
    anatomy = anatomy_of(checkpoint)
    inside = {name for site in anatomy.inner if site.kind not in _GAINS for name in site.names}
    first: list[str] = []
    last: list[str] = []
    for site in anatomy.sites(("residual",)):
        if site.spanning:
            first += [side.linear.weight for side in site.lefts if not side.shared]
            last += [side.linear.weight for side in site.rights]
    return _matrices(first, inside, checkpoint), _matrices(last, inside, checkpoint)


def _matrices(names: list[str], inside: set[str], checkpoint: Checkpoint) -> tuple[str, ...]:
    found = dict.fromkeys(name for name in names if name not in inside)
    return tuple(name for name in found if len(checkpoint.shape(name)) == 2)
