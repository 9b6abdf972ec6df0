"""Indices that say too much, too little or something old, and what each command makes of such a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from redteam.checkpoint import Checkpoint
from tests.published.conftest import COMMANDS, SMALL, Shell, all_four, made, put, refused, tuned

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def llama() -> Checkpoint:
    import transformers

    return made("LlamaForCausalLM", transformers.LlamaConfig(**SMALL))


def in_shards(folder: str, checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Layers in one file each and the rest in a third; returns which tensor is where."""
    put(folder, checkpoint, checkpoint.config)
    Path(folder, "model.safetensors").unlink()
    place = {
        n: f"model-0000{1 if 'layers.0.' in n else 2 if 'layers.1.' in n else 3}-of-00003.safetensors" for n in tensors
    }
    for file in set(place.values()):
        part = {n: t.contiguous() for n, t in tensors.items() if place[n] == file}
        save_file(part, Path(folder, file), metadata={"format": "pt"})
    index(folder, place)
    return place


def index(folder: str, place: dict[str, str]) -> None:
    Path(folder, INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": place}))


def too_many(folder: str, place: dict[str, str]) -> None:
    """Names of a head for prediction that is in no file."""
    index(folder, {**place, "mtp.fc.weight": place["model.norm.weight"]})


def too_few(folder: str, place: dict[str, str]) -> None:
    """The index was made without a name that a shard holds."""
    index(folder, {name: file for name, file in place.items() if name != "model.norm.weight"})


def moved(folder: str, place: dict[str, str]) -> None:
    """Two names say each other's shards."""
    one, other = "model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight"
    index(folder, {**place, one: place[other], other: place[one]})


def a_shard_unnamed(folder: str, place: dict[str, str]) -> None:
    """A shard that no name of the index leads to."""
    save_file({"mtp.fc.weight": torch.ones(4, 4)}, Path(folder, "model-mtp-of-00005.safetensors"))


SOUND: dict[Callable[[str, dict[str, str]], None], str] = {
    too_many: "which no file holds",
    too_few: "though a file holds them",
    moved: "which another file holds than it says",
    a_shard_unnamed: "names nothing in model-mtp-of-00005.safetensors, left aside",
}


@pytest.mark.parametrize(
    "spoil", [pytest.param(one, marks=() if one is a_shard_unnamed else pytest.mark.slow) for one in SOUND]
)
def test_what_loaders_get_over_works_with_a_note(
    llama: Checkpoint, here: Path, shell: Shell, spoil: Callable[[str, dict[str, str]], None]
) -> None:
    """huggingface_hub#4728, vmlx-swift#388: the files count, what the index says otherwise is told, and mended."""
    put("base", llama, llama.config)
    spoil("expert", in_shards("expert", llama, tuned(llama)))
    told = all_four(shell)
    for command in told:
        assert SOUND[spoil] in told[command].err or command in ("attack", "audit"), "locked's index was written anew"
    written = json.loads(Path("locked", INDEX).read_text())
    assert set(written["weight_map"]) == set(llama)
    assert written["metadata"]["total_size"] == sum(tensor.nbytes for tensor in llama.values())
    if spoil is a_shard_unnamed:
        assert "Not copied" in told["protect"].out
        assert "model-mtp-of-00005.safetensors" in told["protect"].out


@pytest.mark.parametrize("command", COMMANDS)
def test_an_index_of_older_shards_is_refused_with_both_remedies(
    llama: Checkpoint, here: Path, shell: Shell, command: str
) -> None:
    """mlx-vlm#1827: quantised or renamed anew, and the index stayed. Half of such a folder would load."""
    put("base", llama, llama.config)
    place = in_shards("expert", llama, tuned(llama))
    old = "model-00001-of-00003.safetensors"
    Path("expert", old).rename(Path("expert", "model-00001-of-00002.safetensors"))
    told = refused(shell, *COMMANDS[command])
    assert f"'{old}' in expert is missing" in told
    assert "the index that goes with model-00001-of-00002.safetensors" in told
    assert old in place.values()


@pytest.mark.slow
def test_one_file_with_an_index_that_names_it(llama: Checkpoint, here: Path, shell: Shell) -> None:
    """As mlx-lm saves; the result keeps file and index."""
    for folder, tensors in (("base", dict(llama)), ("expert", tuned(llama))):
        put(folder, tensors, llama.config)
        index(folder, dict.fromkeys(tensors, "model.safetensors"))
    all_four(shell)
    assert set(json.loads(Path("merged", INDEX).read_text())["weight_map"].values()) == {"model.safetensors"}


def in_the_cache(folder: str, who: str) -> Path:
    """Moves a folder's files into a cache laid out like the hub's; returns the snapshot, whose files are links."""
    root = Path("cache", f"models--team--{who}")
    snapshot, blobs = root / "snapshots" / f"0123{who}", root / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(Path(folder).iterdir())):
        shutil.move(file, blobs / f"{number:040}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040}")
    Path(folder).rmdir()
    return snapshot


@pytest.mark.parametrize("downloaded", [pytest.param("cache", marks=pytest.mark.slow), "--local-dir"])
def test_snapshots_of_the_hub(llama: Checkpoint, here: Path, shell: Shell, downloaded: str) -> None:
    """As the hub's client keeps them, and as `--local-dir` links into a cache elsewhere."""
    snapshots: dict[str, Any] = {}
    for who, tensors in (("base", dict(llama)), ("expert", tuned(llama))):
        put(who, tensors, llama.config)
        snapshots[who] = in_the_cache(who, who)
    if downloaded == "--local-dir":
        for who, snapshot in snapshots.items():
            Path(who).mkdir()
            for file in snapshot.iterdir():
                Path(who, file.name).symlink_to(file.resolve())
            snapshots[who] = Path(who)
    base, expert = (str(snapshots[who]) for who in ("base", "expert"))
    told = shell("protect", "mergelock", expert, "--key", "key", "--out", "locked", "--check")
    assert told.code == 0, told.err
    assert not any(path.is_symlink() for path in Path("locked").iterdir())
    merger = "linear:weights=[[expert,1.0]]"
    told = shell("merge", merger, "--base", base, "--expert", expert, "--out", "merged", "--load")
    assert told.code == 0, told.err
    assert "linear of expert is in merged" in told.out


def test_shards_in_a_subfolder_are_read_and_written_back_there(llama: Checkpoint, here: Path, shell: Shell) -> None:
    """transformers joins the folder and whatever the index names, a path with a folder as well."""
    put("base", llama, llama.config)
    place = in_shards("expert", llama, tuned(llama))
    Path("expert", "weights").mkdir()
    for file in sorted(set(place.values()) - {"model-00003-of-00003.safetensors"}):
        Path("expert", file).rename(Path("expert", "weights", file))
    Path("expert", "weights", "notes.txt").write_text("of the trainer")
    index("expert", {n: file if file.startswith("model-00003") else f"weights/{file}" for n, file in place.items()})
    told = all_four(shell)
    assert "weights/notes.txt" in told["protect"].out
    for folder in ("locked", "fitted"):
        files = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.safetensors")}
        assert files == set(json.loads(Path("expert", INDEX).read_text())["weight_map"].values())


def test_a_subfolder_of_shards_that_is_a_link_out_is_refused(llama: Checkpoint, here: Path, shell: Shell) -> None:
    place = in_shards("expert", llama, tuned(llama))
    Path("elsewhere").mkdir()
    for file in set(place.values()):
        Path("expert", file).rename(Path("elsewhere", file))
    Path("expert", "weights").symlink_to(Path("elsewhere").resolve())
    index("expert", {name: f"weights/{file}" for name, file in place.items()})
    assert "leads outside the folder" in refused(shell, *COMMANDS["protect"])
