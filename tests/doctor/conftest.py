"""A small decoder, fine-tunes of it, and what the doctor says of folders made from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.doctor import Diagnosis, Finding

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 32,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "dtype": "float32",
}
HEAD, TOKENS = "lm_head.weight", "model.embed_tokens.weight"


def tuned(base: Checkpoint, seed: int, size: float = 0.02) -> Checkpoint:
    """The base with noise on it, `size` of each tensor's spread."""
    draws = torch.Generator().manual_seed(seed)
    return Checkpoint.of(
        {n: (t + size * max(float(t.std()), 0.02) * torch.randn(t.shape, generator=draws)) for n, t in base.items()},
        base.config,
    )


@pytest.fixture(scope="session")
def base() -> Checkpoint:
    """The public base, no tensor of which is left at 0 or 1."""
    fresh = Checkpoint.of({}, CONFIG).fresh(0)
    return tuned(Checkpoint.of({n: t.float() for n, t in fresh.items()}, CONFIG), 7, 0.1)


@pytest.fixture
def here(base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where base, one and two lie."""
    base.save(tmp_path / "base")
    tuned(base, 1).save(tmp_path / "one")
    tuned(base, 2).save(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Examine = Callable[..., Diagnosis]


@pytest.fixture
def doctor(shell: Callable[..., Any], here: Path) -> Examine:
    """What `redteam doctor` finds; its exit code is held against its findings."""

    def examine(*models: str, base: str = "base", options: tuple[str, ...] = ()) -> Diagnosis:
        told = shell("doctor", base, *models, "--json", *options)
        assert told.code in (0, 1), told.err
        found = Diagnosis.model_validate(json.loads(told.out))
        assert told.code == int(any(finding.severity in ("stops", "damages") for finding in found.findings))
        return found

    return examine


def only(found: Diagnosis) -> Finding:
    """The finding, of which there must be one."""
    (finding,) = found.findings
    return finding


def settings(folder: str, **changes: object) -> None:
    """Changes entries of a config."""
    path = Path(folder, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
