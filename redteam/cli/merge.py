"""`redteam merge`: merges experts as a free-rider would, a tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redteam.cli import checkpoint_options as shared
from redteam.cli import completion, opening
from redteam.cli.achieved import Achieved
from redteam.cli.doctor import diagnosed, tell
from redteam.cli.printing import Json, Quiet, Said, Verbose
from redteam.errors import BadInput, RedteamError, UnknownName

if TYPE_CHECKING:
    import torch

    from redteam.checkpoint import Checkpoint
    from redteam.doctor import Diagnosis
    from redteam.plugins.contracts import MergerSpec
    from redteam.plugins.registry import LoadedPlugin

_EQUAL = "The merge by {} equals the base: it"


def merge(
    merger: Annotated[
        str,
        typer.Argument(
            metavar="MERGER", autocompletion=completion.MERGER, help="As in name:setting=value or path/to/file.py@name."
        ),
    ],
    base: Annotated[
        Path, typer.Option(help="The public model; its folder says how the merge is laid out.", callback=shared.at_home)
    ],
    expert: Annotated[
        list[str],
        typer.Option(metavar="[NAME=]MODEL", help="A model fine-tuned from the base; repeat it for each."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write.", callback=shared.at_home, show_default=False)
    ] = None,
    device: shared.OnDevice = shared.Device.cpu,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing: say what stops or damages this merge, as redteam doctor."),
    ] = False,
    load: shared.Load = False,
    seed: shared.Seed = 0,
    architecture: shared.Description = None,
    dequantise: shared.Dequantise = False,
    force: shared.Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Merge experts as a free-rider would: a tensor at a time, summed in float64 and rounded once.

    Experts are called by the names of their folders, of their models in the hub's cache, or as NAME= says, in settings
    such as `weights=[[NAME,2.0]]` as well. What the base lacks, or has in another shape, such as the heads of tasks, is
    not merged. A merger that keeps every expert whole writes a folder for each: what runs on its task. With --check
    nothing is written: exit code 1 if something stops or damages the merge, 0 if nothing does.
    """
    from redteam.devices import require_device
    from redteam.plugins.contracts import Needs
    from redteam.plugins.reference import Reference
    from redteam.plugins.registry import MERGERS

    MERGERS.require_all(merger)  # a slip in a name or a path is said before torch is imported
    if any(Needs.written(link.get("needs", "")) for link in MERGERS.decorations(merger)):
        raise _takes_data(merger)
    experts, said = opening.by_name(expert), Said(as_json)
    _require_names(Reference.parse(merger).settings, list(experts))
    if out is None and not check:
        raise BadInput("A merge is written to a folder, so add --out DIR.")
    if out is not None and not check:
        shared.require_usable(device, out, force, [base, *experts.values()])
    written = (base, *experts.values())
    base, experts = opening.on_disk(base), {name: opening.on_disk(path) for name, path in experts.items()}
    from redteam.checkpoint import own_tensors, shared_tensors
    from redteam.checkpoint.loading import require_agreement, require_loads
    from redteam.checkpoint.naming import is_remnant
    from redteam.checkpoint.tied import is_a_copy, tied_twins
    from redteam.checkpoint.vocabulary import token_rows
    from redteam.doctor.headers import some, some_rows
    from redteam.files import new_folder

    plugin = MERGERS.load(merger)
    if plugin.spec.needs:
        raise _takes_data(plugin.spec.name)
    if check:
        require_device(device)
        found = _looked_at(
            plugin,
            base,
            experts,
            device,
            architecture,
            seed=seed,
            written=written,
            dequantise=shared.read_as(dequantise),
        )
        tell(found, json=as_json)
        if out is not None:
            typer.echo(f"Nothing was written to {out}: --check only looks; leave it out to merge.", err=True)
        raise typer.Exit(1 if found.fails else 0)
    assert out is not None  # said above
    origin, *alike = opening.open_alike(base, *experts.values(), dequantise=shared.read_as(dequantise))
    opening.tell_description(architecture, origin, base)
    longer = {name: token_rows(one, origin) for name, one in zip(experts, alike, strict=True)}
    opened = _fit(dict(zip(experts, alike, strict=True)), origin)
    twins = tied_twins(origin, list(opened.values()))
    table = {"merger": f"`{plugin.canonical}`", "base": opening.named(base), "experts": ", ".join(experts)}
    table |= {"seed": str(seed)} if seed else {}
    with shared.working() as progress, ExitStack() as stack:
        merged, counted = _merged(plugin, origin, opened, device, seed)
        home = stack.enter_context(new_folder(out, force=force)) if plugin.spec.whole else out
        for task, one in merged.items():
            with shared.read_ahead(one) as ready:
                achieved = Achieved(ready, origin)
                saved = shared.save(
                    achieved,
                    home / task,
                    like=base,
                    spelling=origin.spelling,
                    force=force,
                    progress=progress,
                    title="Merged",
                    rows={**table, **({"runs on the task of": task} if task else {})},
                    check=partial(achieved.require_rewritten, _EQUAL.format(plugin.spec.name)),
                )
    held = {name for one in opened.values() for name in shared_tensors(one, origin)}
    said(f"{counted} of the {len(held)} tensors that the base shares with an expert were merged.")
    if whole := sorted(name for name in held if not origin.dtype(name).is_floating_point):
        said(f"Copied from the base, since they are whole numbers: {some(whole)}.")
    for name, rows in longer.items():
        if rows:
            said(f"Of {name}, {some_rows(rows)} were merged: the base has another number of tokens.")
    for name, twin in twins.items():
        said(f"{name} is what {twin} became, since the base holds the two as one.")
    if left := [name for name in origin if name not in held and name not in twins]:
        said(f"Taken from the base, since no expert has them in its shape: {some(left)}.")
    for name, one in opened.items():
        own = [tensor for tensor in own_tensors(one, origin) if not is_remnant(tensor, one.shape(tensor))]
        if own := [tensor for tensor in own if not is_a_copy(tensor, one, origin)]:
            said(f"Not merged of {name}, since the base lacks them in this shape: {some(own)}.")
    each = ", a folder for the task of each" if plugin.spec.whole else ""
    said.facts |= table
    shared.tell(said, saved, achieved, f"{plugin.spec.name} of {', '.join(experts)} is in {out}{each}.")
    for task in merged:
        require_agreement(out / task, base)
        if load:
            said(require_loads(out / task, base))
    said.end(out)


def _fit(models: Mapping[str, Checkpoint], base: Checkpoint) -> dict[str, Checkpoint]:
    """The experts as they are merged, under the base's names and with its tokens.

    Raises:
        BadInput: If one cannot be merged over this base.
    """
    from redteam.anatomy.alike import require_related, require_same_settings
    from redteam.checkpoint.parts import in_place, part_of
    from redteam.checkpoint.vocabulary import as_long_as

    fit = {}
    for name, model in models.items():
        one, who = as_long_as(model, base), f"The expert {name}"
        require_related(one, part_of(base, one), who, remedy=opening.restoring)
        require_same_settings(one, base, who)
        fit[name] = in_place(one, base)
    return fit


def _merged(
    plugin: LoadedPlugin[MergerSpec], base: Checkpoint, experts: Mapping[str, Checkpoint], device: str, seed: int
) -> tuple[dict[str, Checkpoint], int]:
    """What a merger makes, in the base's layout and dtypes; computed when it is read.

    Returns:
        Expert → what runs on its task, of a merger that keeps every expert whole, else the merge under an empty name;
        and how many tensors were merged.

    Raises:
        BadInput: If what the merger makes is more than weights.
    """
    from redteam.checkpoint import Checkpoint, shared_tensors
    from redteam.checkpoint.tied import tied_twins
    from redteam.key import Key
    from redteam.plugins.returned import check_as_read, check_whole
    from redteam.views import MergerView

    start = base.cast(device=device)
    view = MergerView(
        {name: one.cast(device=device) for name, one in experts.items()},
        start,
        Key.derive(seed=seed, index=0, name=f"merger {plugin.spec.name}"),
        plugin.spec.needs_base,
    )
    made, names = plugin(view), {name for name, _ in view.shared()}
    twins = tied_twins(base, list(experts.values()))

    def finished(merged: Any) -> Checkpoint:
        checked = check_as_read(plugin, start, _with_masks(merged, start))
        return checked.replace(checked.renamed(twins)).stored_as(base)

    if plugin.spec.whole:
        whole = check_whole(plugin, start, made, read=False)
        if whole.rewire is not None:
            raise BadInput(
                f"{plugin.spec.name} gives no checkpoint that could be written: its network has layers that route what "
                "they are given, and only redteam run builds it; take another merger."
            )
        if unfit := [name for name in experts if Path(name).name != name or name == ".."]:
            raise BadInput(f"Each expert gets a folder of its name, which {unfit[0]!r} cannot be; say NAME=PATH.")
        return {name: finished(whole.of(name)) for name in experts}, len(names)
    if not plugin.spec.needs_base and isinstance(made, Checkpoint):
        # It has never seen the base; what it leaves out no expert shares.
        names &= set(made)
        made = start.replace(made.only(shared_tensors(made, start))).stored_as(base)
    return {"": finished(made)}, len(names)


def _looked_at(
    plugin: LoadedPlugin[MergerSpec],
    base: Path,
    experts: Mapping[str, Path],
    device: str,
    architecture: Path | None,
    *,
    seed: int,
    written: Sequence[Path],
    dequantise: torch.dtype | None,
) -> Diagnosis:
    """What the doctor says of the experts, and then the merger: the merge is computed and thrown away."""
    from redteam.doctor import Finding

    found = diagnosed(base, experts, architecture, written=written, dequantise=dequantise)
    found = found.model_copy(update={"merger": plugin.canonical})
    if any(finding.severity == "stops" for finding in found.findings):
        return found
    anchor, *alike = opening.open_alike(base, *experts.values(), dequantise=dequantise)
    try:
        with shared.working() as progress:
            opened = _fit(dict(zip(experts, alike, strict=True)), anchor)
            merged, _ = _merged(plugin, anchor, opened, device, seed)
            for one in merged.values():
                achieved = Achieved(one, anchor)
                for done, name in enumerate(achieved.checkpoint):
                    progress.advanced(done, len(achieved.checkpoint), name)
                    achieved.checkpoint[name]
                achieved.require_rewritten(_EQUAL.format(plugin.spec.name))
    except RedteamError as error:
        remedy = f"See what {plugin.spec.name} takes: redteam show {plugin.spec.name}."
        return found.with_finding(
            Finding(severity="stops", kind="merger", models=tuple(experts), told=str(error), remedy=remedy)
        )
    return found


def _with_masks(merged: object, base: Checkpoint) -> object:
    """What a merger returned, where the base's own infinities (causal masks) stay: their differences are no numbers."""
    from redteam.checkpoint import Checkpoint, is_finite

    if not isinstance(merged, Checkpoint):
        return merged

    def read(name: str) -> torch.Tensor:
        found = merged[name]
        return base[name] if not is_finite(found) and name in base and not is_finite(base[name]) else found

    return Checkpoint.computed(merged.outline(), read, merged.config)


def _takes_data(merger: str) -> BadInput:
    return BadInput(
        f"The merger {merger} takes data of every expert's task, and redteam merge is given checkpoints alone; name it "
        "in redteam run, under a threat model that grants them, such as --threat data-rich."
    )


def _require_names(settings: Mapping[str, Any], experts: list[str]) -> None:
    """Refuses a setting that gives numbers to experts by name, as `weights` does, if there is no such expert.

    Raises:
        UnknownName: In this case.
    """
    lists = [value for value in settings.values() if isinstance(value, (tuple, list))]
    pairs = [pair for value in lists for pair in value if isinstance(pair, (tuple, list)) and len(pair) == 2]
    for name, _ in pairs:
        if isinstance(name, str) and name not in experts:
            raise UnknownName.among("expert", name, experts)
