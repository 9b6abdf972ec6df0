"""Random combinations of faults: never a traceback, and what the doctor says of stopping is what the merge does."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from tests.doctor.conftest import HEAD, TOKENS, Examine, settings, tuned

Fault = Callable[[Checkpoint, random.Random], Checkpoint]


def _with(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    return lambda model, _: model.replace({name: change(model[name].clone())}) if name in model else model


def _spoilt(value: float) -> Fault:
    def spoil(model: Checkpoint, draws: random.Random) -> Checkpoint:
        name = draws.choice(list(model))
        tensor = model[name].clone()
        tensor.view(-1)[draws.randrange(tensor.numel())] = value
        return model.replace({name: tensor})

    return spoil


def _less(model: Checkpoint, draws: random.Random) -> Checkpoint:
    left = draws.choice(list(model))
    return model.only([n for n in model if n != left])


def _more(model: Checkpoint, draws: random.Random) -> Checkpoint:
    return model.replace({draws.choice(["score.weight", "model.layers.9.x.weight", "x"]): torch.randn(3, 32)})


def _tokens(model: Checkpoint, draws: random.Random) -> Checkpoint:
    count = draws.choice([-4, 1, 24])
    rows = {n: torch.cat([model[n].float(), torch.randn(24, 32)])[: 40 + count] for n in (TOKENS, HEAD) if n in model}
    return model.replace(rows).configured({"vocab_size": 40 + count})


def _anew(model: Checkpoint, draws: random.Random) -> Checkpoint:
    model = Checkpoint.of({n: t.float() for n, t in model.items()}, model.config)
    return tuned(model, draws.randrange(99), draws.choice([1e-5, 0.3, 3.0, 1e4]))


def _integers(model: Checkpoint, draws: random.Random) -> Checkpoint:
    name = draws.choice(list(model))
    return model.replace({name: model[name].to(draws.choice([torch.int32, torch.uint8, torch.bool]))})


def _config(model: Checkpoint, draws: random.Random) -> Checkpoint:
    key, value = draws.choice(
        [
            ("rope_theta", 7.0),
            ("num_attention_heads", 8),
            ("num_attention_heads", "four"),
            ("vocab_size", None),
            ("tie_word_embeddings", True),
            ("model_type", "mistral"),
            ("model_type", "nobodys"),
            ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
            ("num_hidden_layers", 3),
            ("num_key_value_heads", 0),
            ("hidden_size", -1),
        ]
    )
    return model.configured({key: value})


def _dtype(model: Checkpoint, draws: random.Random) -> Checkpoint:
    return model.to(draws.choice([torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]))


FAULTS: tuple[Fault, ...] = (
    _spoilt(torch.nan),
    _spoilt(-torch.inf),
    _spoilt(1e30),
    _less,
    _more,
    _tokens,
    _anew,
    _config,
    _dtype,
    _integers,
    _with("model.layers.1.mlp.up_proj.weight", lambda t: t[torch.randperm(len(t))]),
    _with("model.layers.1.self_attn.q_proj.weight", lambda t: t[:-1]),
    _with(HEAD, torch.zeros_like),
    _with("model.norm.weight", lambda t: t.reshape(1, -1)),
    _with(TOKENS, lambda t: t[:0]),
)


@pytest.mark.parametrize("seed", [*range(24), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(24, 400))])
def test_whatever_is_wrong(shell: Callable[..., Any], here: Path, doctor: Examine, seed: int) -> None:
    draws = random.Random(seed)
    torch.manual_seed(seed)
    for name in draws.choice([("two",), ("one", "two"), ("base", "two")]):
        model = Checkpoint.open(name)
        for fault in draws.sample(FAULTS, draws.randint(1, 3)):
            model = fault(model, draws)
        held = {n: t.contiguous() for n, t in model.items()}
        place = here / f"{name}-spoilt"
        Checkpoint.of(held, model.config).save(place)
        (here / name).rename(here / f"{name}-before")
        place.rename(here / name)
    if draws.random() < 0.2:
        settings("two", quantization_config={"quant_method": draws.choice(["awq", "fp8"])})
    told = shell("doctor", "base", "one", "two")
    words = ("merge", "linear", "--base", "base", "--expert", "one", "--expert", "two")
    merged = shell(*words, "--out", "out")
    refused = " ".join(merged.err.strip().splitlines()[-1:]).removeprefix("Error: ")
    assert "Internal" not in told.err + merged.err
    if told.code == 2:
        assert merged.code == 2, told.err
        return
    found = doctor("one", "two")
    stops = [finding.told for finding in found.findings if finding.severity == "stops"]
    if stops:
        assert merged.code == 2, stops
        assert refused in stops
    else:
        assert merged.code == 0 or refused in {f.told for f in _checked(shell, words)}, (
            f"{merged.err}\n{found.findings}"
        )


def _checked(shell: Callable[..., Any], words: tuple[str, ...]) -> Any:
    from redteam.doctor import Diagnosis

    return Diagnosis.model_validate_json(shell(*words, "--check", "--json").out).findings
