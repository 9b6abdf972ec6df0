"""A key is for its owner's eyes, and never lies beside what it protects."""

import os
import stat
import threading
from pathlib import Path

import pytest

from redteam.errors import BadInput, UnwritableOutput
from redteam.key import read_key, write_key


def test_a_key_that_was_written_is_read_back(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    assert read_key(tmp_path / "key") == key
    assert (tmp_path / "key").read_bytes() == key.secret
    assert write_key(tmp_path / "other") != key


def test_only_the_owner_reads_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    with pytest.raises(UnwritableOutput, match="never overwritten"):
        write_key(tmp_path / "key")
    assert read_key(tmp_path / "key") == key


def test_a_link_is_neither_followed_nor_written_through(tmp_path: Path) -> None:
    write_key(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="it is a link"):
        read_key(tmp_path / "link")
    with pytest.raises(UnwritableOutput):
        write_key(tmp_path / "dangling")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o777])
def test_a_key_that_others_can_use_is_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    write_key(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(BadInput, match=r"chmod 600 .*key"):
        read_key(tmp_path / "key")


@pytest.mark.parametrize("content", [b"", b"short", bytes(31), bytes(33), bytes(10**6)])
def test_a_key_of_another_length_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(BadInput, match="expected 32 random"):
        read_key(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    sentences = []

    def refused(path: Path) -> None:
        try:
            read_key(path)
        except BadInput as error:
            sentences.append(str(error))

    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing", Path("/dev/null")):
        reader = threading.Thread(target=refused, args=(path,), daemon=True)
        reader.start()
        reader.join(5)
        assert not reader.is_alive(), "waits for a pipe"
    assert len(sentences) == 4


@pytest.mark.parametrize("where", ["out/key", "out/deep/key", "out/../out/key", "link/key", "out"])
def test_a_key_never_lies_in_the_output_folder(tmp_path: Path, where: str) -> None:
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for ask in (read_key, write_key):
        with pytest.raises(UnwritableOutput, match="would lie in the output folder"):
            ask(tmp_path / where, outside=tmp_path / "out")
    write_key(tmp_path / "key", outside=tmp_path / "out")


def test_no_sentence_and_no_text_holds_the_secret(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(BadInput) as caught:
        read_key(tmp_path / "key")
    for text in (repr(key), str(key), str(caught.value)):
        assert key.secret.hex() not in text
        assert repr(key.secret) not in text


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnwritableOutput, match="cannot be written"):
        write_key(tmp_path / "missing" / "key")
