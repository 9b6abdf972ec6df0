"""What is written is laid out like its source, whole or not at all, and nothing beside it is touched."""

import gc
import json
import os
import shutil
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.save import write
from redteam.checkpoint.sources import Memory
from redteam.errors import BadInput, PluginFault, UnwritableOutput
from redteam.key import write_key
from tests.sharded import CONFIG, Failing, files, sharded, tensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return sharded(tmp_path)


def test_what_is_not_changed_is_written_byte_for_byte(source: Path, tmp_path: Path) -> None:
    there = Checkpoint.open(source)
    written = write(there.cast(torch.float64).stored_as(there), tmp_path / "out", like=source)
    assert files(tmp_path / "out") == files(source)
    assert written.folder == tmp_path / "out"
    assert written.left_out == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_only_what_is_replaced_differs(source: Path, tmp_path: Path) -> None:
    changed = Checkpoint.open(source).replace({"layer.1.w": torch.ones(32, 32, dtype=torch.bfloat16)})
    write(changed, tmp_path / "out", like=source)
    before, after = files(source), files(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == {"model-00002-of-00003.safetensors"}
    assert Checkpoint.open(tmp_path / "out").digest() == changed.digest()


def test_tensors_come_in_the_order_of_the_shards_one_at_a_time(source: Path, tmp_path: Path) -> None:
    alive: list[weakref.ref[Any]] = []
    most, order, told = 0, [], []

    class Watched(Memory):
        def load(self, name: str) -> torch.Tensor:
            nonlocal most
            gc.collect()
            most = max(most, 1 + sum(ref() is not None for ref in alive))
            array = super().load(name).view(torch.int16).numpy().copy()
            alive.append(weakref.ref(array))  # which lives as long as the memory, whatever tensors show it
            order.append(name)
            return torch.from_numpy(array).view(torch.bfloat16)

    write(
        Checkpoint(Watched(tensors()), CONFIG),
        tmp_path / "out",
        like=source,
        progress=lambda done, total, name: told.append((done, total, name)),
    )
    assert most == 1
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    assert [index[name] for name in order] == sorted(index[name] for name in order)
    assert told == [(place + 1, 6, name) for place, name in enumerate(order)]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    script = """
        import resource, sys, torch
        from redteam.checkpoint import Checkpoint
        from redteam.checkpoint.save import write
        there = Checkpoint.open(sys.argv[1])
        first = next(iter(there))
        there[first]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        write(there, sys.argv[2], like=sys.argv[1])
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """
    size = 2**24
    many = Checkpoint.of({str(i): torch.zeros(size // 4) for i in range(12)}, {})
    many.save(tmp_path / "in")
    command = [sys.executable, "-c", textwrap.dedent(script), tmp_path / "in", tmp_path / "out"]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 2.5 * size


def test_another_dtype_is_said_in_config_and_index(source: Path, tmp_path: Path) -> None:
    wide = Checkpoint.open(source).cast(torch.float32)
    write(wide, tmp_path / "out", like=source)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {**CONFIG, "dtype": "float32", "text_config": {"torch_dtype": "float32"}}
    assert list(config) == list(CONFIG)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 2 * 12288, "made": "by hand"}
    assert Checkpoint.open(tmp_path / "out").digest() == wide.digest()


def test_added_and_dropped_tensors_and_another_config(source: Path, tmp_path: Path) -> None:
    kept = {name: tensor for name, tensor in tensors().items() if name != "layer.1.w"}
    other = Checkpoint.of({**kept, "new": torch.ones(2)}, {**CONFIG, "model_type": "other"})
    write(other, tmp_path / "out", like=source)
    after = Checkpoint.open(tmp_path / "out")
    assert after.digest() == other.digest()
    assert after.architecture == "other"
    assert not (tmp_path / "out" / "model-00002-of-00003.safetensors").exists()


def test_a_bare_file_becomes_a_folder_with_that_file(tmp_path: Path) -> None:
    Checkpoint.of(tensors(), {}).save(tmp_path / "made")
    (tmp_path / "made" / "model.safetensors").rename(tmp_path / "mine.safetensors")
    (tmp_path / "letter.txt").write_text("private")
    there = Checkpoint.open(tmp_path / "mine.safetensors")
    write(there, tmp_path / "out", like=tmp_path / "mine.safetensors", card="## Card\n\nText.")
    assert sorted(files(tmp_path / "out")) == ["README.md", "mine.safetensors"]
    assert Checkpoint.open(tmp_path / "out").digest() == there.digest()


def test_weights_pickles_code_and_links_elsewhere_are_left_behind(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (source / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (source / "tokenizer_config.json").symlink_to(source / "tokenizer.json")
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "license.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (source / "vocab.model").write_bytes(b"\x80\x04pickle")
    (source / "zip.txt").write_bytes(b"PK\x03\x04")
    (source / "pytorch_model.bin.index.json").write_text("{}")
    (source / "other.safetensors").write_bytes(b"")
    (source / "open_clip_config.json").write_text("{}")
    (source / ".env").write_text("TOKEN=1")
    (source / "folder").mkdir()
    written = write(Checkpoint.open(source), tmp_path / "out", like=source)
    assert set(written.left_out) == {
        "notes.txt", "modeling_evil.py", "license.py", "pytorch_model.bin", "vocab.model", "zip.txt",
        "pytorch_model.bin.index.json", "other.safetensors", "open_clip_config.json", ".env", "folder/",
    }  # fmt: skip
    assert not set(written.left_out) & set(files(tmp_path / "out"))
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == '{"version": "1.0"}'


def test_a_key_beside_the_source_is_not_published(source: Path, tmp_path: Path) -> None:
    for name in ("key.txt", "license.key", "secret.model"):
        write_key(source / name)
    written = write(Checkpoint.open(source), tmp_path / "out", like=source)
    assert set(written.left_out) == {"key.txt", "license.key", "secret.model"}


def test_a_card_is_added_once(source: Path, tmp_path: Path) -> None:
    write(Checkpoint.open(source), tmp_path / "one", like=source, card="## Protection\n\nFirst.\n\n### Deep\n\nx")
    text = (tmp_path / "one" / "README.md").read_text()
    assert text == (source / "README.md").read_text() + "\n## Protection\n\nFirst.\n\n### Deep\n\nx\n"
    (tmp_path / "one" / "README.md").write_text(text + "\n## Later\n\nkept\n\n```\n## Protection\n```\n")
    write(Checkpoint.open(tmp_path / "one"), tmp_path / "two", like=tmp_path / "one", card="## Protection\n\nSecond.")
    text = (tmp_path / "two" / "README.md").read_text()
    assert text.endswith("## Later\n\nkept\n\n```\n## Protection\n```\n\n## Protection\n\nSecond.\n")
    assert "First" not in text
    assert "Deep" not in text
    assert text.startswith("---\nlicense: mit\n---\n\n# A model\n\nText.\n")


def test_a_readme_in_another_encoding_keeps_its_bytes(source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_bytes(b"caf\xe9\r\n\x0b\r\nx\n")
    write(Checkpoint.open(source), tmp_path / "out", like=source, card="## Card\n\né")
    assert (tmp_path / "out" / "README.md").read_bytes() == b"caf\xe9\r\n\x0b\r\nx\n\n## Card\n\n\xc3\xa9\n"


def test_an_existing_folder_is_replaced_with_force_alone_and_last(source: Path, tmp_path: Path) -> None:
    write(Checkpoint.open(source), tmp_path / "out", like=source)
    (tmp_path / "out" / "mark").write_text("old")
    before = files(tmp_path / "out")
    with pytest.raises(UnwritableOutput, match="--force"):
        write(Checkpoint.open(source), tmp_path / "out", like=source)
    broken = Checkpoint(Failing(tensors(), PluginFault("no")), CONFIG)
    with pytest.raises(PluginFault):
        write(broken, tmp_path / "out", like=source, force=True)
    assert files(tmp_path / "out") == before
    write(Checkpoint.open(source), tmp_path / "out", like=source, force=True)
    assert files(tmp_path / "out") == files(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_force_replaces_nothing_that_is_no_checkpoint(source: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "work")
    for name, why in (("work", "no checkpoint"), ("file", "no folder"), ("link", "no folder")):
        with pytest.raises(UnwritableOutput, match=why):
            write(Checkpoint.open(source), tmp_path / name, like=source, force=True)
    assert (tmp_path / "work" / "thesis.txt").read_text() == "x"
    (tmp_path / "empty").mkdir()
    write(Checkpoint.open(source), tmp_path / "empty", like=source, force=True)


@pytest.mark.parametrize(
    "where", [".", "source", "source/out", "source/../source/x", "base", "base/x", "link", "/", "~"]
)
def test_the_output_stays_away_from_what_is_read(
    source: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "cwd")
    Checkpoint.of(tensors(), {}).save(tmp_path / "base")
    (tmp_path / "link").symlink_to(source)
    before = files(source)
    out = Path(where).expanduser() if where == "~" else tmp_path / where
    with pytest.raises(UnwritableOutput):
        write(Checkpoint.open(source), out, like=source, apart_from=[tmp_path / "base"], force=True)
    assert files(source) == before
    assert (tmp_path / "base").exists()


def test_a_tensor_that_is_not_what_was_announced_is_a_fault(tmp_path: Path) -> None:
    class Lying(Memory):
        def dtype(self, name: str) -> torch.dtype:
            return torch.float32

    with pytest.raises(PluginFault, match=r"layer\.0\.w.* came as torch\.bfloat16"):
        write(Checkpoint(Lying(tensors()), CONFIG), tmp_path / "out")
    with pytest.raises(PluginFault, match="cast it"):
        write(Checkpoint.of({"w": torch.zeros(1, dtype=torch.complex128)}, {}), tmp_path / "out")


def test_numbers_that_the_dtype_cannot_hold_are_not_made_infinite(tmp_path: Path) -> None:
    half = Checkpoint.of({"w": torch.ones(2, dtype=torch.float16)}, {})
    large = Checkpoint.of({"w": torch.tensor([1.0, 7e4])}, {}).stored_as(half)
    with pytest.raises(BadInput, match=r"'w' reaches 7e\+04, more than torch\.float16"):
        write(large, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_casts_are_lazy_and_leave_integers_alone() -> None:
    mixed = Checkpoint.of({"w": torch.ones(2).half(), "i": torch.arange(2), "n": torch.ones(2)}, {})
    wide = mixed.cast(torch.float64)
    assert {n: wide.dtype(n) for n in wide} == {"w": torch.float64, "i": torch.int64, "n": torch.float64}
    assert all(wide[n].dtype == wide.dtype(n) for n in wide)
    back = wide.replace({"more": torch.ones(3, dtype=torch.float64)}).stored_as(mixed)
    assert {n: back[n].dtype for n in mixed} == {n: mixed.dtype(n) for n in mixed}
    assert back["more"].dtype == back.dtype("more") == torch.float16  # like most of the others
    assert mixed.cast(device="meta")["w"].device.type == "meta"


def test_the_folder_has_the_rights_that_the_umask_gives(source: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(Checkpoint.open(source), tmp_path / "out", like=source)
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


def test_save_is_the_same_writer(tmp_path: Path) -> None:
    there: Mapping[str, Any] = {"b": 1, "a": 2}
    Checkpoint.of(tensors(), there).save(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    assert sorted(files(tmp_path / "out")) == ["config.json", "model.safetensors"]


def test_a_folder_with_a_key_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Checkpoint.of({"a": torch.zeros(3)}, {}).save(out)
    write_key(out / "other.key")
    with pytest.raises(UnwritableOutput, match="looks like a key"):
        write(Checkpoint.of({"a": torch.ones(3)}, {}), out, force=True)
    assert (out / "other.key").stat().st_size == 32


def test_a_repository_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Checkpoint.of({"a": torch.zeros(3)}, {}).save(out)
    (out / ".git").mkdir()
    with pytest.raises(UnwritableOutput, match=r"\.git"):
        write(Checkpoint.of({"a": torch.ones(3)}, {}), out, force=True)
    assert torch.equal(Checkpoint.open(out)["a"], torch.zeros(3))


def test_the_modules_of_a_sentence_model_go_along(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    Checkpoint.of({"a": torch.zeros(3)}, {"model_type": "bert"}).save(folder)
    said = [{"path": "", "type": "Transformer"}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "../elsewhere"}]
    (folder / "modules.json").write_text(json.dumps(said))
    for name in ("1_Pooling", "2_Dense", "unnamed"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"in": name}))
    Checkpoint.of({"linear.weight": torch.ones(2, 3)}, {}).save(tmp_path / "dense")
    shutil.copyfile(tmp_path / "dense/model.safetensors", folder / "2_Dense/model.safetensors")
    (folder / "2_Dense/pytorch_model.bin").write_bytes(b"\x80\x02")
    (folder / "1_Pooling/secret").symlink_to("/etc/hostname")
    (tmp_path / "elsewhere").mkdir()
    written = write(Checkpoint.open(folder), tmp_path / "out", like=folder)
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {
        "model.safetensors",
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    }
    assert json.loads((tmp_path / "out/1_Pooling/config.json").read_text()) == {"in": "1_Pooling"}
    assert set(written.left_out) == {"1_Pooling/secret", "2_Dense/pytorch_model.bin", "unnamed/"}
