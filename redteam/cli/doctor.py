"""`redteam doctor`: why a merge of these models will fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from redteam.cli import checkpoint_options as shared
from redteam.cli import opening
from redteam.cli.printing import Json, Quiet, Verbose, print_answer, print_json
from redteam.errors import BadInput, NotACheckpoint, Quantised

if TYPE_CHECKING:
    import torch

    from redteam.checkpoint import Checkpoint
    from redteam.doctor import Diagnosis, Finding
    from redteam.doctor.findings import Kind

_WORDS = {"stops": "STOPS", "damages": "DAMAGES", "note": "note"}
_TOLD = 4  # places that a line names


def doctor(
    base: Annotated[
        Path | None,
        typer.Argument(
            metavar="[BASE]", help="The public model of the merge.", callback=shared.at_home, show_default=False
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL…]", help="What is to be merged: PATH or NAME=PATH.", show_default=False),
    ] = None,
    json: Json = False,
    architecture: shared.Description = None,
    dequantise: shared.Dequantise = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say why a merge of these models over this base will fail: what stops it, what damages it, what is worth knowing.

    Without models it looks at the installation instead: versions, devices, threads, caches, disk, plugins and extras,
    with exit code 1 where something of it would make runs fail.

    Needs no data and writes nothing. Exit code 1 if something stops or damages the merge, 0 if nothing does, 2 if it
    could not be looked at. With --check, redteam merge says the same of a merge, and what its merger refuses.
    """
    if base is None:
        _look_at_installation(as_json=json)
    if not models:
        raise typer.BadParameter("name what is to be merged over this base.", param_hint="MODEL")
    named = opening.by_name(models)
    found = diagnosed(
        opening.on_disk(base),
        {name: opening.on_disk(path) for name, path in named.items()},
        architecture,
        written=(base, *named.values()),
        dequantise=shared.read_as(dequantise),
    )
    tell(found, json=json)
    raise typer.Exit(1 if found.fails else 0)


def _look_at_installation(*, as_json: bool) -> NoReturn:
    """Says what there is, and leaves."""
    from redteam.installation import packages, remarks

    found = list(remarks())
    wrong = sum(remark.state == "WRONG" for remark in found)
    if as_json:
        print_json({"packages": packages(), "remarks": [asdict(remark) for remark in found]})
    else:
        for remark in found:
            typer.echo(remark.line)
        what = "One thing would" if wrong == 1 else f"{wrong} things would"
        typer.echo(f"{what} make runs fail; mend that first." if wrong else "Nothing here would make a run fail.")
    raise typer.Exit(1 if wrong else 0)


def diagnosed(
    base: Path,
    models: Mapping[str, Path],
    architecture: Path | None,
    *,
    written: Sequence[Path],
    dequantise: torch.dtype | None,
) -> Diagnosis:
    """What is found between a base and models.

    Args:
        base: Where the base lies.
        models: Where the models lie, by name.
        architecture: A description that was given.
        written: Base and models as they were named.
        dequantise: As of `Checkpoint.open`.

    Raises:
        BadInput: If the base cannot be read.
    """
    from redteam.doctor import examine
    from redteam.doctor.tokens import tokens

    at, *others = map(str, written)
    paths = dict(zip(models, others, strict=True))
    found: list[Finding] = []
    held: dict[str, Checkpoint] = {}
    try:
        anchor = opening.open_base(base, dequantise=dequantise)
    except Quantised as error:
        return _of_the_base(at, paths, error)
    opening.tell_description(architecture, anchor, base)
    for name, path in models.items():
        try:
            held[name] = opening.opened(path, anchor, dequantise=dequantise)
        except BadInput as error:
            found.append(_refused(name, error))
            continue
        found += tokens(name, path, base)
    anchor, *alike = opening.agreed(anchor, *held.values())
    with shared.working() as shown:
        return examine(
            anchor,
            dict(zip(held, alike, strict=True)),
            paths=paths,
            at=at,
            already=found,
            restoring=opening.restoring,
            progress=shown.advanced,
        )


def tell(found: Diagnosis, *, json: bool) -> None:
    """Prints what was found: a line for each finding, with its remedy under it, or JSON."""
    if json:
        print_answer(found.model_dump_json(by_alias=True, indent=2))
        return
    for finding in found.findings:
        new = [place for place in finding.where if place not in finding.told]
        places = ", ".join(new[:_TOLD]) + (", …" if len(new) > _TOLD else "")
        typer.echo(f"{_WORDS[finding.severity]:<7}  {finding.kind:<11}  {finding.told}")
        typer.echo(f"{'':<22}{f'At {places}. ' if places else ''}{finding.remedy}")
    for model in found.models:
        if model.length is not None:
            typer.echo(
                f"{model.name}: {model.changed} of {model.shared} shared tensors differ from the base's; its task "
                f"vector is {model.length:.2g} of the base's norm long."
            )
    worst = {severity: sum(f.severity == severity for f in found.findings) for severity in _WORDS}
    if found.fails:
        typer.echo(f"What stops a merge: {worst['stops']}; what damages it: {worst['damages']}.")
    else:
        typer.echo("Nothing was found that stops or damages a merge of these.")


def _of_the_base(base: str, paths: Mapping[str, str], error: BadInput) -> Diagnosis:
    from redteam.doctor import Diagnosis, Examined

    return Diagnosis(
        base=base,
        models=tuple(Examined(name=name, path=path) for name, path in paths.items()),
        findings=(_refused("the base", error),),
    )


def _refused(name: str, error: BadInput) -> Finding:
    from redteam.doctor import Finding

    kind: Kind = "quantised" if isinstance(error, Quantised) else "unreadable"
    if kind == "quantised":
        remedy = "Name the model as it was before that, or, for FP8 with scales and MXFP4, add --dequantise."
    elif isinstance(error, NotACheckpoint):
        remedy = "Fetch or save it again, or leave it out."
    else:
        remedy = "Name the base that it was trained on, or leave it out."
    return Finding(severity="stops", kind=kind, models=(name,), told=str(error), remedy=remedy)
