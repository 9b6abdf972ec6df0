"""Whatever names, config and index a folder has: a command writes a model that opens, or one sentence says why not."""

from __future__ import annotations

import copy
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redteam.checkpoint import Checkpoint
from tests.published.conftest import SMALL, Shell, made, put, tuned
from tests.test_storage_fuzz import mutated

COMMANDS = {
    "protect": ("protect", "mergelock", "expert", "--key", "key", "--out", "out", "--force"),
    "unproven": ("protect", "permutation", "expert", "--key", "key", "--out", "out", "--force", "--unproven"),
    "attack": ("attack", "gauge-fit", "expert", "--base", "base", "--out", "out", "--force"),
    "merge": ("merge", "linear", "--base", "base", "--expert", "expert", "--out", "out", "--force"),
    "merge into": ("merge", "linear", "--base", "expert", "--expert", "base", "--out", "out", "--force"),
    "audit": ("audit", "expert", "--base", "base"),
}
QUICK = {"max_examples": 5, "deadline": None, "suppress_health_check": list(HealthCheck)}
LONG = QUICK | {"max_examples": 200}
PREFIXES = ("model.", "module.", "transformer.", "bert.", "encoder.", "language_model.", "_orig_mod.", "0.", "", "a/b.")
commands = st.sampled_from(sorted(COMMANDS))
SECONDS = 60


@cache
def model(kind: str) -> Checkpoint:
    import transformers as t

    if kind == "bert":
        return made("BertModel", t.BertConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}))
    if kind == "mixtral":
        return made("MixtralForCausalLM", t.MixtralConfig(**SMALL, num_local_experts=3))
    return made("LlamaForCausalLM", t.LlamaConfig(**SMALL, tie_word_embeddings=kind == "tied"))


kinds = st.sampled_from(["llama", "tied", "bert", "mixtral"])


@contextmanager
def in_time() -> Iterator[None]:
    """What takes a minute on such a model hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(shell: Shell, command: str) -> None:
    shutil.rmtree("out", ignore_errors=True)
    with in_time():
        told = shell(*COMMANDS[command])
    if told.code == 0:
        if command != "audit":
            assert len(Checkpoint.open("out").digest()) == 64
        return
    assert told.code == 2
    last = told.err.strip().splitlines()[-1]
    assert "Internal error" not in told.err, told.err
    assert "Traceback" not in told.err
    assert last.startswith(("Error: ", "The new key stays")), told.err
    assert len([line for line in told.err.splitlines() if line.startswith("Error: ")]) == 1, told.err
    assert not Path("out").exists()


@st.composite
def renamings(draw: st.DrawFn) -> Any:
    """Some steps on the names of a checkpoint, each for a part of them chosen by number."""
    steps = draw(st.lists(st.sampled_from(["add", "cut", "double", "drop", "twist", "number"]), min_size=1, max_size=3))
    which = draw(st.sampled_from([1, 1, 2, 3, 7]))
    return [(step, draw(st.sampled_from(PREFIXES)), which, draw(st.integers(0, 6))) for step in steps]


def apply(names: list[str], step: str, prefix: str, every: int, start: int) -> dict[str, str]:
    """New name → old name."""
    found: dict[str, str] = {}
    for place, name in enumerate(names):
        new = [name]
        if (place + start) % every == 0:
            new = {
                "add": [prefix + name],
                "cut": [name.partition(".")[2] or name],
                "double": [name, prefix + name],
                "drop": [],
                "twist": [".".join(reversed(name.split(".")))],
                "number": [name.replace(".0.", ".7.").replace(".1.", ".0.")],
            }[step]
        found |= dict.fromkeys(new, name)
    return found


def check_names(shell: Shell, kind: str, command: str, steps: Any) -> None:
    there = model(kind)
    tensors = tuned(there)
    for step in steps:
        tensors = {new: tensors[old] for new, old in apply(list(tensors), *step).items()}
    if tensors:
        put("base", there, there.config)
        put("expert", tensors, there.config)
        tried(shell, command)


def check_config(shell: Shell, kind: str, command: str, config: Any) -> None:
    there = model(kind)
    put("base", there, there.config)
    put("expert", tuned(there), there.config)
    Path("expert/config.json").write_text(json.dumps(config))
    tried(shell, command)


@st.composite
def configs(draw: st.DrawFn) -> Any:
    kind = draw(kinds)
    return kind, draw(mutated(copy.deepcopy(dict(model(kind).config))))


@st.composite
def indices(draw: st.DrawFn) -> Any:
    names = dict.fromkeys(model("llama"), "model-1.safetensors")
    few = dict(list(names.items())[:6])
    index = draw(mutated({"metadata": {"total_size": 5}, "weight_map": few}))
    if draw(st.booleans()) and isinstance(index, dict) and isinstance(index.get("weight_map"), dict):
        index["weight_map"] = {**names, **index["weight_map"]}
    return index


def check_index(shell: Shell, command: str, index: Any) -> None:
    there = model("llama")
    put("base", there, there.config)
    put("expert", tuned(there), there.config)
    Path("expert/model.safetensors").rename("expert/model-1.safetensors")
    Path("expert/model.safetensors.index.json").write_text(json.dumps(index))
    tried(shell, command)


@given(kinds, commands, renamings())
@settings(**QUICK)
def test_names(here: Path, shell: Shell, kind: str, command: str, steps: Any) -> None:
    check_names(shell, kind, command, steps)


@given(configs(), commands)
@settings(**QUICK)
def test_configs(here: Path, shell: Shell, config: Any, command: str) -> None:
    check_config(shell, config[0], command, config[1])


@given(indices(), commands)
@settings(**QUICK)
def test_indices(here: Path, shell: Shell, index: Any, command: str) -> None:
    check_index(shell, command, index)


@pytest.mark.slow
@given(kinds, commands, renamings())
@settings(**LONG)
def test_many_names(here: Path, shell: Shell, kind: str, command: str, steps: Any) -> None:
    check_names(shell, kind, command, steps)


@pytest.mark.slow
@given(configs(), commands)
@settings(**LONG)
def test_many_configs(here: Path, shell: Shell, config: Any, command: str) -> None:
    check_config(shell, config[0], command, config[1])


@pytest.mark.slow
@given(indices(), commands)
@settings(**LONG)
def test_many_indices(here: Path, shell: Shell, index: Any, command: str) -> None:
    check_index(shell, command, index)


@pytest.mark.parametrize("change", [{"architectures": True}, {"attention_bias": None}, {"num_hidden_layers": 10**9}])
def test_what_was_found_by_it(here: Path, shell: Shell, change: dict[str, Any]) -> None:
    for command in ("protect", "attack", "merge"):
        check_config(shell, "llama", command, {**model("llama").config, **change})
