"""How commands open checkpoints: under names that agree, the base first, and what they refuse."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from redteam.cli.progress import Progress
from redteam.errors import BadInput

if TYPE_CHECKING:
    import torch

    from redteam.checkpoint import Checkpoint


PROTECTED, ATTACKED = "Protected against merging", "Attacked"
"""Titles of the sections that commands add to a model's card."""


def require_there(path: Path, what: str) -> None:
    """Refuses a path at which there is nothing, before anything large is imported.

    Args:
        path: Where to look.
        what: What to name, as in `"the folder of a finished run"`.

    Raises:
        BadInput: With what lies there and is called alike.
    """
    if path.exists():
        return
    beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    close = [str(path.parent / name) for name in difflib.get_close_matches(path.name, beside, 2)]
    raise BadInput(
        f"There is nothing at {path}; " + (f"did you mean {' or '.join(close)}?" if close else f"name {what}.")
    )


def on_disk(path: Path) -> Path:
    """Where a model is, after fetching it where it is named as on the hub; torch is not imported for it.

    Raises:
        NotACheckpoint: As `redteam.hub.on_disk`.
    """
    from redteam.hub import on_disk

    with Progress():
        return on_disk(path)


def open_alike(base: Path, *models: Path, dequantise: torch.dtype | None = None) -> tuple[Checkpoint, ...]:
    """The base, then the models made from it, under names that agree; an adapter is merged into the base.

    Parts of the base's network keep their own (`redteam.checkpoint.parts`). `dequantise` is that of `Checkpoint.open`.
    """
    anchor = open_base(base, dequantise=dequantise)
    return agreed(anchor, *(opened(path, anchor, dequantise=dequantise) for path in models))


def open_base(base: Path, *, dequantise: torch.dtype | None = None) -> Checkpoint:
    """The public model, after saying what is odd about its files and its card."""
    from redteam.checkpoint.companion_files import card_row

    anchor = opened(base, dequantise=dequantise)
    if card_row(base, PROTECTED, "defense") is not None and card_row(base, ATTACKED, "attack") is None:
        typer.echo(
            f"Note on {base}: its card says that it was locked; a base is the public model before that.", err=True
        )
    return anchor


def agreed(anchor: Checkpoint, *found: Checkpoint) -> tuple[Checkpoint, ...]:
    """A base and models made from it, under names that agree, but for parts of its network."""
    from redteam.anatomy.alike import named_alike
    from redteam.checkpoint.parts import part_names

    return (anchor, *found) if any(part_names(one, anchor) for one in found) else named_alike(anchor, *found)


def tell_description(file: Path | None, model: Checkpoint, path: Path) -> None:
    """Says so where a description that was given is of another model type than the model."""
    from redteam.anatomy.files import read_description

    if file is None or (described := read_description(file.expanduser())[0]) == model.architecture:
        return
    found = f"of {model.architecture}" if model.architecture else "without a model_type in its config"
    typer.echo(
        f"Note on {file}: it describes {described}, and {path} is {found}, so it was not used; give one that "
        f"redteam describe {path} --out FILE writes, or leave --architecture out.",
        err=True,
    )


def opened(path: Path, base: Checkpoint | None = None, *, dequantise: torch.dtype | None = None) -> Checkpoint:
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
    from redteam.anatomy.alike import named_alike, require_related
    from redteam.checkpoint.parts import part_of

    if base is None:
        return named_alike(opened(model, dequantise=dequantise))[0], None
    anchor, found = open_alike(base, model, dequantise=dequantise)
    anchor = part_of(anchor, found)
    require_related(found, anchor, f"The model {model}", shapes=shapes, remedy=restoring)
    return found, anchor


def restoring() -> str:
    """The attacks that give a network its base's shapes back with nothing but the base."""
    from redteam.plugins.contracts import Needs
    from redteam.plugins.registry import ATTACKS

    names = ATTACKS.names_where(
        lambda spec: spec.changes_architecture and spec.role == "recovery" and spec.needs == Needs.ANCHOR
    )
    return f" ({' or '.join(names)})" if names else ""


def named(path: Path) -> str:
    """What one is called: its folder's name, its file's without the ending, on the hub and in its cache the model's."""
    from redteam.hub import of_hub

    if hub := of_hub(path):
        return hub[0].rpartition("/")[2]
    full = Path(os.path.realpath(path))
    repository = full.parent.parent.name
    if full.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return full.name if full.is_dir() else full.stem


def by_name(texts: Iterable[str]) -> dict[str, Path]:
    """The experts by their names.

    Raises:
        BadInput: If two have the same.
    """
    experts: dict[str, Path] = {}
    for text in texts:
        name, _, path = text.rpartition("=")
        given = bool(re.fullmatch(r"[\w.-]+", name)) and not os.path.lexists(text)
        place = Path(path if given else text).expanduser()
        name = name if given else named(place)
        if name in experts:
            raise BadInput(
                f"Two experts are called {name!r}, {experts[name]} and {place}; name one of them: "
                f"--expert other-{name}={place}"
            )
        experts[name] = place
    return experts
