"""Files and folders that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from redteam.errors import NotACheckpoint, UnwritableOutput

if sys.platform != "win32":
    import fcntl

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a process to stop."""
_MARK, _NEW, _OLD = "writing", "new", "old"
_MAGIC = b"A folder is being written here by redteam; it may be removed once nobody holds a lock on this file.\n"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file, of text or of bytes, whole or not at all.

    Raises:
        UnwritableOutput: If it cannot be written.
    """
    work = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, work = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        os.chmod(work, 0o644)
        os.replace(work, path)
    except OSError as error:
        if work:
            Path(work).unlink(missing_ok=True)
        raise UnwritableOutput(f"{path} cannot be written ({error.strerror}); name another place.") from None


@contextlib.contextmanager
def new_folder(out: Path, *, force: bool = False, durable: bool = True) -> Iterator[Path]:
    """Gives an empty folder beside `out`, which takes that name when the block ends well, and else disappears.

    What a killed process left beside `out` is tidied first: a folder of ours whose lock nobody holds.

    Args:
        out: Where the folder shall be.
        force: Whether a checkpoint that is there already is replaced, once the new one is complete.
        durable: Whether to wait until the disk has it.

    Raises:
        UnwritableOutput: If something is there already, or the place cannot be written.
    """
    made: list[Path] = []
    work: Path | None = None
    mark = -1
    complete = False
    try:
        _tidy(out)
        vacant(out, force)
        made = _parents(out)
        work = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
        mark = _hold(work / _MARK)
        (work / _NEW).mkdir()
        yield work / _NEW
        if durable:
            _flush(work / _NEW)
        vacant(out, force)
        with uninterrupted():  # once the folder has its name, nobody shall hear that nothing was written
            _put(work, out)
            complete = True
            shutil.rmtree(work, ignore_errors=True)
            work = None
            if durable:
                with contextlib.suppress(OSError):
                    _sync(out.parent)
    except OSError as error:
        raise UnwritableOutput(f"{out} cannot be written ({error.strerror or error}); name another place.") from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        if mark >= 0:
            os.close(mark)
        for folder in made if not complete else ():
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """While it is active, what asks this process to stop is not heard; elsewhere than in the main thread, it is.

    For the moment between a result's getting its name and the end of the work: the result is there then.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def require_model(path: Path) -> None:
    """Refuses a path at which no model can be, since there is no such file or folder.

    Raises:
        NotACheckpoint: In this case.
    """
    if not path.is_file() and not path.is_dir():
        what = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
        raise NotACheckpoint(f"{path} {what}; expected a folder with model.safetensors, or a safetensors file.")


def apart(out: Path, sources: Iterable[Path]) -> None:
    """Refuses an output folder that would swallow a source, lie in one, or be somebody's whole home.

    Args:
        out: The folder to be written.
        sources: Folders and files that are read.

    Raises:
        UnwritableOutput: In these cases.
    """
    place = Path(os.path.realpath(out))  # resolve() raises where links lead in a circle
    lives = [("the working folder", Path.cwd())]
    with contextlib.suppress(RuntimeError):  # a user without a home
        lives.append(("the home folder", Path.home()))
    for what, lived in lives:
        if lived.resolve().is_relative_to(place):
            raise UnwritableOutput(f"{out} is {what} or above it; name a folder that does not exist.")
    for source in sources:
        real = Path(os.path.realpath(source))
        if real.is_relative_to(place) or (real.is_dir() and place.is_relative_to(real)):
            raise UnwritableOutput(f"{out} is, holds or lies in {source}, which is read; name a folder apart from it.")


def vacant(out: Path, force: bool) -> None:
    """Refuses an output folder that exists and may not be replaced.

    Args:
        out: The folder to be written.
        force: Whether a checkpoint that is there may be replaced.

    Raises:
        UnwritableOutput: In this case.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UnwritableOutput(f"{out} exists already and is no folder; name a folder that does not exist.")
    if out.exists() and not force:
        raise UnwritableOutput(f"{out} exists already; name a folder that does not, or replace it with --force.")
    inside = out.glob("*/*.safetensors") if (out / "modules.json").is_file() else ()  # of sentence-transformers
    if out.exists() and any(out.iterdir()) and not any((*out.glob("*.safetensors"), *inside)):
        raise UnwritableOutput(f"{out} holds no checkpoint, so that it is not replaced; name another folder.")
    if out.exists() and (key := next((e.name for e in out.iterdir() if looks_like_a_key(e)), "")):
        raise UnwritableOutput(f"{out} holds {key}, which looks like a key; move it elsewhere, or name another folder.")
    if out.exists() and (out / ".git").exists():
        raise UnwritableOutput(f"{out} is a repository (.git), which is not replaced; name another folder.")


def looks_like_a_key(path: Path) -> bool:
    """Whether a file holds 32 bytes that are no text: what must neither be published nor be lost with a folder."""
    return path.is_file() and path.stat().st_size == 32 and not path.read_bytes().isascii()


def _parents(out: Path) -> list[Path]:
    """Makes the folders above `out`; returns those that were missing, the deepest first."""
    missing = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _put(work: Path, out: Path) -> None:
    if out.exists():
        os.replace(out, work / _OLD)
        try:
            os.replace(work / _NEW, out)
        except OSError:
            os.replace(work / _OLD, out)
            raise
    else:
        os.replace(work / _NEW, out)


def _prefix(out: Path) -> str:
    return f".{out.name}.redteam-"


def _hold(path: Path) -> int:
    """A mark with a lock on it, which ends with this process; only then does it say what it is."""
    mark = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a file system without locks: nobody can take it for abandoned then, either
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(mark, _MAGIC)
    return mark


def _tidy(out: Path) -> None:
    if sys.platform == "win32" or not out.parent.is_dir():
        return
    with os.scandir(out.parent) as entries:
        left = [Path(e.path) for e in entries if e.name.startswith(_prefix(out)) and e.is_dir(follow_symlinks=False)]
    for work in left:
        with contextlib.suppress(OSError):
            mark = os.open(work / _MARK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                status = os.fstat(mark)
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or os.read(mark, 200) != _MAGIC:
                    continue
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (work / _OLD).is_dir() and not out.exists():
                    os.replace(work / _OLD, out)  # it was killed between taking the old one away and putting its own
                shutil.rmtree(work, ignore_errors=True)
            finally:
                os.close(mark)


def _flush(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    if sys.platform == "win32":
        return  # where folders cannot be opened
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
