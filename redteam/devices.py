"""Devices to compute on: whether there is one is known before torch, which takes seconds to import, is."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redteam.errors import BadInput

CPU = "cpu"
CUDA = "cuda"
_INSTEAD = "leave --device out to compute on the CPU."
_DRIVERS = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")


def require_device(name: str) -> None:
    """Refuses a device that nothing can be computed on here.

    What is seen without torch is said without it; torch has the last word.

    Args:
        name: `"cpu"`, `"cuda"`, or one of several GPUs as `"cuda:1"`.

    Raises:
        BadInput: If there is no such device, or it has no float64, in which fits are computed.
    """
    if name == CPU:
        return
    kind = name.partition(":")[0]
    if kind == "mps":
        raise BadInput(f"The device {name!r} has no float64, in which locks are fitted; {_INSTEAD}")
    if kind != CUDA or not re.fullmatch(r"cuda(:\d+)?", name):
        raise BadInput(f"The device {name!r} is none that can be computed on; expected 'cpu' or 'cuda'; {_INSTEAD}")
    if "torch" not in sys.modules and (why := _missing()):
        raise BadInput(f"There is no CUDA device that torch can use ({why}); {_INSTEAD}")
    import torch

    if not torch.cuda.is_available():
        raise BadInput(f"There is no CUDA device that torch can use; {_INSTEAD}")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):
        raise BadInput(f"The device {name!r} cannot be used here; {_INSTEAD}") from None


@contextmanager
def reproducible(name: str) -> Iterator[None]:
    """While it is active, convolutions on a GPU are computed in whole float32, in the same order every time.

    By default cuDNN rounds what it multiplies to 10 bits. Products of matrices are in whole float32 by default.
    """
    if name == CPU:
        yield
        return
    import torch

    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def model_of(name: str) -> str:
    """What a device is, for results: `"NVIDIA H200"`; the CPU is not told here."""
    if name == CPU:
        return ""
    import torch

    return str(torch.cuda.get_device_name(name))


def settle(name: str) -> None:
    """Waits until a device has done what it was given: GPUs compute while the program goes on."""
    if name != CPU:
        import torch

        torch.cuda.synchronize(name)


def peak_memory(name: str, *, reset: bool) -> int:
    """The most bytes that tensors of this process took on a GPU, counted anew from here on where asked for."""
    import torch

    if reset:
        torch.cuda.reset_peak_memory_stats(name)
    return int(torch.cuda.max_memory_allocated(name))


def _missing() -> str:
    """Why there can be no CUDA device, as far as that is seen without importing torch; empty where nothing is."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "torch is not installed"
    built = _built_for(Path(spec.origin).with_name("version.py"))
    if built == CPU:
        return "this torch is built for the CPU alone"
    return "" if built != CUDA or _driven() else "the system has no NVIDIA GPU, or no driver for it"


def _built_for(version: Path) -> str:
    """`"cpu"` or `"cuda"`, by what torch says of itself in a file; empty for other builds, or where it says nothing."""
    try:
        text = version.read_text(encoding="utf-8")
    except OSError:
        return ""
    found = dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*(.+)$", text, re.MULTILINE))
    if not found or found.get("hip", "None").strip() != "None":
        return ""
    return CPU if found.get("cuda", "").strip() == "None" else CUDA


def _driven() -> bool:
    """Whether the driver finds a GPU that this process may use."""
    for library in _DRIVERS:
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    return False
