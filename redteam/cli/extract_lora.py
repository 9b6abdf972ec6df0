"""`redteam extract-lora`: turns a fine-tuned model into a low-rank adapter of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redteam.cli import checkpoint_options as shared
from redteam.cli import opening
from redteam.cli.printing import Json, Quiet, Said, Verbose


def extract_lora(
    model: shared.Model,
    base: Annotated[Path, typer.Option(help="The public model that it was fine-tuned from.", callback=shared.at_home)],
    out: shared.Out,
    rank: Annotated[int, typer.Option(min=1, max=4096, help="Of the adapter, in layers that allow as much.")] = 128,
    device: shared.OnDevice = shared.Device.cpu,
    dequantise: shared.Dequantise = False,
    force: shared.Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn a fine-tuned model into a low-rank adapter of its base, as mergekit-extract-lora does: a tensor at a time.

    Of what changed in each linear layer the leading singular vectors are kept, split evenly between A and B. Norms,
    biases, tables of tokens, outputs and convolutions are left out, and it is said how much that is. PEFT loads the
    folder, and every command here takes it in place of a model.
    """
    shared.require_usable(device, out, force, [model, base])
    given = base
    model, base = opening.on_disk(model), opening.on_disk(base)
    said = Said(as_json)
    from redteam.anatomy.alike import finite, require_related, require_same_settings
    from redteam.checkpoint import own_tensors
    from redteam.checkpoint.extract import Extraction
    from redteam.checkpoint.naming import is_remnant
    from redteam.checkpoint.parts import part_of
    from redteam.doctor.headers import some

    origin, found = opening.open_alike(base, model, dequantise=shared.read_as(dequantise))
    who = f"The model {model}"
    origin = part_of(origin, found)
    require_related(found, origin, who)
    require_same_settings(found, origin, who)
    with shared.working() as progress:
        start = origin.cast(device=device)
        extraction = Extraction(finite(found.cast(device=device), start, who), start, rank, progress.advanced)

        def card() -> str:
            said.facts |= {
                "made from": opening.named(model),
                "base": opening.named(base),
                "rank": str(rank),
                "kept": f"{extraction.share:.2%} of ‖Δ‖²",
            }
            return shared.section("Extracted adapter", said.facts)

        extraction.write(
            out, base=given.as_posix().partition("@")[0] if base != given else str(base), force=force, card=card
        )
    said(f"It has {len(extraction.layers)} linear layers and keeps {extraction.share:.2%} of ‖Δ‖².")
    if left := extraction.left_out:
        lost = sum(extraction.squares[name] for name in left) / sum(extraction.squares.values())
        said(f"Left out, {lost:.2%} of ‖Δ‖², since they are no linear layer's weight: {some(left)}.")
    if own := [name for name in own_tensors(found, origin) if not is_remnant(name, found.shape(name))]:
        said(f"Left out, since the base lacks them in this shape: {some(own)}.")
    said(f"The adapter is in {out}.")
    said.end(out)
