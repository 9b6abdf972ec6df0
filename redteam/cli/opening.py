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


PROTECTED, ATTACKED = "Protected against merging", "Attacked"
"""Titles of the sections that commands add to a model's card."""


def open_alike(base: Path, *models: Path, dequantise: torch.dtype | None = None) -> tuple[Checkpoint, ...]:
    """The base, then the models made from it, under names that agree; an adapter is merged into the base.

    Parts of the base's network keep their own (`redteam.checkpoint.parts`). `dequantise` is that of `Checkpoint.open`.
    """
    from redteam.checkpoint.companion_files import card_row
    from redteam.checkpoint.parts import part_names

    anchor = _opened(base, dequantise=dequantise)
    if card_row(base, PROTECTED, "defense") is not None and card_row(base, ATTACKED, "attack") is None:
        typer.echo(
            f"Note on {base}: its card says that it was locked; a base is the public model before that.", err=True
        )
    found = [_opened(path, anchor, dequantise=dequantise) for path in models]
    return (anchor, *found) if any(part_names(one, anchor) for one in found) else named_alike(anchor, *found)


def _opened(path: Path, base: Checkpoint | None = None, *, dequantise: torch.dtype | None = None) -> Checkpoint:
    """A checkpoint, after saying what is odd about its files."""
    from redteam.checkpoint import Checkpoint
    from redteam.checkpoint.spelling import require_once

    found = Checkpoint.open(path, base=base, dequantise=dequantise)
    require_once(found, str(path))
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
    names = _blocks(model, base) if shapes else ()
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
    """Checkpoints as they are where all have names that are known and agree, else under those of one network.

    That is the first one's, as transformers saves it; what is of another model type is named as its own network is.
    """
    from redteam.checkpoint.naming import frame_of
    from redteam.checkpoint.spelling import spelling

    names = _blocks(*checkpoints)
    alike = all(_blocks(one) == names and _tables(one) == _tables(checkpoints[0]) for one in checkpoints)
    if alike and all(_recognised(checkpoint) for checkpoint in checkpoints):
        return checkpoints
    first = frame_of(checkpoints[0])
    found = []
    for one in checkpoints:
        frame = first if one.architecture == checkpoints[0].architecture else frame_of(one)
        spelled = None if frame is None else spelling(one, frame)
        found.append(one if spelled is None else one.spelled(spelled))
    return tuple(found)


def _recognised(checkpoint: Checkpoint) -> bool:
    """Whether the description of its type finds its tensors under the names that they have."""
    from redteam.anatomy.auto import anatomy_of, architecture_of

    try:
        described = architecture_of(checkpoint)[1]
    except BadInput:
        return True  # as far as anybody knows
    try:
        return described.recognises(checkpoint) > 0 and bool(anatomy_of(checkpoint).sites())
    except BadInput:
        return False


def _blocks(*checkpoints: Checkpoint) -> set[str]:
    """Names under a prefix that two numbers follow, as in `layers.0.…` and `layers.1.…`, but for remnants."""
    from redteam.checkpoint.naming import is_remnant

    names = {name for one in checkpoints for name in one if not is_remnant(name, one.shape(name))}
    numbers: dict[str, set[str]] = {}
    found = {name: match for name in names if (match := re.match(r"(.*?)\.(\d+)\.", name))}
    for match in found.values():
        numbers.setdefault(match[1], set()).add(match[2])
    return {name for name, match in found.items() if len(numbers[match[1]]) > 1}


def _tables(checkpoint: Checkpoint) -> set[str]:
    """The tables of tokens of a checkpoint whose config ties them: either may be stored, or both."""
    from redteam.checkpoint.vocabulary import vocabulary_sizes

    sizes = vocabulary_sizes(checkpoint.config) if checkpoint.config.get("tie_word_embeddings") else set()
    return {name for name in checkpoint if len(checkpoint.shape(name)) == 2 and checkpoint.shape(name)[0] in sizes}


def named(path: Path) -> str:
    """What one is called: its folder's name, its file's without the ending, or in the hub's cache the model's."""
    full = Path(os.path.realpath(path))
    repository = full.parent.parent.name
    if full.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return full.name if full.is_dir() else full.stem
