"""`redteam merge`: merges experts as a free-rider would, a tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redteam.cli import checkpoint_options as shared
from redteam.cli import opening
from redteam.cli.achieved import Achieved
from redteam.errors import UnknownName

if TYPE_CHECKING:
    import torch

    from redteam.checkpoint import Checkpoint

_TOLD = 8  # names in a sentence


def merge(
    merger: Annotated[str, typer.Argument(metavar="MERGER", help="As in name:setting=value or path/to/file.py@name.")],
    base: Annotated[
        Path, typer.Option(help="The public model; its folder says how the merge is laid out.", callback=shared.at_home)
    ],
    expert: Annotated[
        list[str],
        typer.Option(metavar="[NAME=]PATH", help="A model fine-tuned from the base; repeat it for each."),
    ],
    out: shared.Out,
    device: shared.OnDevice = shared.Device.cpu,
    check: shared.Check = False,
    architecture: shared.Description = None,
    dequantise: shared.Dequantise = False,
    force: shared.Force = False,
) -> None:
    """Merge experts as a free-rider would: a tensor at a time, summed in float64 and rounded once.

    Experts are called by the names of their folders, of their models in the hub's cache, or as NAME= says, in settings
    such as `weights=[[NAME,2.0]]` as well. What the base lacks, or has in another shape, such as the heads of tasks, is
    not merged.
    """
    from redteam.plugins.registry import MERGERS

    MERGERS.require_all(merger)  # a slip in a name is said before torch is imported
    from redteam.anatomy.alike import finite, require_related, require_same_settings
    from redteam.checkpoint import Checkpoint, own_tensors, shared_tensors
    from redteam.checkpoint.loading import require_agreement, require_loads
    from redteam.checkpoint.naming import is_remnant
    from redteam.checkpoint.parts import in_place, part_of
    from redteam.checkpoint.vocabulary import as_long_as, token_rows
    from redteam.key import Key
    from redteam.plugins.returned import check_as_read
    from redteam.views import MergerView

    plugin = MERGERS.load(merger)
    experts = opening.by_name(expert)
    _require_names(plugin.settings, list(experts))
    shared.require_usable(device, out, force, [base, *experts.values()])
    origin, *alike = opening.open_alike(base, *experts.values(), dequantise=shared.read_as(dequantise))
    opening.tell_description(architecture, origin, base)
    longer = {name: token_rows(one, origin) for name, one in zip(experts, alike, strict=True)}
    opened = {name: as_long_as(one, origin) for name, one in zip(experts, alike, strict=True)}
    for name, one in opened.items():
        there = part_of(origin, one)
        require_related(one, there, f"The expert {name}", remedy=opening.restoring)
        require_same_settings(one, origin, f"The expert {name}")
        opened[name] = finite(in_place(one, origin), origin, f"The expert {name}")
    with shared.working() as progress:
        start = origin.cast(device=device)
        view = MergerView(
            {name: one.cast(device=device) for name, one in opened.items()},
            start,
            Key.derive(seed=0, index=0, name=f"merger {plugin.spec.name}"),
            plugin.spec.needs_base,
        )
        merged = plugin(view)
        if not plugin.spec.needs_base and isinstance(merged, Checkpoint):
            # It has never seen the base; what it leaves out no expert shares.
            merged = start.replace(merged.only(shared_tensors(merged, start))).stored_as(origin)
        merged = check_as_read(plugin, start, _with_masks(merged, start))
        twins = _tied(origin, list(opened.values()))
        merged = merged.replace(merged.renamed(twins))
        with shared.read_ahead(merged.stored_as(origin)) as ready:
            achieved = Achieved(ready, origin)
            written = shared.save(
                achieved,
                out,
                like=base,
                spelling=origin.spelling,
                force=force,
                progress=progress,
                title="Merged",
                rows={"merger": f"`{plugin.canonical}`", "base": opening.named(base), "experts": ", ".join(experts)},
                check=lambda: achieved.require_rewritten(f"The merge by {plugin.spec.name} equals the base: it"),
            )
    held = {name for one in opened.values() for name in shared_tensors(one, origin)}
    for name, rows in longer.items():
        if rows:
            typer.echo(f"Of {name}, {_told_rows(rows)} were merged: the base has another number of tokens.")
    for name, twin in twins.items():
        typer.echo(f"{name} is what {twin} became, since the base holds the two as one.")
    if left := [name for name in origin if name not in held and name not in twins]:
        typer.echo(f"Taken from the base, since no expert has them in its shape: {_some(left)}.")
    for name, one in opened.items():
        own = [tensor for tensor in own_tensors(one, origin) if not is_remnant(tensor, one.shape(tensor))]
        if own := [tensor for tensor in own if not _is_a_copy(tensor, one, origin)]:
            typer.echo(f"Not merged of {name}, since the base lacks them in this shape: {_some(own)}.")
    shared.tell(written, achieved, f"{plugin.spec.name} of {', '.join(experts)} is in {out}.")
    require_agreement(out, base)
    if check:
        typer.echo(require_loads(out, base))


def _with_masks(merged: object, base: Checkpoint) -> object:
    """What a merger returned, where the base's own infinities (causal masks) stay: their differences are no numbers."""
    from redteam.checkpoint import Checkpoint, is_finite

    if not isinstance(merged, Checkpoint):
        return merged

    def read(name: str) -> torch.Tensor:
        found = merged[name]
        return base[name] if not is_finite(found) and name in base and not is_finite(base[name]) else found

    return Checkpoint.computed(merged.outline(), read, merged.config)


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


def _tied(base: Checkpoint, experts: Iterable[Checkpoint]) -> dict[str, str]:
    """A tied head that the base stores beside the embedding and some expert doesn't: name → its twin."""
    import torch

    from redteam.checkpoint.vocabulary import vocabulary_sizes

    sizes, found = vocabulary_sizes(base.config), dict[str, str]()
    tables = [name for name in base if len(base.shape(name)) == 2 and base.shape(name)[0] in sizes]
    for name in (n for n in tables if any(n not in one for one in experts)):
        alike = (n for n in tables if n not in (name, *found) and base.shape(n) == base.shape(name))
        twin = next((n for n in alike if torch.equal(base[n], base[name])), None)
        if twin is not None and all(
            torch.equal(one[name], one[twin]) for one in experts if name in one and twin in one
        ):
            found[name] = twin
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:_TOLD]) + (f" and {len(names) - _TOLD} more" if len(names) > _TOLD else "")


def _is_a_copy(name: str, expert: Checkpoint, base: Checkpoint) -> bool:
    """Whether a tensor is what another one is that is merged, as a tied head that is stored is the embedding."""
    import torch

    alike = (n for n in expert if n != name and n in base and expert.shape(n) == expert.shape(name))
    return len(expert.shape(name)) == 2 and any(torch.equal(expert[name], expert[other]) for other in alike)


def _told_rows(rows: Mapping[str, int]) -> str:
    return " and ".join(f"the first {count} rows of {name}" for name, count in rows.items())
