"""What `protect` and `attack` do where it is the factors of an adapter that change, and no weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from redteam.cli import checkpoint_options as shared
from redteam.cli import opening
from redteam.errors import BadInput

if TYPE_CHECKING:
    import torch

    from redteam.checkpoint import Checkpoint
    from redteam.checkpoint.adapter_folder import Rewritten
    from redteam.checkpoint.plain_lora import Merged
    from redteam.cli.progress import Progress
    from redteam.evaluation.resolve import Pipeline

EXACT = 1e-10
"""The largest relative change of an update, in float64, of factors that multiply to the same."""


def rewrites_factors(chain: Pipeline) -> bool:
    """Whether the links of a chain rewrite the factors of an adapter.

    Raises:
        BadInput: If some do and others rewrite weights.
    """
    kinds = {bool(getattr(link.spec, "factors", False)) for link in chain.links}
    if len(kinds) > 1:
        raise BadInput(
            f"{chain.text} chains what rewrites the factors of an adapter with what rewrites the weights of a model; "
            "expected one of either, so run two commands."
        )
    return kinds.pop()


def refuse_options(given: Mapping[str, bool], what: str) -> None:
    """Raises BadInput where an option is given that is for whole models."""
    if asked := [name for name, value in given.items() if value]:
        raise BadInput(
            f"{what} writes an adapter, which is proven and read again in any case; leave {' and '.join(asked)} out, "
            "for whole models alone."
        )


def open_adapter(
    model: Path, base: Path | None, what: str, *, dequantise: torch.dtype | None = None
) -> tuple[Checkpoint, Checkpoint, Merged]:
    """An adapter over its base under the base's names, the base, and the adapter's own files.

    Args:
        model: The adapter's folder or file.
        base: The base's.
        what: What is done to it, for a sentence.
        dequantise: As of `Checkpoint.open`.

    Raises:
        BadInput: If it is no adapter, or no base is named.
        NotACheckpoint: If it is more than a plain LoRA, damaged, or made for another base.
    """
    from redteam.checkpoint.adapters import is_adapter
    from redteam.checkpoint.by_peft import plain_adapter
    from redteam.checkpoint.plain_lora import BeyondPlain
    from redteam.errors import NotACheckpoint

    if not is_adapter(model):
        raise BadInput(
            f"{what} rewrites the factors of a low-rank adapter, and {model} is none; expected a folder with "
            "adapter_config.json and adapter_model.safetensors, as PEFT saves them."
        )
    if base is None:
        raise BadInput(f"{what} reads an adapter over its base; name the public model with --base.")
    anchor = opening.open_base(base, dequantise=dequantise)
    try:
        like = plain_adapter(model, anchor)
    except BeyondPlain as beyond:
        raise NotACheckpoint(
            f"{beyond}, so that more than the product of two factors counts; {what} takes plain LoRA alone."
        ) from None
    return opening.opened(model, anchor), anchor, like


def require_rewritten(before: Checkpoint, after: Checkpoint, what: str) -> Rewritten:
    """How the factors of an adapter differ from those of another one.

    Args:
        before: The adapter over its base, in float64.
        after: With other factors.
        what: What was done to it, for a sentence.

    Raises:
        BadInput: If a product moved by more than rounding, or no factor did.
    """
    from redteam.checkpoint.adapter_folder import compared

    found = compared(before, after)
    if not found.change <= EXACT:
        raise BadInput(
            f"{what} changes an update s B A by {found.change:.2g} of its size in float64, where the same product "
            f"stays under {EXACT:.0e}: its factors are too ill-conditioned. Nothing was written."
        )
    if not found.moved:
        raise BadInput(f"{what} changes no factor of this adapter; nothing was written.")
    return found


def write(
    made: Checkpoint,
    out: Path,
    *,
    rewritten: Rewritten,
    like: Merged,
    anchor: Checkpoint,
    dtype: torch.dtype | None = None,
    force: bool,
    progress: Progress,
    title: str,
    rows: Mapping[str, str],
    ending: str,
) -> list[str]:
    """Writes an adapter and reads it again; gives sentences on what was done and what storing it cost.

    Args:
        made: The adapter with its new factors, over its base.
        out: The folder.
        rewritten: As `require_rewritten` found.
        like: The files that it was made from.
        anchor: The base.
        dtype: In which to store it; as the files do by default.
        force: Whether a folder that is there is replaced.
        progress: Told of every tensor.
        title: Of the section in README.md.
        rows: Of its table.
        ending: A paragraph after the table.
    """
    from redteam.checkpoint import Checkpoint
    from redteam.checkpoint.adapter_folder import compared, write_adapter

    told = f"{rewritten.moved} of {len(like.updated())} modules"
    left = write_adapter(
        made,
        out,
        like=like,
        dtype=dtype,
        force=force,
        progress=progress.advanced,
        card=shared.section(title, {**rows, "rewritten": f"the factors of {told}"}, ending),
    )
    again = Checkpoint.open(out, base=anchor)
    stored = {str(like.held.dtype(name)) for name in like.held.names()} if dtype is None else {str(dtype)}
    said = [
        f"In float64 no update s B A changes by more than {rewritten.change:.1e} of its size.",
        f"The factors of {told} were rewritten.",
    ]
    if rewritten.total < len(like.updated()):
        said.append("Those of a table that the adapter stores whole, other than the base's, were left as they were.")
    said.append(
        f"As stored in {', '.join(sorted(one.removeprefix('torch.') for one in stored))} the updates change by at "
        f"most {compared(made, again).change:.1e} of their size."
    )
    if left:
        said.append(f"Not copied, since they are no part of such a folder: {', '.join(left)}.")
    return said
