"""Checkpoints are read lazily, written whole, and never trusted."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redteam.checkpoint import Checkpoint, own_tensors, shared_tensors
from redteam.checkpoint.sources import DTYPES
from redteam.errors import BadInput, NotACheckpoint, RedteamError, UnwritableOutput

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a.bias": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "b": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
}


class Doubling:
    """A place that a test rewrites, counting how often."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.asked = 0

    def gauge(self, place: "Doubling") -> float:
        place.asked += 1
        return 2.0

    def apply(self, checkpoint: Any, gauge: float) -> dict[str, torch.Tensor]:
        return {name: checkpoint[name] * gauge for name in self.names}


def test_what_is_saved_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    before = Checkpoint.of(TENSORS, {"model_type": "toy"})
    before.save(tmp_path / "model")
    after = Checkpoint.open(tmp_path / "model")
    assert after.digest() == before.digest()
    assert after.architecture == "toy"
    assert {n: (after.shape(n), after.dtype(n)) for n in after} == {
        n: (tuple(t.shape), t.dtype) for n, t in TENSORS.items()
    }


def test_others_read_what_we_write(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    Checkpoint.of(TENSORS, {}).save(tmp_path / "model")
    loaded = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)


def test_every_dtype_survives(tmp_path: Path) -> None:
    tensors = {code: torch.ones(2, 2).to(dtype) for code, dtype in DTYPES.items()}
    Checkpoint.of(tensors, {}).save(tmp_path / "model")
    assert Checkpoint.open(tmp_path / "model").digest() == Checkpoint.of(tensors, {}).digest()


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    for index, name in enumerate(("a.weight", "b")):
        Checkpoint.of({name: TENSORS[name]}, {}).save(tmp_path / str(index))
        (tmp_path / str(index) / "model.safetensors").rename(tmp_path / f"shard{index}.safetensors")
    weights = {"a.weight": "shard0.safetensors", "b": "shard1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert sorted(Checkpoint.open(tmp_path)) == ["a.weight", "b"]


def test_a_transform_runs_when_read_and_once_a_place() -> None:
    place, other = Doubling("a.weight", "a.bias"), Doubling("b")
    after = Checkpoint.of(TENSORS, {}).transform([place, other], place.gauge)
    assert (place.asked, other.asked) == (0, 0)
    assert torch.equal(after["a.weight"], 2 * TENSORS["a.weight"])
    assert torch.equal(after["a.bias"], 2 * TENSORS["a.bias"])
    assert (place.asked, other.asked) == (1, 0)


@pytest.mark.parametrize(("megabytes", "kept"), [(1, 20), (8, 3)])
def test_a_transform_holds_a_small_checkpoint_and_a_few_places_of_a_large_one(megabytes: int, kept: int) -> None:
    tensors = {str(index): torch.ones(megabytes * 2**18 // 2) for index in range(20)}
    places = [Doubling(name) for name in tensors]
    after = Checkpoint.of(tensors, {}).transform(places, places[0].gauge)
    for _ in range(2):
        assert all(bool((tensor == 2).all()) for tensor in after.values())
    assert len(after._source._latest) <= kept + 2
    assert all(place.asked == (1 if kept == len(places) else 2) for place in places)


def test_places_that_overlap_are_refused() -> None:
    with pytest.raises(BadInput, match="both rewrite 'b'"):
        Checkpoint.of(TENSORS, {}).transform([Doubling("b"), Doubling("b")], lambda _: 1.0)


def test_overlays_leave_what_is_below_unchanged() -> None:
    below = Checkpoint.of(TENSORS, {})
    digest = below.digest()
    above = below.replace({"b": torch.tensor(9), "new": torch.ones(1)})
    assert above["b"].item() == 9
    assert "new" in above
    assert len(above) == len(below) + 1
    assert below.digest() == digest != above.digest()


def test_a_part_is_what_indexing_gives_whatever_lies_above(tmp_path: Path) -> None:
    tensors = {"packed": torch.randn(4, 3, 2).bfloat16(), "row": torch.randn(4), "codes": torch.arange(4)}
    held = Checkpoint.of(tensors, {})
    held.save(tmp_path / "model")
    place = Doubling("packed")
    for below in (held, Checkpoint.open(tmp_path / "model"), Checkpoint.computed(held.outline(), held.__getitem__)):
        recent = below.recent()
        overlays = {
            "cast": below.cast(torch.float64),
            "recent": recent,
            "kept": recent.cast(torch.float32),
            "moved": below.transform([place], place.gauge),
            "other": below.transform([Doubling("row")], place.gauge),
            "replaced": below.replace({"row": torch.ones(4)}),
            "renamed": below.renamed({"new": "packed"}),
            "some": below.only(["codes", "packed"]),
            "stored": below.stored_as(held.cast(torch.float32)),
        }
        assert torch.equal(recent["packed"], tensors["packed"])
        for above in (below, *overlays.values()):
            for name in above:
                parts = [above.part(name, index) for index in range(4)]
                assert all(part.dtype == above.dtype(name) for part in parts)
                assert torch.equal(torch.cat(parts), above[name])
        held.part("packed", 0).zero_()
        assert torch.equal(held["packed"], tensors["packed"])


def test_task_heads_are_told_from_what_can_be_merged() -> None:
    base = Checkpoint.of({"body": torch.ones(2), "head": torch.ones(5)}, {})
    expert = Checkpoint.of({"body": torch.ones(2), "head": torch.ones(3), "extra": torch.ones(1)}, {})
    assert own_tensors(expert, base) == ("head", "extra")
    assert shared_tensors(expert, base) == ("body",)


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(UnwritableOutput, match="exists already"):
        Checkpoint.of(TENSORS, {}).save(tmp_path / "model")


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    class Failing(Doubling):
        def apply(self, checkpoint: Any, gauge: float) -> dict[str, torch.Tensor]:
            raise OSError(28, "No space left on device")

    broken = Checkpoint.of(TENSORS, {}).transform([Failing("b")], lambda _: 1.0)
    with pytest.raises(UnwritableOutput, match="No space left"):
        broken.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def _header(entries: Any, data: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04pickle",
        struct.pack("<Q", 10**15) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        _header({"w": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}),
        _header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
        _header({"w": {"dtype": "X99", "shape": [1], "data_offsets": [0, 4]}}),
        _header({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}),
        _header({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
        _header({"w": {"dtype": "F32", "shape": "four", "data_offsets": [0, 4]}}),
        _header({"w": 3}),
        _header([1, 2]),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(NotACheckpoint):
        dict(Checkpoint.open(path))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_raise_anything_but_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(RedteamError):
        dict(Checkpoint.open(path))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hostname", "missing.safetensors"])
def test_an_index_cannot_lead_outside(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    Checkpoint.of({"w": torch.ones(1)}, {}).save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(NotACheckpoint, match=r"outside the folder|is missing"):
        Checkpoint.open(folder)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    Checkpoint.of({"w": torch.ones(1)}, {}).save(tmp_path / "other")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "shard.safetensors").symlink_to(tmp_path / "other" / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "shard.safetensors"}}))
    with pytest.raises(NotACheckpoint, match="outside the folder"):
        Checkpoint.open(folder)


def test_a_pickle_is_named_and_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(NotACheckpoint, match="is a pickle"):
        Checkpoint.open(tmp_path)


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint, match="does not exist"):
        Checkpoint.open(tmp_path / "none")


@pytest.mark.parametrize("text", ["{", "[]", '"text"'])
def test_a_damaged_config_is_one_sentence(tmp_path: Path, text: str) -> None:
    Checkpoint.of(TENSORS, {}).save(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(NotACheckpoint, match=r"config\.json"):
        Checkpoint.open(tmp_path / "model")


@pytest.mark.parametrize("architecture", ["AutoConfig", "os", "", "NoSuchNetwork", "__builtins__"])
def test_only_networks_that_transformers_knows_are_built(architecture: str) -> None:
    hostile = Checkpoint.of(
        TENSORS, {"model_type": "vit", "architectures": [architecture], "auto_map": {"x": "evil.py"}}
    )
    with pytest.raises(NotACheckpoint, match="no network that transformers knows"):
        hostile.module()


def test_a_trained_network_goes_back_under_the_names_and_dtypes_it_came_with(vit: Any) -> None:
    half = vit.checkpoint.to(torch.bfloat16)
    module = half.module(torch.float32)
    back = half.trained(module)
    assert back.digest() == half.digest()
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(1.0)
    moved = half.trained(module)
    assert set(moved) == set(half)
    assert all(torch.equal(moved[name], (half[name].float() + 1.0).bfloat16()) for name in half)
