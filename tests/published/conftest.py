"""Small models, written by transformers, that tests lay out as published folders are, and what is done to them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint

Shell = Callable[..., Any]
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 8,
}


def made(network: str, config: Any) -> Checkpoint:
    """A fresh network of transformers, in memory under the names by which transformers saves it."""
    import tempfile

    import transformers

    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        getattr(transformers, network)(config).save_pretrained(folder)
        saved = Checkpoint.open(folder)
        return Checkpoint.of(dict(saved), saved.config)


def tuned(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors after some training."""
    draws = torch.Generator().manual_seed(1)
    return {
        name: tensor + 0.003 * torch.randn(tensor.shape, generator=draws) if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.items()
    }


def put(folder: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes a folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    Checkpoint.of(tensors, config).save(folder)


def loaded(folder: str) -> tuple[Any, dict[str, Any]]:
    """What transformers makes of a folder: the network, and which keys were missing, unexpected or mismatched."""
    import transformers

    network = getattr(transformers, Checkpoint.open(folder).config["architectures"][0])
    module, info = network.from_pretrained(folder, output_loading_info=True)
    return module, {kind: sorted(map(str, names)) for kind, names in info.items() if names}


COMMANDS = {
    "protect": ("protect", "mergelock", "expert", "--key", "key", "--out", "out"),
    "attack": ("attack", "gauge-fit", "expert", "--base", "base", "--out", "out"),
    "merge": ("merge", "task-arithmetic:coefficient=1.0", "--base", "base", "--expert", "expert", "--out", "out"),
    "audit": ("audit", "expert", "--base", "base"),
}
"""On the folders base and expert."""


def refused(shell: Shell, *words: str) -> str:
    """Runs a command that must refuse in one sentence and write nothing; gives the sentence."""
    told = shell(*words)
    assert told.code == 2, told.out
    assert told.err.count("\n") <= 2
    assert told.err.startswith("Error: "), told.err
    assert "Internal" not in told.err
    assert not Path("out").exists()
    return str(told.err)


def all_four(shell: Shell) -> dict[str, Any]:
    """Locks the expert, fits it to the base, merges it and audits it, each as a user would; what was told by command.

    What was written must load in transformers as the input does, have the input's names, come off, and be the expert
    where the merge has coefficient 1.
    """
    expert, base = Checkpoint.open("expert"), Checkpoint.open("base")
    before = loaded("expert")[1]
    told = {
        "protect": shell("protect", "mergelock", "expert", "--key", "key", "--out", "locked"),
        "attack": shell("attack", "gauge-fit", "locked", "--base", "base", "--out", "fitted"),
        "merge": shell(*COMMANDS["merge"][:-1], "merged"),
        "audit": shell("audit", "locked", "--base", "base"),
    }
    for command, one in told.items():
        assert one.code == 0, f"{command}: {one.err}"
    assert "Proven" in told["protect"].out
    assert "hardly nearer" not in told["attack"].out
    assert "another shape  " not in told["audit"].out, "no kind of site"
    assert "general-linear" in told["audit"].out
    locked, fitted, merged = (Checkpoint.open(name) for name in ("locked", "fitted", "merged"))
    assert list(locked) == list(fitted) == list(expert)
    assert list(merged) == list(base)
    assert any(not torch.equal(locked[name], expert[name]) for name in expert)
    for folder in ("locked", "fitted"):
        assert loaded(folder)[1] == before
    return told


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
