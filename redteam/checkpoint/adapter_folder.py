"""Writes an adapter with other factors as a folder that PEFT loads; all else is as in the one it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from redteam.checkpoint.adapters import CONFIG, WEIGHTS
from redteam.checkpoint.checkpoint import Checkpoint
from redteam.checkpoint.companion_files import add_card, copy_beside, without_code
from redteam.checkpoint.discover import Found, own
from redteam.checkpoint.plain_lora import Merged
from redteam.checkpoint.safetensors_io import read_json, write_json, write_whole
from redteam.errors import NotACheckpoint
from redteam.files import new_folder

Progress = Callable[[int, int, str], None]


def write_adapter(
    made: Checkpoint,
    out: Path,
    *,
    like: Merged,
    dtype: torch.dtype | None = None,
    force: bool = False,
    progress: Progress,
    card: str,
) -> tuple[str, ...]:
    """Writes a folder, whole or not at all, one module's factors in memory at a time.

    Args:
        made: An adapter over its base, under the names of `like`; tensors without factors keep what `like` stores.
        out: The folder.
        like: The adapter that it was made from. Names, shapes, ranks and config are as there.
        dtype: In which floating-point tensors are stored; as there by default.
        force: Whether an adapter that is at `out` already is replaced, once the new one is complete.
        progress: Called as `progress(done, total, name)` after each tensor.
        card: A Markdown section for README.md.

    Returns:
        The files beside the source's weights that were not copied.

    Raises:
        UnwritableOutput: If something is at `out`, or it cannot be written.
        BadInput: If a factor has numbers too large for its dtype.
    """
    held = Checkpoint(like.held, {})
    stored = _as_stored(made, like, held).stored_as(held if dtype is None else held.cast(dtype))
    found = Found(like.where, (own(like.where, WEIGHTS),))
    with new_folder(out, force=force) as folder:
        write_whole(folder / WEIGHTS, stored, progress)
        left = copy_beside(found, folder)
        write_json(folder / CONFIG, read_json(own(like.where, CONFIG)))
        without_code(folder)
        add_card(card, folder)
    return tuple(name for name in left if name != CONFIG)


def _as_stored(made: Checkpoint, like: Merged, held: Checkpoint) -> Checkpoint:
    places = {
        stored: name
        for name in like.updated()
        if (factors := made.factors(name)) is not None
        for stored in like.as_stored(name, factors)
    }
    latest: dict[str, dict[str, Tensor]] = {}

    def read(stored: str) -> Tensor:
        if (name := places.get(stored)) is None:
            return held[stored]
        if name not in latest:
            factors = made.factors(name)
            latest.clear()
            latest[name] = {} if factors is None else like.as_stored(name, factors)
        return latest[name][stored]

    wide = {stored: (held.shape(stored), torch.float64 if stored in places else held.dtype(stored)) for stored in held}
    return Checkpoint.computed(wide, read)


@dataclass(frozen=True)
class Rewritten:
    """How the factors of one adapter differ from those of another.

    Attributes:
        change: The largest ‖s B'A' − s B A‖ ÷ ‖s B A‖ over its tensors, in float64.
        moved: How many tensors have other factors.
        total: How many have factors.
    """

    change: float
    moved: int
    total: int


def compared(before: Checkpoint, after: Checkpoint) -> Rewritten:
    """Compares the factors of two adapters and what they multiply to; a tensor in memory at a time.

    Args:
        before: An adapter over its base.
        after: Another one with factors for the same tensors.

    Raises:
        NotACheckpoint: If one has factors where the other has none.
    """
    worst, moved, total = 0.0, 0, 0
    for name in before:
        one, other = before.factors(name), after.factors(name)
        if one is None and other is None:
            continue
        if one is None or other is None:
            raise NotACheckpoint(f"One of the two adapters has factors for {name} and the other has none.")
        one, other = (factors.to(dtype=torch.float64, device="cpu") for factors in (one, other))
        total += 1
        moved += not (torch.equal(one.up, other.up) and torch.equal(one.down, other.down))
        size, apart = float(one.change.norm()), float((other.change - one.change).norm())
        worst = max(worst, apart / size if size else (0.0 if not apart else float("inf")))
    return Rewritten(worst, moved, total)
