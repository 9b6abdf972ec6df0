"""Archives of a run that strangers send: few text files, by name, within limits, and nothing else.

    manifest.json      SHA-256 of every other member
    results.json       what the run found
    plan.json          what was announced before any attack ran: plan, limits, digests of scenarios and of files
    files/N/…          Python files and scenarios' files that the plan names, N for each folder that they lay in

A member is a plain file with text in it. Nothing is extracted by the tar library, and nothing run or imported.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from redteam.errors import BadInput
from redteam.files import new_folder

MANIFEST, RESULTS, PLAN, FILES = "manifest.json", "results.json", "plan.json", "files"
FORMAT = 1
MEBIBYTE = 1 << 20
LARGEST_ARCHIVE = 32 * MEBIBYTE
LARGEST_RESULTS = 128 * MEBIBYTE
LARGEST_OTHER = MEBIBYTE
LARGEST_SUM = 160 * MEBIBYTE
MOST_MEMBERS = 500
_NAME = re.compile(rf"(manifest|results|plan)\.json|{FILES}/[0-9]{{1,3}}(/\w[\w. -]*)*/\w[\w. -]*\.(py|toml)")
_LONGEST_NAME = 200


def packed(members: Mapping[str, bytes]) -> bytes:
    """An archive of these members and their manifest: the same bytes for the same members.

    Args:
        members: Name → content, all but the manifest.

    Raises:
        BadInput: If a member is not among what an archive may hold, or too large, in half a sentence.
    """
    manifest = {"format": FORMAT, "sha256": {name: _sha256(members[name]) for name in sorted(members)}}
    held = {MANIFEST: (json.dumps(manifest, indent=1) + "\n").encode(), **dict(sorted(members.items()))}
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in held.items():
            _require_allowed(name, len(content))
            _require_text(name, content)
            about = tarfile.TarInfo(name)  # no owner, time 0, mode 644
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    _require_few(held)
    made = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=made, mtime=0) as file:
        file.write(plain.getvalue())
    if made.tell() > LARGEST_ARCHIVE:
        raise BadInput(f"it would take {_size(made.tell())}, and at most {_size(LARGEST_ARCHIVE)} are taken")
    return made.getvalue()


def is_archive(path: Path) -> bool:
    """Whether a path is an archive's and no folder's or results file's, by its name."""
    return path.is_file() and not path.name.endswith((".json", ".json.gz"))


def read_archive(archive: Path) -> dict[str, bytes]:
    """The members of an archive, the manifest among them, once all of it was checked.

    Raises:
        BadInput: If it cannot be read, is damaged, or holds what it must not: other names, links, large files,
            contents that are not those of the manifest.
    """
    try:
        with archive.open("rb") as file:
            if file.seek(0, io.SEEK_END) > LARGEST_ARCHIVE:
                raise BadInput(f"larger than {_size(LARGEST_ARCHIVE)}")
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as unpacked:
                members = dict(_members(_Bounded(unpacked)))
        _require_manifest(members)
    except BadInput as error:
        raise BadInput(f"{archive} is no archive of redteam submit ({error}); ask for it again.") from None
    except OSError as error:
        if error.strerror:
            raise BadInput(f"{archive} cannot be read ({error.strerror}); name an archive of redteam submit.") from None
        raise _damaged(archive) from None
    except (EOFError, zlib.error, tarfile.TarError, ValueError, RecursionError):
        raise _damaged(archive) from None
    return members


def unpack(archive: Path, folder: Path) -> None:
    """Writes the members of an archive into a new folder, which then is laid out like that of a run.

    Args:
        archive: Made by `redteam submit`, and not trusted.
        folder: Where they go; it must not exist. It is there whole or not at all.

    Raises:
        BadInput: As `read_archive`; then nothing is written.
        UnwritableOutput: If the folder exists or cannot be written.
    """
    members = read_archive(archive)
    with new_folder(folder) as made:
        for name, content in members.items():
            place = made / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)


def digest(members: Mapping[str, bytes]) -> str:
    """SHA-256 of an archive's manifest, and so of all that it holds, however it was compressed."""
    return _sha256(members[MANIFEST])


class _Bounded(io.RawIOBase):
    """Reads from a stream, up to a number of bytes."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream, self._left = stream, LARGEST_SUM

    def read(self, size: int = -1, /) -> bytes:
        found = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(found)
        if self._left < 0:
            raise BadInput(f"more than {_size(LARGEST_SUM)} when unpacked")
        return found


def _members(stream: _Bounded) -> Iterator[tuple[str, bytes]]:
    seen: dict[str, None] = {}
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if not member.isreg() or member.issparse() or member.pax_headers:
                raise BadInput(f"{member.name[:80]!r} is no plain file")
            _require_allowed(member.name, member.size)
            if member.name.casefold() in seen:
                raise BadInput(f"{member.name} is in it twice")
            seen[member.name.casefold()] = None
            _require_few(seen)
            file = tar.extractfile(member)
            content = b"" if file is None else file.read(member.size)
            if len(content) != member.size:
                raise EOFError
            _require_text(member.name, content)
            yield member.name, content


def _require_allowed(name: str, size: int) -> None:
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise BadInput(f"{name[:80]!r} is nothing that such an archive holds")
    limit = LARGEST_RESULTS if name == RESULTS else LARGEST_OTHER
    if not 0 <= size <= limit:
        raise BadInput(f"{name} takes {_size(size)}, and at most {_size(limit)} are taken")


def _require_text(name: str, content: bytes) -> None:
    """Refuses what is no text, as keys and weights are not."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise BadInput(f"{name} holds no text, as a key or weights would")


def _require_few(names: Mapping[str, object]) -> None:
    if len(names) > MOST_MEMBERS:
        raise BadInput(f"more than {MOST_MEMBERS} files")


def _require_manifest(members: Mapping[str, bytes]) -> None:
    if missing := [name for name in (MANIFEST, RESULTS, PLAN) if name not in members]:
        raise BadInput(f"{missing[0]} is missing")
    manifest = json.loads(members[MANIFEST])
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BadInput("its format is not known to this version")
    held = {name: _sha256(content) for name, content in members.items() if name != MANIFEST}
    told = manifest.get("sha256")
    if told != held:
        told = told if isinstance(told, dict) else {}
        name = next((name for name in sorted({*held, *told}) if held.get(name) != told.get(name)), RESULTS)
        raise BadInput(f"{name[:80]} is not what the manifest says")


def _damaged(archive: Path) -> BadInput:
    return BadInput(f"{archive} is damaged, or no archive of redteam submit; ask for it again.")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _size(count: int) -> str:
    return f"{count / MEBIBYTE:.1f} MiB"
