"""Files from strangers are read strictly, or refused in one sentence; nothing outside their folder is touched."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.safetensors_io import DTYPES
from redteam.checkpoint.save import write
from redteam.errors import NotACheckpoint

W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def raw(header: Any, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def refused(path: Path, why: str) -> str:
    """The sentence, of one line, with which a checkpoint is refused."""
    with pytest.raises(NotACheckpoint, match=why) as caught:
        dict(Checkpoint.open(path))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.isprintable()
    assert len(sentence) < 1000
    return sentence


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        ({"w": W}, bytes(7), "cut off"),
        ({"w": W}, bytes(9), "belong to no tensor"),
        ({}, bytes(1), "belong to no tensor"),
        ({"w": {**W, "data_offsets": [4, 12]}}, bytes(12), "leaves a hole"),
        ({"w": W, "x": {**W, "data_offsets": [4, 12]}}, bytes(12), "overlaps"),
        ({"w": W, "x": W}, bytes(8), "overlaps"),
        ({"w": W, "x": {**W, "data_offsets": [12, 20]}}, bytes(20), "leaves a hole"),
        ({"w": {**W, "data_offsets": [0, 2**50]}}, bytes(8), "bytes for the shape"),
        ({"w": {**W, "shape": [2**48], "data_offsets": [0, 2**50]}}, bytes(8), "cut off"),
        ({"w": {**W, "data_offsets": [0, 2**70]}}, bytes(8), "no place"),
        ({"w": {**W, "data_offsets": [0.0, 8.0]}}, bytes(8), "no place"),
        ({"w": {**W, "data_offsets": [False, 8]}}, bytes(8), "no place"),
        ({"w": {**W, "data_offsets": [0, 8, 8]}}, bytes(8), "not described"),
        ({"w": {**W, "shape": [-2]}}, bytes(8), "no list of sizes"),
        ({"w": {**W, "shape": [-1, -2]}}, bytes(8), "no list of sizes"),
        ({"w": {**W, "shape": [True, 2]}}, bytes(8), "no list of sizes"),
        ({"w": {**W, "shape": [2.0]}}, bytes(8), "no list of sizes"),
        ({"w": {**W, "shape": [10**30]}}, bytes(8), "no list of sizes"),
        ({"w": {**W, "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b"", "no tensor has"),
        ({"w": {**W, "shape": [1] * 100}}, bytes(8), "no tensor has"),
        ({"w": {**W, "dtype": "F4"}}, bytes(8), "as F4, whose codes share bytes"),
        ({"w": {**W, "dtype": ["F32"]}}, bytes(8), "expected one of"),
        ({"w": [1]}, bytes(8), "not described"),
        ({"w" * 5000: W}, bytes(8), "name that no tensor has"),
        ({"__metadata__": [1]}, b"", "__metadata__"),
        ({"__metadata__": {"format": 3}}, b"", "__metadata__"),
        (b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8), "NaN is no number"),
        (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}', bytes(8), "Infinity is no number"),
        (b'{"w":' + json.dumps(W).encode() + b',"w":' + json.dumps(W).encode() + b"}", bytes(8), "'w' twice"),
        (b'{"w":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}', bytes(8), "'dtype' twice"),
        (b'{"\\ud800":' + json.dumps(W).encode() + b"}", bytes(8), "not described"),
        (b'{"\xff":1}', bytes(8), "not readable"),
        (b"[" * 100_000, b"", "nested too deeply"),
        (b'{"w":' + b"9" * 10_000 + b"}", b"", "not readable"),
        (b'"text"', b"", "expected an object"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, data: bytes, why: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw(header, data))
    refused(tmp_path, why)


def test_terabytes_that_are_claimed_or_sparse_are_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**44) + b"{}")
    refused(path, "cut off")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**34))
        file.truncate(2**35)
    refused(path, "header of 17179869184 bytes")
    text = json.dumps({"w": {"dtype": "U8", "shape": [2**43], "data_offsets": [0, 2**43]}}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2**43)
    refused(path, "more than this machine's memory")


def test_a_file_that_shrinks_after_it_was_opened_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw({"w": W}))
    there = Checkpoint.open(path)
    path.write_bytes(raw({"w": W})[:-1])
    with pytest.raises(NotACheckpoint, match="became shorter"):
        there["w"]


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", "", "nul\0", "bell\a\x1b[31m", "__class__", "\u202e"]
)
def test_names_of_tensors_are_only_names(tmp_path: Path, name: str) -> None:
    there = Checkpoint.of({name: torch.ones(2)}, {})
    there.save(tmp_path / "in")
    write(Checkpoint.open(tmp_path / "in"), tmp_path / "out", like=tmp_path / "in", card="## Card")
    assert Checkpoint.open(tmp_path / "out").digest() == there.digest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
    (tmp_path / "in" / "model.safetensors").write_bytes(raw({name: {**W, "shape": [3]}}))
    refused(tmp_path / "in", "damaged")


@pytest.mark.parametrize("code", sorted(DTYPES))
def test_every_dtype_is_read_as_safetensors_reads_it(tmp_path: Path, code: str) -> None:
    from safetensors.torch import load_file

    data = bytes(i % 2 if code == "BOOL" else i % 60 for i in range(6 * DTYPES[code].itemsize))
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw({"w": {"dtype": code, "shape": [2, 3], "data_offsets": [0, len(data)]}}, data))
    found, expected = Checkpoint.open(path)["w"], load_file(path)["w"]
    assert found.dtype == expected.dtype == DTYPES[code]
    assert bytes(found.view(torch.uint8).numpy().data) == bytes(expected.view(torch.uint8).numpy().data) == data


def shards(folder: Path, **names: str) -> Path:
    """A folder with shards `a` (w) and `b` (x), and an index that says what is asked."""
    folder.mkdir()
    for file, name in (("a.safetensors", "w"), ("b.safetensors", "x")):
        (folder / file).write_bytes(raw({name: W}))
    said = {"w": "a.safetensors", "x": "b.safetensors", **names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": said}))
    return folder


def test_the_shards_of_an_honest_index_are_read(tmp_path: Path) -> None:
    assert sorted(Checkpoint.open(shards(tmp_path / "m"))) == ["w", "x"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"w": "c.safetensors"}, "is missing"),
        ({"w": "../../outside.safetensors"}, "outside the folder"),
        ({"w": "/etc/hostname"}, "outside the folder"),
        ({"w": "./a.safetensors"}, "outside the folder"),
        ({"w": "..\\a.safetensors"}, "outside the folder"),
        ({"w": ".."}, "outside the folder"),
        ({"w": ""}, "outside the folder"),
        ({"w": "a\0"}, "outside the folder"),
        ({"w": "a" * 5000}, "cannot be a file"),
        ({"w": 3}, "not a readable index"),
        ({"w": None}, "not a readable index"),
        ({"w": ["a.safetensors"]}, "not a readable index"),
    ],
)
def test_an_index_and_its_files_must_agree(tmp_path: Path, said: dict[str, Any], why: str) -> None:
    refused(shards(tmp_path / "m", **said), why)


@pytest.mark.parametrize(
    ("said", "remark"),
    [
        ({"w": "b.safetensors", "x": "a.safetensors"}, "names 'w', 'x', which another file holds than it says"),
        ({"y": "a.safetensors"}, "names 'y', which no file holds"),
    ],
)
def test_what_loaders_read_nevertheless_is_read_and_remarked_on(
    tmp_path: Path, said: dict[str, Any], remark: str
) -> None:
    found = Checkpoint.open(shards(tmp_path / "m", **said))
    assert sorted(found) == ["w", "x"]
    assert any(remark in each for each in found.remarks), found.remarks
    write(found, tmp_path / "out", like=tmp_path / "m")
    mended = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())["weight_map"]
    assert mended == {"w": "a.safetensors", "x": "b.safetensors"}


def test_a_tensor_of_which_the_index_says_nothing_is_read(tmp_path: Path) -> None:
    folder = shards(tmp_path / "m")
    (folder / "a.safetensors").write_bytes(raw({"w": W, "mtp": {**W, "data_offsets": [8, 16]}}, bytes(16)))
    found = Checkpoint.open(folder)
    assert sorted(found) == ["mtp", "w", "x"]
    assert found.remarks == ("The index lacks 'mtp', of which it says nothing, though a file holds them.",)


def test_of_a_tensor_that_is_there_twice_the_index_says_which_counts(tmp_path: Path) -> None:
    folder = shards(tmp_path / "m")
    twice = {**W, "data_offsets": [8, 16]}
    size = 8
    (folder / "a.safetensors").write_bytes(raw({"w": W, "x": twice}, bytes(2 * size)))
    (folder / "b.safetensors").write_bytes(raw({"x": W}, b"\1" * size))
    found = Checkpoint.open(folder)
    assert bytes(found["x"].view(torch.uint8).numpy().data) == b"\1" * size
    write(found, tmp_path / "out", like=folder)
    assert not Checkpoint.open(tmp_path / "out").remarks
    assert torch.equal(Checkpoint.open(tmp_path / "out")["x"], found["x"])


@pytest.mark.parametrize("said", [{"w": "model.safetensors"}, {"w": "model-1.safetensors"}])
def test_one_file_and_an_index(tmp_path: Path, said: dict[str, str]) -> None:
    """An index that names just the file (mlx-lm), and one whose shards were put together."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(raw({"w": W}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": said}))
    found = Checkpoint.open(folder)
    assert list(found) == ["w"]
    assert bool(found.remarks) == (said["w"] != "model.safetensors")
    write(found, tmp_path / "out", like=folder)
    assert list(Checkpoint.open(tmp_path / "out")) == ["w"]
    (folder / "model-1.safetensors").write_bytes(raw({"w": W}))
    if said["w"] != "model.safetensors":
        refused(folder, "which is meant cannot be known")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"weight_map":{"w":"a.safetensors","w":"b.safetensors"}}', "'w' twice"),
        (b'{"weight_map":[]}', "not a readable index"),
        (b"{}", "not a readable index"),
        (b'{"weight_map":{"w":NaN}}', "NaN"),
        (b"\xff\xfe", "not readable"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_index_is_a_sentence(tmp_path: Path, text: bytes, why: str) -> None:
    folder = shards(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_bytes(text)
    refused(folder, why)


def test_a_tensor_in_two_shards_that_the_index_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = shards(tmp_path / "m", y="b.safetensors")
    for file in ("a.safetensors", "b.safetensors"):
        (folder / file).write_bytes(raw({"v": W}))
    refused(folder, "is in a.safetensors and in b.safetensors")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"\xff{}", "not readable"),
        (b'{"a": NaN}', "NaN"),
        (b"[]", "expected an object"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b" " * (2**23 + 1), "too many to be true"),
    ],
)
def test_a_damaged_config_is_a_sentence(tmp_path: Path, text: bytes, why: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw({"w": W}))
    (tmp_path / "config.json").write_bytes(text)
    refused(tmp_path, why)


def test_infinity_in_a_config_stays(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw({"w": W}))
    (tmp_path / "config.json").write_bytes(b'{"time_step_limit": [0.0, Infinity]}')
    assert Checkpoint.open(tmp_path).config["time_step_limit"] == [0.0, float("inf")]


@pytest.mark.parametrize("file", ["model.bin", "pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_a_pickle_is_named_and_never_loaded(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR.")
    assert file in refused(tmp_path, "is a pickle, which is never loaded")
    refused(tmp_path / file, "is a pickle, which is never loaded")
    assert not (tmp_path / "ran").exists()


def hub(root: Path) -> Path:
    """A snapshot in the layout of Hugging Face's cache: links into the blobs of the same repository."""
    snapshot = root / "models--team--model" / "snapshots" / "0123abcd"
    blobs = root / "models--team--model" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "weights").write_bytes(raw({"w": W}))
    (blobs / "settings").write_text('{"model_type": "toy"}')
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    (snapshot / "config.json").symlink_to("../../blobs/settings")
    return snapshot


def test_a_snapshot_of_the_hub_s_cache_is_read_and_its_files_copied(tmp_path: Path) -> None:
    snapshot = hub(tmp_path)
    assert Checkpoint.open(snapshot).architecture == "toy"
    (tmp_path / "link").symlink_to(snapshot)
    write(Checkpoint.open(snapshot), tmp_path / "out", like=tmp_path / "link")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert Checkpoint.open(tmp_path / "out").digest() == Checkpoint.open(snapshot).digest()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_snapshot_leads_nowhere_but_to_its_own_blobs(tmp_path: Path, file: str) -> None:
    snapshot, other = hub(tmp_path), hub(tmp_path / "other")
    (snapshot / file).unlink()
    (snapshot / file).symlink_to(other / file)
    refused(snapshot, "outside the folder")
    renamed = tmp_path / "other" / "models--team--model"
    renamed.rename(tmp_path / "other" / "whatever")
    refused(tmp_path / "other" / "whatever" / "snapshots" / "0123abcd", "outside the folder")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "model.safetensors.index.json"])
def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / ("model.safetensors" if "index" not in file else "a.safetensors")).write_bytes(raw({"w": W}))
    (tmp_path / "outside").write_bytes(raw({"w": W}) if file == "model.safetensors" else b'{"weight_map": {}}')
    (folder / file).unlink(missing_ok=True)
    (folder / file).symlink_to(tmp_path / "outside")
    refused(folder, "outside the folder")
    (folder / file).unlink()
    (folder / file).symlink_to(folder / file)
    refused(folder, "outside the folder|cannot be a file|is missing")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    refused(tmp_path, "no checkpoint|is missing")
    refused(tmp_path / "model.safetensors", "does not exist|no file")


def test_a_folder_with_one_file_of_any_name_is_a_checkpoint_and_with_two_is_none(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(raw({"w": W}))
    assert list(Checkpoint.open(tmp_path)) == ["w"]
    (tmp_path / "yours.safetensors").write_bytes(raw({"w": W}))
    refused(tmp_path, "2 safetensors files and no index")


def test_a_folder_that_could_be_two_checkpoints_is_none(tmp_path: Path) -> None:
    folder = shards(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(raw({"v": W}))
    refused(folder, "which is meant cannot be known")
    assert list(Checkpoint.open(folder / "model.safetensors")) == ["v"]


def test_one_shard_of_several_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(raw({"w": W}))
    refused(tmp_path, r"no model\.safetensors")


def test_reading_a_tensor_reads_no_header_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Checkpoint.of({str(i): torch.full((3,), i) for i in range(50)}, {}).save(tmp_path / "m")
    there = Checkpoint.open(tmp_path / "m")
    for used in ("redteam.checkpoint.safetensors_io.json.loads", "redteam.checkpoint.sources.read_header"):
        monkeypatch.setattr(used, lambda *_, **__: pytest.fail("the header is parsed again"))
    assert all(there[str(i)].tolist() == [i] * 3 for i in range(50))


def test_what_was_read_can_be_written_into_and_the_file_stays(tmp_path: Path) -> None:
    Checkpoint.of({"w": torch.ones(3)}, {}).save(tmp_path / "m")
    there = Checkpoint.open(tmp_path / "m")
    there["w"].zero_()
    assert there["w"].tolist() == [1.0, 1.0, 1.0]
