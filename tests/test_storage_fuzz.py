"""Whatever bytes a checkpoint consists of, it is read or refused in a sentence, and memory stays bounded."""

import contextlib
import copy
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.save import write
from redteam.errors import RedteamError

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
    "c": {"dtype": "BOOL", "shape": [], "data_offsets": [22, 23]},
    "d": {"dtype": "I64", "shape": [0, 5], "data_offsets": [23, 23]},
}
DATA = bytes(range(23))
ADAPTER = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "rank_pattern": {"a": 2},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "base_model_name_or_path": "x",
}
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

numbers = st.one_of(
    st.integers(-3, 30), st.sampled_from([2**31, 2**53, 2**62, 2**63, 2**64, 10**30, -(2**63)]), st.floats()
)
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["F32", "F64", "BOOL", "F8_E8M0", "a", "..", "../x", "/", "\0", "\ud800", "a.safetensors", "(a+)+$"]
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested objects and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, below in inner for found in places(below, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn, start: Any) -> Any:
    """A nested value with one to three places exchanged, renamed or removed."""
    value = copy.deepcopy(start)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value)))
        if not path:
            continue
        holder = value
        for step in path[:-1]:
            holder = holder[step]
        action = draw(st.sampled_from(["exchange", "rename", "remove"]))
        if action == "exchange":
            holder[path[-1]] = draw(values)
        elif action == "rename" and isinstance(holder, dict):
            holder[draw(texts)] = holder.pop(path[-1])
        else:
            del holder[path[-1]]
    return value


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def safetensors(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def read(path: Path, **more: Any) -> None:
    """Reads everything; only a sentence may come out, and what is read is what was said."""
    tracemalloc.start()
    try:
        with contextlib.suppress(RedteamError):
            there = Checkpoint.open(path, **more)
            for name in there:
                tensor = there[name]
                assert (tuple(tensor.shape), tensor.dtype) == (there.shape(name), there.dtype(name))
            assert len(there.digest()) == 64
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@given(mutated(HEADER), st.one_of(st.just(DATA), st.binary(max_size=40)))
@FUZZ
def test_mutated_headers(folder: Path, header: Any, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(safetensors(encoded(header), data))
    read(folder)


@given(st.integers(0, 400), st.integers(0, 255), st.integers(0, 400))
@FUZZ
def test_flipped_and_missing_bytes(folder: Path, place: int, byte: int, length: int) -> None:
    content = bytearray(safetensors(encoded(HEADER), DATA))
    content[place % len(content)] = byte
    (folder / "model.safetensors").write_bytes(content[: len(content) if length > 300 else length])
    read(folder)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=100))
@FUZZ
def test_random_bytes(folder: Path, length: int, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + content)
    read(folder)
    (folder / "model.safetensors").write_bytes(safetensors(content, content))
    read(folder)


@given(mutated({"metadata": {"total_size": 23}, "weight_map": dict.fromkeys("abcd", "a.safetensors")}))
@FUZZ
def test_mutated_indexes(folder: Path, index: Any) -> None:
    (folder / "a.safetensors").write_bytes(safetensors(encoded(HEADER), DATA))
    (folder / "model.safetensors.index.json").write_bytes(encoded(index))
    read(folder)


@given(mutated({"model_type": "toy", "architectures": ["X"], "dtype": "float32", "text_config": {"dtype": "float32"}}))
@FUZZ
def test_mutated_configs_are_read_and_written(folder: Path, config: Any) -> None:
    (folder / "model.safetensors").write_bytes(safetensors(encoded(HEADER), DATA))
    (folder / "config.json").write_bytes(encoded(config))
    read(folder)
    with contextlib.suppress(RedteamError):
        there = Checkpoint.open(folder)
        write(there.cast(torch.float64), folder.parent / "out", like=folder, force=True, durable=False)
        assert list(Checkpoint.open(folder.parent / "out")) == list(there)


@given(st.binary(max_size=60))
@FUZZ
def test_random_configs_and_indexes(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(safetensors(encoded(HEADER), DATA))
    (folder / "config.json").write_bytes(content)
    read(folder)
    (folder / "model.safetensors.index.json").write_bytes(content)
    read(folder)
    (folder / "model.safetensors.index.json").unlink()


@given(
    mutated(ADAPTER),
    mutated(
        {
            "base_model.model.a.lora_A.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "base_model.model.a.lora_B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [24, 56]},
        }
    ),
    st.booleans(),
)
@FUZZ
def test_mutated_adapters(folder: Path, config: Any, header: Any, honest: bool) -> None:
    names = ("base_model.model.a.lora_A.weight", "base_model.model.a.lora_B.weight")
    plain = {
        names[0]: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        names[1]: {"dtype": "F32", "shape": [4, 2], "data_offsets": [24, 56]},
    }
    (folder / "adapter_model.safetensors").write_bytes(safetensors(encoded(plain if honest else header), bytes(56)))
    (folder / "adapter_config.json").write_bytes(encoded(config))
    read(folder, base=Checkpoint.of({"a.weight": torch.ones(4, 3)}, {}))


def test_the_unmutated_ones_are_read(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(safetensors(encoded(HEADER), DATA))
    assert sorted(Checkpoint.open(folder)) == ["a", "b", "c", "d"]
