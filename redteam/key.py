"""A defender's secret, and the random streams that follow from it."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from redteam.errors import BadInput, UnwritableOutput

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_DISTINCT = 16  # of 32 random bytes; fewer come by chance once in 10^16 keys


@dataclass(frozen=True)
class Key:
    """32 secret bytes. Every site draws its own stream, so neither their order nor the device matters.

    Raises:
        ValueError: If the secret is not 32 bytes long.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != 32:
            raise ValueError(f"a key has 32 bytes, this one {len(self.secret)}")

    @classmethod
    def generate(cls) -> Key:
        """A new key from the operating system's randomness."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def derive(cls, *, seed: int, index: int, name: str) -> Key:
        """The key of an evaluation: repeatable, so never fit to protect a real release.

        Args:
            seed: The scenario's seed.
            index: Which of the keys under this seed.
            name: Whose key it is, for example the defense's name.
        """
        return cls(hashlib.sha256(f"redteam key\0{seed}\0{index}\0{name}".encode()).digest())

    @classmethod
    def of_seed(cls, seed: int) -> Key:
        """The key that an implementation has whose random numbers start from a small integer: whoever counts has it.

        Args:
            seed: From 0 upwards.
        """
        return cls(hashlib.sha256(f"redteam published seed\0{seed}".encode()).digest())

    def child(self, name: str) -> Key:
        """The key of a part, for example of one defense in a chain."""
        return Key(hashlib.sha256(b"redteam child\0" + self.secret + name.encode()).digest())

    def fingerprint(self, text: str) -> str:
        """16 hexadecimal digits that tell this key from others and reveal nothing of it.

        Args:
            text: What else they shall tell apart: the defense with all its settings.
        """
        return hmac.new(self.secret, f"redteam fingerprint\0{text}".encode(), hashlib.sha256).hexdigest()[:16]

    def generator(self, tag: str) -> np.random.Generator:
        """The stream that belongs to `tag`; two tags, or two keys, give unrelated streams."""
        digest = hashlib.sha256(self.secret + tag.encode()).digest()
        sequence = np.random.SeedSequence(int.from_bytes(digest, "big"), pool_size=8)
        return np.random.Generator(np.random.PCG64(sequence))


def require_room(path: str | os.PathLike[str], *, outside: str | os.PathLike[str] | None = None) -> None:
    """Refuses a file in which `write_key` could not put a key; arguments and errors as there."""
    folder = _apart(path, outside).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "there is no such folder" if not folder.is_dir() else "its folder may not be written to"
        raise UnwritableOutput(f"{path} cannot be written ({why}); name another place for it.")


def write_key(
    path: str | os.PathLike[str], key: Key | None = None, *, outside: str | os.PathLike[str] | None = None
) -> Key:
    """Writes a key into a new file that only its owner can read.

    Args:
        path: The file, which must not exist.
        key: A new one by default.
        outside: The output folder, in which a key must never lie.

    Raises:
        UnwritableOutput: If there is something already, or nothing can be written.
    """
    path = _apart(path, outside)
    key = Key.generate() if key is None else key
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(key.secret)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise UnwritableOutput(f"{path} exists already, and a key is never overwritten; name another file.") from None
    except OSError as error:
        raise UnwritableOutput(f"{path} cannot be written ({error.strerror}); name another place for it.") from None
    return key


def read_key(path: str | os.PathLike[str], *, outside: str | os.PathLike[str] | None = None) -> Key:
    """Reads a key from a file that only its owner can read.

    Args:
        path: The file.
        outside: The output folder, in which a key must never lie.

    Raises:
        BadInput: If it is no such file, or does not hold 32 bytes.
    """
    path = _apart(path, outside)
    try:
        handle = os.open(path, os.O_RDONLY | _NOFOLLOW | _NONBLOCK)
    except OSError as error:
        why = "it is a link" if error.errno in {errno.ELOOP, errno.EMLINK} else error.strerror
        raise BadInput(f"The key {path} cannot be read ({why}); name the file that holds its 32 bytes.") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"The key {path} is no regular file; name the file that holds its 32 bytes.")
        if hasattr(os, "geteuid"):
            if status.st_uid != os.geteuid():
                raise BadInput(f"The key {path} belongs to another user; name a file of your own.")
            if status.st_mode & 0o077:
                raise BadInput(f"The key {path} can be read by others; make it yours alone: chmod 600 {path}")
        secret = os.read(handle, 33)
    finally:
        os.close(handle)
    if len(secret) != 32:
        size = "more than 32" if len(secret) > 32 else len(secret)
        raise BadInput(f"The key {path} has {size} bytes; expected 32 random ones, as redteam protect writes them.")
    if len(set(secret)) < _DISTINCT:
        raise BadInput(
            f"The key {path} has {len(set(secret))} different bytes among 32, so it is not random; expected a key as "
            "redteam protect writes them."
        )
    return Key(secret)


def _apart(path: str | os.PathLike[str], outside: str | os.PathLike[str] | None) -> Path:
    path = Path(path)
    places = (Path(os.path.realpath(path)), Path(os.path.realpath(path.parent)) / path.name)
    if outside is not None and any(place.is_relative_to(os.path.realpath(outside)) for place in places):
        raise UnwritableOutput(f"The key {path} would lie in the output folder {outside}; keep it elsewhere.")
    return path
