"""What `protect`, `attack`, `merge` and `audit` share: options, how they open, compute and write, what they refuse."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from redteam.cli.opening import require_there
from redteam.cli.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from redteam.checkpoint import Checkpoint
    from redteam.checkpoint.save import Written
    from redteam.checkpoint.spelling import Spelling
    from redteam.cli.achieved import Achieved
    from redteam.cli.printing import Said
    from redteam.key import Key


def described(ctx: typer.Context, file: Path | None) -> Path | None:
    """Has the model type that a file describes stand as described there until the command has run."""
    if file is not None:
        require_there(file.expanduser(), "what redteam describe wrote")
        from redteam.anatomy.auto import described_as
        from redteam.anatomy.files import read_description

        ctx.with_resource(described_as(*read_description(file.expanduser())))
    return file


class Device(StrEnum):
    """Where to compute; `mps` is taken to be refused with its reason."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


def at_home(path: Path | None) -> Path | None:
    """A path in which `~` is the user's home, also where the shell left it alone (`--out=~/x`)."""
    return None if path is None else path.expanduser()


CHAIN = "As in name:setting=value or path/to/file.py@name; a+b for a chain."
"""Help on an argument that names a chain of plugins."""
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face or open_clip folder, a safetensors file, or a name on the hub (ORG/MODEL@REVISION).",
        callback=at_home,
    ),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.", callback=at_home)]
OnDevice = Annotated[
    Device,
    typer.Option(metavar="[cpu|cuda]", help="Where to compute; what is written is the same within rounding."),
]
Description = Annotated[
    Path | None,
    typer.Option(
        "--architecture",
        metavar="FILE",
        help="What redteam describe wrote of the model type, in place of the catalogue.",
        callback=described,
    ),
]
Dequantise = Annotated[
    bool,
    typer.Option(
        "--dequantise", help="Read FP8 with scales and MXFP4 as bfloat16; what is written is the plain model."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace DIR where it exists.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")]
_LOADED = "Load what was written, with transformers, and fail where a key is missing, unexpected or misshapen."
Load = Annotated[bool, typer.Option("--load", help=_LOADED)]
Check = Annotated[
    bool,
    typer.Option(
        "--load",
        "--check",
        help=_LOADED,
    ),
]


def read_as(dequantise: bool, dtype: str | None = None) -> torch.dtype | None:
    """In what quantised weights are read: bfloat16 or the dtype that is asked for; `None` where they are refused."""
    if not dequantise:
        return None
    import torch

    found: torch.dtype = getattr(torch, dtype or "bfloat16")
    return found


@contextmanager
def working() -> Iterator[Progress]:
    """Progress, and one thread for torch unless OMP_NUM_THREADS says how many; afterwards as many as before.

    The work is many small steps, after each of which threads wait for one another. On two busy cores an audit of a
    22 M-parameter encoder took 375 s with two threads and 48 s with one, an attack on it 40 s and 29 s.
    """
    import torch

    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        with Progress() as progress:
            yield progress
    finally:
        torch.set_num_threads(before)


@contextmanager
def read_ahead(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """The same checkpoint, the next tensor of which is computed while the last one is being written.

    Two tensors are in memory then. Whoever reads in another order waits as if there were none of this.
    """
    from redteam.checkpoint import Checkpoint

    following = dict(pairwise(checkpoint))
    begun: dict[str, Future[Tensor]] = {}
    with ThreadPoolExecutor(1) as thread:

        def read(name: str) -> Tensor:
            tensor = (begun.pop(name, None) or thread.submit(checkpoint.__getitem__, name)).result()
            begun.clear()
            if name in following:
                begun[following[name]] = thread.submit(checkpoint.__getitem__, following[name])
            return tensor

        yield Checkpoint.computed(checkpoint.outline(), read, checkpoint.config)


def require_usable(device: str, out: Path, force: bool, models: Iterable[Path | None], key: Path | None = None) -> None:
    """Refuses, before anything is computed, what computing or `redteam.checkpoint.save.write` would fail on.

    Args:
        device: Where to compute.
        out: The folder to write.
        force: Whether it may be replaced.
        models: What is read; names on the hub are not looked up yet.
        key: The key, where one is read.

    Raises:
        BadInput: If torch cannot use the device.
        NotACheckpoint: If there is nothing where a model should be.
        UnwritableOutput: If the folder exists and may not be replaced, or is, holds or lies in what is read.
    """
    from redteam.devices import require_device
    from redteam.files import apart, require_model, vacant
    from redteam.hub import of_hub

    given = [model for model in models if model is not None and of_hub(model) is None]
    for model in given:
        require_model(model)
    vacant(out, force)
    apart(out, given if key is None else [*given, key])
    require_device(device)


class Layout(TypedDict):
    """Whose files say how a rewritten model is laid out, and whose tokenizer goes along, as `save` takes it."""

    like: Path
    beside: Path | None


def laid_out_like(model: Path, base: Path | None) -> Layout:
    """A model's own files; for a LoRA adapter, which is merged, its base's, with what lies beside the adapter."""
    from redteam.checkpoint.adapters import is_adapter

    if base is None or not is_adapter(model):
        return {"like": model, "beside": None}
    return {"like": base, "beside": model if model.is_dir() else model.parent}


def save(
    achieved: Achieved,
    out: Path,
    *,
    like: Path,
    beside: Path | None = None,
    spelling: Spelling | None,
    force: bool,
    progress: Progress,
    title: str,
    rows: Mapping[str, str],
    check: Callable[[], None],
    tokens: Mapping[int, int] | None = None,
    ending: str = "",
) -> Written:
    """Writes a folder, with a section on what was done in its model card.

    Args:
        achieved: What is written, and counted meanwhile.
        out: The folder.
        like: Whose files say how it is laid out.
        beside: A folder whose tokenizer and the like take the place of those.
        spelling: How these files name the tensors, where not as `achieved` does.
        force: Whether it may be replaced.
        progress: Told of every tensor.
        title: Of the section.
        rows: Of the section's table; what was achieved follows.
        tokens: As of `redteam.checkpoint.save.write`.
        check: Called once all is counted; if it raises, nothing is there.
        ending: A paragraph after it.

    Raises:
        RedteamError: As `redteam.checkpoint.save.write`.
    """
    from redteam.checkpoint.save import write

    def card() -> str:
        check()
        return section(title, {**rows, **achieved.rows()}, ending)

    made = achieved.checkpoint.as_in_file(spelling)
    return write(made, out, like=like, beside=beside, force=force, progress=progress.advanced, card=card, tokens=tokens)


def section(title: str, rows: Mapping[str, str], ending: str = "") -> str:
    """A section of a model card: a table, signed, and a paragraph after it."""
    from importlib.metadata import version

    told = {**rows, "written by": f"redteam {version('merge-redteam')}"}
    table = [f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in told.items()]
    end = [f"\n{ending}"] if ending else []
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *table, *end]) + "\n"


def tell(said: Said, written: Written, achieved: Achieved, sentence: str) -> None:
    """Says which files beside the weights were not copied, and what was done."""
    said.facts |= achieved.rows()
    for line in achieved.sentences():
        said(line)
    if written.left_out:
        said(f"Not copied, since they are no part of such a checkpoint: {', '.join(written.left_out)}.")
    if written.uncoded:
        said(
            f"auto_map was taken out of {', '.join(written.uncoded)}: it names code, which is never copied nor run. "
            "Where transformers doesn't know the network, whoever publishes it puts both back."
        )
    said(sentence)


def key_at(path: Path, out: Path) -> tuple[Key, bool]:
    """The key in a file, or a new one that is not in it yet, and whether it is new; `keep` writes it.

    Raises:
        BadInput: If the file is in the output folder, or is no key.
        UnwritableOutput: If there is no file and none can be made.
    """
    from redteam.key import Key, read_key, require_room

    if os.path.lexists(path):
        return read_key(path, outside=out), False
    require_room(path, outside=out)
    return Key.generate(), True


@contextmanager
def keep(key: Key, path: Path, out: Path) -> Iterator[None]:
    """Writes a new key before what it locks is written. It stays whatever happens then: somebody may rely on it."""
    from redteam.key import write_key

    write_key(path, key, outside=out)
    try:
        yield
    except BaseException:
        typer.echo(f"The new key stays in {path}.", err=True)
        raise
