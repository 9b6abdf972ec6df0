"""The tool that free-riders really use, on our folders: unlocked merges, locked breaks, attacked merges."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint

Shell = Callable[..., Any]
WORDS = ["[UNK]", "<s>", "</s>", *(f"word{number}" for number in range(61))]
WEIGHT = 0.3


def tool() -> str | None:
    """`mergekit-yaml` of this environment, or of the Python that MERGEKIT names."""
    beside = [Path(python).parent for python in (sys.executable, os.environ.get("MERGEKIT", "")) if python]
    return shutil.which("mergekit-yaml", path=os.pathsep.join(map(str, beside)))


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(tool() is None, reason="mergekit-yaml is not installed (the extra mergekit)"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, a small Llama with a tokenizer, and `one`, `two` and `three`, fine-tuned from it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llamas")
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(WORDS),
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token=WORDS[0], bos_token=WORDS[1], eos_token=WORDS[2]
    )
    network = LlamaForCausalLM(config)
    draws = np.random.default_rng(0)
    start = {
        name: _noise(draws, p) * (1.0 if p.ndim == 1 else p.shape[-1] ** -0.5)
        for name, p in network.state_dict().items()
    }
    for name in ("base", "one", "two", "three"):
        drift = 0.0 if name == "base" else 0.05
        moved = {key: tensor * (1 + drift * _noise(draws, tensor)) for key, tensor in start.items()}
        network.load_state_dict(moved)
        network.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def _noise(draws: np.random.Generator, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(draws.standard_normal(tuple(like.shape))).float()


def mergekit(folder: Path, out: Path, *experts: str) -> Checkpoint:
    """Task arithmetic by the real tool, as a free-rider would call it."""
    plan = folder / f"{out.name}.yaml"
    listed = "".join(f"  - model: {folder / name}\n    parameters:\n      weight: {WEIGHT}\n" for name in experts)
    plan.write_text(f"merge_method: task_arithmetic\nbase_model: {folder / 'base'}\nmodels:\n{listed}dtype: float32\n")
    program = tool()
    assert program is not None
    done = subprocess.run(
        [program, str(plan), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Checkpoint.open(out)


def distance(one: Checkpoint, other: Checkpoint) -> float:
    return float(sum((one[n].double() - other[n].double()).square().sum() for n in other) ** 0.5)


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    tokens = torch.from_numpy(np.random.default_rng(1).integers(3, len(WORDS), (4, 16)))
    with torch.no_grad():
        found: torch.Tensor = checkpoint.module(torch.float64)(input_ids=tokens).logits
    return found


def test_unlocked_merges_locked_breaks_attacked_merges(shell: Shell, models: Path, tmp_path: Path) -> None:
    folder = models
    base = Checkpoint.open(folder / "base")
    plain = mergekit(folder, tmp_path / "plain", "one", "two", "three")

    words = [word for name in ("one", "two", "three") for word in ("--expert", str(folder / name))]
    ours = ("merge", f"task-arithmetic:coefficient={WEIGHT}", "--base", str(folder / "base"), *words)
    assert shell(*ours, "--out", str(tmp_path / "ours")).code == 0
    for name, tensor in Checkpoint.open(tmp_path / "ours").items():
        torch.testing.assert_close(tensor, plain[name], rtol=1e-5, atol=1e-6)

    key, locked, fitted = str(tmp_path / "key"), str(folder / "locked"), str(folder / "fitted")
    told = shell("protect", "mergelock", str(folder / "one"), "--key", key, "--out", locked)
    assert told.code == 0, told.err
    one = logits(Checkpoint.open(folder / "one"))
    assert float((logits(Checkpoint.open(locked)) - one).abs().max() / one.abs().max()) < 1e-3, "it still works alone"
    broken = mergekit(folder, tmp_path / "broken", "locked", "two", "three")

    told = shell("attack", "gauge-fit", locked, "--base", str(folder / "base"), "--out", fitted)
    assert told.code == 0, told.err
    restored = mergekit(folder, tmp_path / "restored", "fitted", "two", "three")

    learned, wanted = distance(plain, base), logits(plain)
    assert distance(broken, plain) > 3 * learned, "the lock moves the merge further than all the learning"
    assert distance(restored, plain) < 0.3 * learned
    harm, rest = (float((logits(merge) - wanted).norm() / wanted.norm()) for merge in (broken, restored))
    assert harm > 0.3
    assert rest < 0.1 * harm
