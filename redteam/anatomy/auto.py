"""Which architecture a checkpoint is of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points

from redteam.anatomy.architecture import Anatomy, Architecture, ArchitectureLike
from redteam.anatomy.catalog import ARCHITECTURES
from redteam.anatomy.network import find_sites
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.known import NETWORK
from redteam.errors import BadInput


def architecture_of(checkpoint: Checkpoint) -> tuple[str, Architecture | ArchitectureLike]:
    """The model type of a checkpoint and its description: by the config, or by the tensors' names where there is none.

    Raises:
        BadInput: If neither is known.
    """
    named = str(checkpoint.config.get(NETWORK, checkpoint.architecture))
    if named not in ARCHITECTURES:
        for point in entry_points(group="redteam.architectures", name=named):
            ARCHITECTURES[named] = point.load()
    if named in ARCHITECTURES:
        return named, ARCHITECTURES.for_config(named, checkpoint.config)
    if not named:
        known = {name: described.recognises(checkpoint) for name, described in ARCHITECTURES.items()}
        best = max(known, key=lambda name: known[name])  # of several with the same names, the first
        if known[best]:
            return best, ARCHITECTURES[best]
    found = (
        f"model_type = {named!r}" if named else "no config with a model_type, and tensors with names of no known kind"
    )
    raise BadInput(
        f"The checkpoint has {found}, none of the {len(ARCHITECTURES)} known types (docs/architectures.md). "
        f"redteam describe {named or 'TYPE'} --out FILE looks for its heads and neurons; then give --architecture FILE."
    )


@contextmanager
def described_as(model_type: str, architecture: Architecture | ArchitectureLike) -> Iterator[None]:
    """While it is active, checkpoints of a model type have the description given, whatever the catalogue says."""
    with ARCHITECTURES.replaced(model_type, architecture):
        yield


def anatomy_of(checkpoint: Checkpoint) -> Anatomy:
    """Where the heads, neurons and norms of a checkpoint are; of its tensors at most norms' gains are read.

    Raises:
        BadInput: If the model type is not known, or the tensors don't match it.
    """
    return find_sites(architecture_of(checkpoint)[1], checkpoint)
