"""Archives of runs: the same bytes for the same members, and nothing that a stranger puts in gets anywhere."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from redteam import archive
from redteam.errors import BadInput, UnwritableOutput

GOOD = {"results.json": b"{}\n", "plan.json": b'{"plan": {}}\n', "files/0/mine.py": b"x = 1\n"}


def manifest(members: dict[str, bytes]) -> bytes:
    return json.dumps(
        {"format": 1, "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}}
    ).encode()


def tarred(entries: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", format=form) as tar:
        for about, content in entries:
            tar.addfile(about, io.BytesIO(content))
    return made.getvalue()


def entry(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    for field, value in fields.items():
        setattr(about, field, value)
    return about, content


def with_members(members: dict[str, bytes], told: dict[str, bytes] | None = None) -> bytes:
    """An archive as a stranger would make it, its manifest true of `told`."""
    held = {"manifest.json": manifest(members if told is None else told), **members}
    return tarred(entry(name, content) for name, content in held.items())


def with_more(*more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    held = {"manifest.json": manifest(GOOD), **GOOD}
    return tarred([*(entry(name, content) for name, content in held.items()), *more])


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "sent.tar.gz"
        path.write_bytes(content)
        return path

    return write


def test_the_same_members_give_the_same_bytes_in_whatever_order() -> None:
    backwards = dict(reversed(GOOD.items()))
    assert list(backwards) != list(GOOD)
    assert archive.packed(backwards) == archive.packed(GOOD)
    assert archive.packed({**GOOD, "files/0/mine.py": b"x = 2\n"}) != archive.packed(GOOD)


def test_what_is_packed_comes_back_and_unpacks_as_a_folder(written: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = written(archive.packed(GOOD))
    held = archive.read_archive(path)
    assert {name: held[name] for name in GOOD} == GOOD
    assert archive.digest(held) == hashlib.sha256(held["manifest.json"]).hexdigest()
    archive.unpack(path, tmp_path / "out")
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert files == {*GOOD, "manifest.json"}
    assert (tmp_path / "out/files/0/mine.py").read_bytes() == b"x = 1\n"
    with pytest.raises(UnwritableOutput, match="exists already"):
        archive.unpack(path, tmp_path / "out")


def test_what_is_good_is_good_made_by_others_too(written: Callable[[bytes], Path]) -> None:
    """So that what is refused below is refused for what was changed."""
    assert archive.read_archive(written(with_members(GOOD)))["plan.json"] == GOOD["plan.json"]
    assert archive.read_archive(written(with_more()))["plan.json"] == GOOD["plan.json"]


HOSTILE: dict[str, tuple[bytes, str]] = {
    "above": (with_more(entry("../evil.py", b"x")), "'../evil.py' is nothing that such an archive holds"),
    "above later": (with_more(entry("files/0/../../../evil.py", b"x")), "is nothing that such an archive holds"),
    "absolute": (with_more(entry("/tmp/evil.py", b"x")), "'/tmp/evil.py' is nothing"),
    "backslash": (with_more(entry("files/0/..\\evil.py", b"x")), "is nothing"),
    "drive": (with_more(entry("files/0/C:evil.py", b"x")), "is nothing"),
    "hidden": (with_more(entry("files/0/.evil.py", b"x")), "is nothing"),
    "line break": (with_more(entry("files/0/a.py\n", b"x")), "is nothing"),
    "symbolic link": (with_more(entry("files/0/a.py", type=tarfile.SYMTYPE, linkname="/etc/passwd")), "no plain file"),
    "hard link": (with_more(entry("files/0/a.py", type=tarfile.LNKTYPE, linkname="plan.json")), "no plain file"),
    "device": (with_more(entry("files/0/a.py", type=tarfile.CHRTYPE)), "no plain file"),
    "pipe": (with_more(entry("files/0/a.py", type=tarfile.FIFOTYPE)), "no plain file"),
    "folder": (with_more(entry("files/0", type=tarfile.DIRTYPE)), "no plain file"),
    "key": (with_more(entry("victim.key", bytes(range(200, 232)))), "'victim.key' is nothing"),
    "key in disguise": (with_more(entry("files/0/key.py", bytes(range(200, 232)))), "holds no text, as a key"),
    "weights": (with_more(entry("files/0/model.safetensors", b"x")), "is nothing"),
    "pickle": (with_more(entry("files/0/p.py", pickle.dumps({"a": 1.5}))), "holds no text"),
    "cells": (with_more(entry("cells/0.json", b"{}")), "is nothing"),
    "twice": (with_more(entry("plan.json", b"{}")), "plan.json is in it twice"),
    "twice but for case": (with_more(entry("files/0/MINE.py", b"x")), "is in it twice"),
    "large": (with_more(entry("files/0/l.py", b" " * (archive.LARGEST_OTHER + 1))), "at most 1.0 MiB are taken"),
    "many": (with_more(*(entry(f"files/0/m{k}.py") for k in range(archive.MOST_MEMBERS))), "more than 500 files"),
    "long name": (with_more(entry("files/0/" + "a" * 300 + ".py")), "is nothing"),
    "unlisted": (with_members({**GOOD, "files/0/b.py": b"x"}, told=GOOD), "files/0/b.py is not what the manifest says"),
    "edited": (with_members({**GOOD, "results.json": b"{ }"}, told=GOOD), "results.json is not what the manifest says"),
    "without results": (with_members({"plan.json": b"{}"}), "results.json is missing"),
    "without manifest": (tarred(entry(n, c) for n, c in GOOD.items()), "manifest.json is missing"),
    "manifest too deep": (
        tarred([entry("manifest.json", b"[" * 100_000), *(entry(n, c) for n, c in GOOD.items())]),
        "is damaged",
    ),
    "of later": (
        tarred([entry("manifest.json", b'{"format": 2}'), *(entry(n, c) for n, c in GOOD.items())]),
        "its format is not known",
    ),
    "empty": (b"", "is damaged"),
    "no archive": (b"hello", "is damaged"),
    "empty gzip": (gzip.compress(b""), "is damaged"),
    "cut": (with_members(GOOD)[:-40], "is damaged"),
}
"""What a stranger may send → the archive, and what is said of it."""


@pytest.mark.parametrize("what", HOSTILE)
def test_refused_and_nothing_is_written(what: str, written: Callable[[bytes], Path], tmp_path: Path) -> None:
    content, told = HOSTILE[what]
    path = written(content)
    with pytest.raises(BadInput) as raised:
        archive.unpack(path, tmp_path / "out")
    assert told in str(raised.value)
    assert str(raised.value).endswith(("ask for it again.", "redteam submit."))
    assert list(tmp_path.iterdir()) == [path]


def headed(name: str, kind: bytes, size: int) -> bytes:
    """The header of a member that says that so much follows."""
    about = tarfile.TarInfo(name)
    about.type, about.size = kind, size
    return about.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("results.json", tarfile.REGTYPE, "results.json takes 2048.0 MiB"),
        ("././@LongLink", tarfile.GNUTYPE_LONGNAME, "more than 1.0 MiB when unpacked"),
        ("././@PaxHeader", tarfile.XHDTYPE, "more than 1.0 MiB when unpacked"),
        ("files/0/a.py", tarfile.GNUTYPE_SPARSE, "'files/0/a.py' is no plain file"),
    ],
)
def test_a_bomb_is_not_unpacked_to_its_end(
    name: str, kind: bytes, told: str, written: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LARGEST_SUM", archive.MEBIBYTE)
    bomb = gzip.compress(headed(name, kind, 1 << 31) + b"a" * (8 * archive.MEBIBYTE), 1)
    took: list[int] = []
    read = archive._Bounded.read

    def watched(self: archive._Bounded, size: int = -1, /) -> bytes:
        found = read(self, size)
        took.append(len(found))
        return found

    monkeypatch.setattr(archive._Bounded, "read", watched)
    with pytest.raises(BadInput) as raised:
        archive.read_archive(written(bomb))
    assert told in str(raised.value)
    assert 0 < sum(took) <= archive.MEBIBYTE


def test_too_large_a_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sent.tar.gz"
    with path.open("wb") as file:
        file.truncate(archive.LARGEST_ARCHIVE + 1)
    with pytest.raises(BadInput, match=r"larger than 32\.0 MiB"):
        archive.read_archive(path)


def test_other_formats_and_places_are_told(tmp_path: Path) -> None:
    path = tmp_path / "sent.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("results.json", "{}")
    with pytest.raises(BadInput, match="is damaged, or no archive"):
        archive.read_archive(path)
    with pytest.raises(BadInput, match=r"cannot be read \(No such file"):
        archive.read_archive(tmp_path / "nowhere")


def test_damage_anywhere_is_a_sentence(tmp_path: Path) -> None:
    good, path = archive.packed(GOOD), tmp_path / "sent.tar.gz"
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        try:
            held = archive.read_archive(path)
        except BadInput:
            continue
        assert {name: held[name] for name in GOOD} == GOOD, "only bytes that carry nothing may differ"
