"""How much memory a run may take between all its processes, and a computation of it: asked before it is taken."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from redteam.errors import NotEnoughMemory

_UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SHORT = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "std::bad_alloc")
_SLACK = 100_000_000  # bytes that a process may have reserved and not used
_MMAP_THRESHOLD, _AT_ONCE = -3, 2**21  # of malloc.h; bytes


@dataclass(frozen=True)
class Room:
    """What one computation of a run may take.

    Attributes:
        own: Bytes for models and numbers.
        forward: Of these, bytes for what a forward pass computes.
        beside: Bytes that the run takes beside it: the program itself, and other computations at the same time.
    """

    own: int
    forward: int
    beside: int


_current: ContextVar[Room | None] = ContextVar("redteam_room", default=None)


def size(text: str) -> int:
    """Bytes, of a text such as `"4GB"` or `"512 MiB"`.

    Raises:
        ValueError: If it is no such text, or nothing.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b)\s*", text, re.IGNORECASE)
    count = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if not count:
        raise ValueError(f"{text!r} is no size")
    return count


def shown(count: float) -> str:
    """`"350 MB"`, `"4.2 GB"`: rounded up, so that what is asked for is enough."""
    if count < 1e9:
        return f"{math.ceil(count / 1e6)} MB"
    return f"{math.ceil(count / 1e8) / 10:g} GB"


def room() -> Room | None:
    """What the computation that runs may take; `None` for whatever there is."""
    return _current.get()


@contextmanager
def limited_to(allowed: Room | None) -> Iterator[None]:
    """Sets what the block may take. Where the system knows such limits, what is taken unasked beyond that is refused.

    Raises:
        NotEnoughMemory: If the block was refused memory.
    """
    if allowed is None:
        yield
        return
    free_at_once()
    token = _current.set(allowed)
    try:
        with _refused_beyond(allowed.own + _SLACK):
            yield
    except Exception as error:
        if isinstance(error, NotEnoughMemory) or not is_shortage(error):
            raise
        raise NotEnoughMemory(
            f"It takes more than the {shown(allowed.own)} of memory that a computation may have here; give more with "
            "--memory",
            total=2 * (allowed.own + allowed.beside),
        ) from None
    finally:
        _current.reset(token)


@contextmanager
def _refused_beyond(count: int) -> Iterator[None]:
    """While it is active, this process gets so many bytes beyond what it holds, and no more."""
    held = _data()
    if held is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held + count
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if before[1] < 0 else min(wanted, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data() -> int | None:
    """Bytes of this process that the limit counts; `None` where Linux does not tell."""
    with suppress(OSError):
        found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        if found:
            return 1024 * int(found[1])
    return None


def free() -> float | None:
    """Bytes that processes can still have on this machine; `None` where Linux does not tell."""
    with suppress(OSError):
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
        if found:
            return 1024.0 * int(found[1])
    return None


def is_shortage(error: BaseException) -> bool:
    """Whether torch, numpy, Python or the operating system says that memory is short."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _SHORT)


def require(needed: float, what: str) -> None:
    """Asks for memory before it is taken.

    Args:
        needed: Bytes.
        what: What takes them, as the beginning of a sentence.

    Raises:
        NotEnoughMemory: If the computation that runs may not have so much.
    """
    allowed = _current.get()
    if allowed is None or needed <= allowed.own:
        return
    total = needed + allowed.beside
    raise NotEnoughMemory(
        f"{what} takes about {shown(needed)}, more than the {shown(allowed.own)} that a computation may have here; "
        f"give --memory {shown(total).replace(' ', '')} or more",
        total=math.ceil(total),
    )


def free_at_once() -> None:
    """Has the C library give large pieces of memory back when they are freed, from now on, where it can be told to.

    It would keep what is below 32 MB, a matrix or two, in every thread that reads weights: a third of all that is held.
    """
    give_back()
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _AT_ONCE)


def give_back() -> None:
    """Has the C library give the memory back that was freed so far, where it can be told to.

    What `free_at_once` asks for is not enough: pieces come from what lies free inside of what it holds as long as they
    fit there, however large they are, and stay there.
    """
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
