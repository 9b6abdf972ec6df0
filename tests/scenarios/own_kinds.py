"""Scenario files of two tasks of one kind, as short as can be, and the models and rows that they name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.evaluation.load_scenarios import try_out
from redteam.plugins.registry import SCENARIOS
from redteam.tasks import Scenario
from tests.scenarios import own_models
from tests.scenarios.own_models import VOCABULARY

BERT = {**own_models.CONFIG, "architectures": ["BertModel"], "initializer_range": 0.1}
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(VOCABULARY), "hidden_size": 16,
    "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "initializer_range": 0.3, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip


def models(place: Path, config: dict[str, Any], names: Sequence[str] = ("base", "mine", "theirs")) -> None:
    """A base, and experts a step away from it."""
    base = Checkpoint.of({}, config).fresh(0)
    for number, name in enumerate(names):
        other = Checkpoint.of({}, config).fresh(number)
        base.replace({n: 0.9 * base[n] + 0.1 * other[n] for n in base}).save(place / name)
    own_models.write_tokenizer(place / "base")


def write(place: Path, settings: str, **own: str) -> None:
    """A file with the same settings for both tasks, but for those of one; an expert is trained where they say so."""
    text = 'base = "base"\nvictim = "mine"\n'
    for task in ("mine", "theirs"):
        said = own.get(task, settings)
        model = "" if "train = true" in said else f'model = "{task}"\n'
        text += f'[tasks.{task}]\n{model}data = "{task}.jsonl"\n{said}\n'
    (place / "own.toml").write_text(text, encoding="utf-8")


def rows(place: Path, name: str, made: Iterable[dict[str, Any]]) -> None:
    (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


def load(place: Path) -> Scenario:
    return SCENARIOS.load(str(place / "own.toml"))()  # type: ignore[no-any-return]


def read(place: Path, settings: str, kind: type) -> Scenario:
    """The scenario of a file with these settings, whose tasks are of that kind and run."""
    write(place, settings)
    scenario = load(place)
    try_out(scenario)
    assert all(type(task) is kind for task in scenario.tasks.values())
    return scenario


def refused(place: Path, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as raised:
        load(place)
    assert "\n" not in str(raised.value)
