"""`redteam protect`: puts a defense on a checkpoint and writes what may be published."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redteam.cli import checkpoint_options as shared
from redteam.errors import BadInput

if TYPE_CHECKING:
    from redteam.checkpoint import Checkpoint
    from redteam.evaluation.resolve import Pipeline
    from redteam.key import Key
    from redteam.tasks import Scenario
    from redteam.views import DefenderView


_SAMPLES = 16  # real inputs that a certificate tries


class Dtype(StrEnum):
    """In what to store."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def protect(
    defense: Annotated[str, typer.Argument(metavar="DEFENSE", help=shared.CHAIN)],
    model: shared.Model,
    out: shared.Out,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The key, 32 random bytes; made if there is no such file.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The public model, for defenses that ask for it.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="SCENARIO", help="Where training data come from, for defenses that ask.")
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Store weights so [default: as they were].")] = None,
    device: shared.OnDevice = shared.Device.cpu,
    certify: Annotated[
        bool, typer.Option("--certify", help="Run the network before and after, and say how far its outputs changed.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Certify, and write nothing if a loss is over its bound.")
    ] = False,
    force: shared.Force = False,
) -> None:
    """Put a defense on a checkpoint and write what may be published.

    Layer by layer, so that the checkpoint is never held in memory; shards, names and dtype stay as they were. Computed
    in float64 and rounded once. Keep the key: with it `redteam attack key-holder` takes the lock off again.
    """
    import torch

    from redteam.evaluation.pipelines import apply
    from redteam.evaluation.resolve import Pipeline
    from redteam.plugins.registry import DEFENSES
    from redteam.plugins.returned import check_as_read

    chain = Pipeline.load(DEFENSES, defense, Path())
    shared.require_usable(device, out, force, [model, base])
    victim, given = shared.open_model(model, base)
    stored = victim if dtype is None else victim.cast(getattr(torch, dtype))
    with _key_for(chain, key, out) as (secret, made), shared.working() as progress:
        scenario = _scenario(data)
        protected, views = apply(
            chain.links,
            victim.cast(torch.float64, device),
            None if given is None else given.cast(torch.float64, device),
            secret,
            check=check_as_read,
            task=scenario.tasks[scenario.victim] if scenario else None,
        )
        sites = where(views)
        adapted = [sentence for view in views for sentence in view.adaptations()]
        told = _certified(victim, protected, stored, scenario, strict=strict) if certify or strict else ()
        written = shared.save(
            protected.stored_as(stored),
            out,
            like=shared.laid_out_like(model, base),
            force=force,
            progress=progress,
            title="Protected against merging",
            rows=_rows(chain, sites, adapted, stored),
            ending="The weights were rewritten so that the model works alone and merging it with others fails.",
        )
    for line in (*told, *(f"{kind}: {what}" for kind, what in sites), *(f"Adapted: {one}" for one in adapted)):
        typer.echo(line)
    if key is not None and chain.any(lambda spec: spec.keyed):
        typer.echo(f"The key is in {key}{', made now' if made else ''}; whoever has it takes the lock off.")
    shared.tell(written, f"{chain.text} is on; the model is in {out}.")


def where(views: Sequence[DefenderView]) -> list[tuple[str, str]]:
    """What was put where, kind by kind of sites: the kind, and the group with the number of sites."""
    from redteam.symmetry import Lock

    lines: list[tuple[str, str]] = []
    for lock in (lock for view in views for lock in view.locks):
        if isinstance(lock, Lock):
            found = Counter((site.kind, lock.groups[site.label]) for site in lock.sites)
            lines += [(kind, f"{group} at {n} {'site' if n == 1 else 'sites'}") for (kind, group), n in found.items()]
        else:
            # What a defense brought itself says at most which kinds of sites it is for.
            lines.append((", ".join(getattr(lock, "kinds", ())) or "weights", _words(type(lock).__name__)))
    return lines


def _words(name: str) -> str:
    return re.sub(r"(?<=.)([A-Z])", r" \1", name).lower()


@contextmanager
def _key_for(chain: Pipeline, path: Path | None, out: Path) -> Iterator[tuple[Key, bool]]:
    """The key for a chain; a defense that draws on none gets one that is nobody's."""
    from redteam.key import Key

    if not chain.any(lambda spec: spec.keyed):
        yield Key.generate(), False
    elif path is None:
        raise BadInput(f"The defense {chain.text} draws on a key; name its file with --key, which is made if missing.")
    else:
        with shared.key_in(path, out) as found:
            yield found


def _scenario(data: str | None) -> Scenario | None:
    from redteam.evaluation.computations import load_scenario

    return None if data is None else load_scenario(data)


def _certified(
    victim: Checkpoint, protected: Checkpoint, stored: Checkpoint, scenario: Scenario | None, *, strict: bool
) -> list[str]:
    import torch

    from redteam.symmetry import certify

    task = None if scenario is None else scenario.tasks[scenario.victim]
    real = None if task is None else {k: v[:_SAMPLES] for k, v in task.inputs_of("validation").items()}
    found = certify(victim.cast(torch.float64), protected.cast(torch.float64, "cpu"), real)
    if strict and (losses := found.losses(_dtypes(stored))):
        raise BadInput(f"{' '.join(losses)} Nothing was written (--strict).")
    return str(found).splitlines()


def _rows(
    chain: Pipeline, sites: Sequence[tuple[str, str]], adapted: Sequence[str], stored: Checkpoint
) -> dict[str, str]:
    """What the model card says."""
    exact = all(link.spec.exact for link in chain.links)
    return {
        "defense": " + ".join(f"`{_settings(link)}`" for link in chain.links),
        "where": "; ".join(f"{kind}: {what}" for kind, what in sites) or "nowhere",
        **({"adapted": " ".join(adapted)} if adapted else {}),
        "outputs": "those of the original up to rounding" if exact else "changed: the defense is not exact",
        "stored in": ", ".join(sorted(_dtypes(stored))),
    }


def _dtypes(checkpoint: Checkpoint) -> set[str]:
    return {str(checkpoint.dtype(name)).removeprefix("torch.") for name in checkpoint}


def _settings(link: Any) -> str:
    from redteam.plugins.reference import Reference

    return str(Reference(link.spec.name, link.settings))
