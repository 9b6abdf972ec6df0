"""How commands open checkpoints: under names that agree, the base first, and what they refuse."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from redteam.errors import BadInput

if TYPE_CHECKING:
    import torch

    from redteam.checkpoint import Checkpoint


def open_alike(base: Path, *models: Path, dequantise: torch.dtype | None = None) -> tuple[Checkpoint, ...]:
    """The base, then the models made from it, under names that agree; an adapter is merged into the base.

    Parts of the base's network keep their own (`redteam.checkpoint.parts`). `dequantise` is that of `Checkpoint.open`.
    """
    from redteam.checkpoint.parts import part_names

    anchor = _opened(base, dequantise=dequantise)
    found = [_opened(path, anchor, dequantise=dequantise) for path in models]
    return (anchor, *found) if any(part_names(one, anchor) for one in found) else named_alike(anchor, *found)


def _opened(path: Path, base: Checkpoint | None = None, *, dequantise: torch.dtype | None = None) -> Checkpoint:
    """A checkpoint, after saying what is odd about its files."""
    from redteam.checkpoint import Checkpoint

    found = Checkpoint.open(path, base=base, dequantise=dequantise)
    for remark in found.remarks:
        typer.echo(f"Note on {path}: {remark}", err=True)
    return found


def open_model(
    model: Path, base: Path | None, *, shapes: bool = True, dequantise: torch.dtype | None = None
) -> tuple[Checkpoint, Checkpoint | None]:
    """A model, and the base where one is named.

    Args:
        model: Its folder or file.
        base: The base's.
        shapes: As in `require_related`.
        dequantise: As of `Checkpoint.open`.

    Raises:
        BadInput: If they do not belong together.
    """
    from redteam.checkpoint.parts import part_of

    if base is None:
        return named_alike(_opened(model, dequantise=dequantise))[0], None
    anchor, found = open_alike(base, model, dequantise=dequantise)
    anchor = part_of(anchor, found)
    require_related(found, anchor, f"The model {model}", shapes=shapes)
    return found, anchor


def require_related(model: Checkpoint, base: Checkpoint, what: str, *, shapes: bool = True) -> None:
    """Refuses two checkpoints of which one cannot have been fine-tuned from the other.

    Tensors outside the numbered blocks, such as a task's head or embeddings with added tokens, may differ.

    Args:
        model: What should descend from the base.
        base: The base.
        what: What the model is called in errors.
        shapes: Whether the tensors of the blocks must have the base's shapes.

    Raises:
        BadInput: If the architectures differ, they share no tensor, or a block's tensors differ.
    """
    from redteam.checkpoint import shared_tensors

    if model.architecture != base.architecture:
        found, expected = (c.architecture or "no architecture in a config" for c in (model, base))
        raise BadInput(f"{what} is of architecture {found}, its base of {expected}; expected the same, so check both.")
    if not shared_tensors(model, base):
        raise BadInput(f"{what} shares no tensor of one name and shape with its base; check that they belong together.")
    names = _blocks({*model, *base}) if shapes else ()
    for name in sorted(names):
        here, there = (str(list(c.shape(name))) if name in c else "missing" for c in (model, base))
        if here != there:
            raise BadInput(
                f"{what} does not have its base's shape: {name!r} is {here}, in the base {there}; expected the same "
                f"network, so name its own base, or take a lock that widens it off first{_restoring()}."
            )


def _restoring() -> str:
    """The attacks that give a network its base's shapes back with nothing but the base."""
    from redteam.plugins.contracts import Needs
    from redteam.plugins.registry import ATTACKS

    names = ATTACKS.names_where(
        lambda spec: spec.changes_architecture and spec.role == "recovery" and spec.needs == Needs.ANCHOR
    )
    return f" ({' or '.join(names)})" if names else ""


def named_alike(*checkpoints: Checkpoint) -> tuple[Checkpoint, ...]:
    """Checkpoints under the names that transformers saves them by, unless all have names that are known and agree."""
    names = _blocks({name for checkpoint in checkpoints for name in checkpoint})
    alike = all({name for name in checkpoint if name in names} == names for checkpoint in checkpoints)
    if alike and all(_recognised(checkpoint) for checkpoint in checkpoints):
        return checkpoints
    return tuple(checkpoint.canonical() for checkpoint in checkpoints)


def _recognised(checkpoint: Checkpoint) -> bool:
    from redteam.anatomy.auto import architecture_of

    try:
        return architecture_of(checkpoint)[1].recognises(checkpoint) > 0
    except BadInput:
        return True  # as far as anybody knows


def _blocks(names: set[str]) -> set[str]:
    """Names under a prefix that two numbers follow, as in `layers.0.…` and `layers.1.…`."""
    numbers: dict[str, set[str]] = {}
    found = {name: match for name in names if (match := re.match(r"(.*?)\.(\d+)\.", name))}
    for match in found.values():
        numbers.setdefault(match[1], set()).add(match[2])
    return {name for name, match in found.items() if len(numbers[match[1]]) > 1}


def named(path: Path) -> str:
    """What one is called: its folder's name, its file's without the ending, or in the hub's cache the model's."""
    full = Path(os.path.realpath(path))
    repository = full.parent.parent.name
    if full.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return full.name if full.is_dir() else full.stem
