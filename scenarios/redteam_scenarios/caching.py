"""The user's cache of what scenarios train: folders that are there whole or not at all, with weights and data."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from redteam.caching import ABANDONED, UNFINISHED, cache_root, note_engine
from redteam.errors import BadInput, UnwritableOutput

__all__ = ["cache_root", "read", "save", "whole", "write"]


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to work in, which becomes `folder` at the end if nothing went wrong.

    Raises:
        UnwritableOutput: If something cannot be written, also by who works in it.
    """
    work = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for other in folder.parent.glob(f".*{UNFINISHED}"):
            if time.time() - other.stat().st_mtime > ABANDONED:
                shutil.rmtree(other, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=UNFINISHED, dir=folder.parent))
        yield work
        try:
            os.replace(work, folder)
        except OSError:
            if not folder.is_dir():  # another process was first
                raise
        else:
            note_engine(folder)
    except OSError as error:
        raise UnwritableOutput(
            f"The cache {folder.parent} cannot be written ({error.strerror or error}); "
            "set REDTEAM_CACHE to a folder that can."
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def save(model: nn.Module, folder: Path) -> None:
    """Writes a Hugging Face folder."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)  # type: ignore[operator]
    finally:
        if shown:
            logging.enable_progress_bar()


def write(path: Path, data: Mapping[str, torch.Tensor]) -> None:
    """Writes tensors into a safetensors file."""
    from safetensors.torch import save_file

    save_file(dict(data), path)


def read(path: Path) -> dict[str, torch.Tensor]:
    """What `write` wrote.

    Raises:
        BadInput: If it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)  # type: ignore[no-any-return]
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} cannot be read ({error}); delete {path.parent} and it will be made again.") from None
