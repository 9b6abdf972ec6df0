"""--check: what was written is loaded from the disk as others will load it, and a fault fails the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.loading import require_loads
from redteam.errors import BadInput
from tests.published.conftest import SMALL, Shell, loaded, made, put, tuned


@pytest.fixture(scope="module")
def llama() -> Checkpoint:
    import transformers

    return made("LlamaForCausalLM", transformers.LlamaConfig(**SMALL))


def sharded(folder: str) -> None:
    """Two shards and their index, as transformers writes them."""
    import transformers

    network = transformers.LlamaForCausalLM.from_pretrained(folder)
    network.save_pretrained(folder, max_shard_size="60KB")
    (Path(folder) / "model.safetensors").unlink()


def test_each_command_says_that_it_loads(llama: Checkpoint, here: Path, shell: Shell) -> None:
    put("base", llama, llama.config)
    put("expert", tuned(llama), llama.config)
    sharded("expert")
    told = [
        shell("protect", "mergelock", "expert", "--key", "key", "--out", "locked", "--check"),
        shell("protect", "mergelock", "expert", "--key", "key", "--out", "half", "--dtype", "bfloat16", "--check"),
        shell("attack", "gauge-fit", "locked", "--base", "base", "--out", "fitted", "--check"),
        shell("merge", "linear", "--base", "base", "--expert", "fitted", "--out", "merged", "--load"),
    ]
    for one, out in zip(told, ("locked", "half", "fitted", "merged"), strict=True):
        assert one.code == 0, one.err
        assert f"Checked: {out} loads as a LlamaForCausalLM; no key is missing" in one.out
    assert loaded("half")[0].dtype == torch.bfloat16


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_one_more(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "stray": torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})


def with_another_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:50].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_another_dtype_said(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))


def with_another_size_said(folder: Path) -> None:
    names = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")
    index = {"metadata": {"total_size": 12}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def with_no_network(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["Nobody"]}))


FAULTS: dict[Callable[[Path], None], str] = {
    without_a_tensor: "missing keys: model.norm.weight",
    with_one_more: "unexpected keys: stray",
    with_another_shape: "mismatched keys: lm_head.weight",
    with_another_dtype_said: "dtype: bfloat16, float32 in the config, float32 stored",
    with_another_size_said: "total_size: 12 in the index",
    with_no_network: "names no network",
}
TOLD_BY_HEADERS = {with_another_dtype_said, with_another_size_said}
"""What every command looks at, which costs nothing."""


@pytest.mark.parametrize("spoil", FAULTS)
def test_a_fault_is_told_and_the_folder_stays(
    llama: Checkpoint, here: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    """As if the writer had made it."""
    import redteam.checkpoint.save as saving

    def write(*words: object, **settings: object) -> saving.Written:
        found = saving_write(*words, **settings)  # type: ignore[arg-type]
        spoil(found.folder)
        return found

    saving_write = saving.write
    put("base", llama, llama.config)
    put("expert", tuned(llama), llama.config)
    monkeypatch.setattr(saving, "write", write)
    words = ("merge", "linear", "--base", "base", "--expert", "expert", "--out", "out")
    told = shell(*words, "--load")
    assert told.code == 2
    assert "out was written and stays" in told.err
    assert FAULTS[spoil] in told.err
    assert Path("out").is_dir()
    unchecked = shell(*words[:-1], "unchecked")
    assert unchecked.code == (2 if spoil in TOLD_BY_HEADERS else 0)
    assert (FAULTS[spoil] in unchecked.err) is (spoil in TOLD_BY_HEADERS)


def test_what_is_odd_about_the_source_too_is_said_and_no_fault(llama: Checkpoint, here: Path) -> None:
    """transformers draws such a head at random, and did so before."""
    headless = {name: tensor for name, tensor in llama.items() if name != "lm_head.weight"}
    put("source", headless, llama.config)
    put("out", tuned(headless), llama.config)
    assert "as source does (missing keys: lm_head.weight)" in require_loads(Path("out"), Path("source"))
    put("whole", llama, llama.config)
    with pytest.raises(BadInput, match="does not load as whole does"):
        require_loads(Path("out"), Path("whole"))


def test_an_open_clip_folder_is_loaded_by_open_clip(here: Path) -> None:
    from tests.zoo import network

    there = network("open-clip").checkpoint
    put("source", there, there.config)
    assert "Checked: source loads as a network of open_clip" in require_loads(Path("source"), Path("source"))
    put("less", dict(list(there.items())[1:]), there.config)
    with pytest.raises(BadInput, match="cannot be loaded"):
        require_loads(Path("less"), Path("source"))
