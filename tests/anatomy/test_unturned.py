"""Layers without a rotary embedding among others that have one: their queries and keys allow every matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.lifted import lifted
from redteam.symmetry import GeneralLinear, sampled_locks
from redteam.symmetry.fit_all import fit_all
from tests.zoo import GROUPED

KEY = Key.derive(seed=0, index=0, name="unturned")
SIZES = {**GROUPED, "num_hidden_layers": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FORMS: dict[str, dict[str, Any]] = {
    "SmolLM3ForCausalLM": {"model_type": "smollm3", "no_rope_layers": [1, 0, 1, 0]},
    "Llama4ForCausalLM": {
        "model_type": "llama4_text",
        "no_rope_layers": [1, 0, 1, 0],
        "head_dim": 8,
        "intermediate_size_mlp": 24,
        "moe_layers": [],
        "attn_temperature_tuning": False,
    },
    "Cohere2ForCausalLM": {"model_type": "cohere2", "layer_types": ["sliding_attention", "full_attention"] * 2},
}


@pytest.fixture(params=FORMS, scope="module")
def base(request: pytest.FixtureRequest) -> Checkpoint:
    config = {**SIZES, **FORMS[request.param], "architectures": [request.param]}
    return Checkpoint.of({}, config).fresh(0).to(torch.float64)


def test_every_matrix_is_legal_where_nothing_is_turned_and_nowhere_else(base: Checkpoint) -> None:
    legal = {site.layer: "general-linear" in site.legal for site in anatomy_of(base).sites(("qk",))}
    assert legal == {0: False, 1: True, 2: False, 3: True}


SILENT: dict[str, dict[str, Any]] = {
    "SmolLM3ForCausalLM": {"model_type": "smollm3", "no_rope_layer_interval": 2},
    "Llama4ForCausalLM": FORMS["Llama4ForCausalLM"] | {"no_rope_layers": [], "no_rope_layer_interval": 2},
    "Cohere2ForCausalLM": {"model_type": "cohere2", "sliding_window_pattern": 2},
}
"""As published configs have it: an interval in place of a list."""


@pytest.mark.parametrize("name", SILENT)
def test_a_config_that_does_not_list_the_layers_means_what_transformers_makes_of_it(name: str) -> None:
    checkpoint = Checkpoint.of({}, {**SIZES, **SILENT[name], "architectures": [name]}).fresh(0)
    assert ["general-linear" in site.legal for site in anatomy_of(checkpoint).sites(("qk",))] == [False, True] * 2


def test_such_a_lock_keeps_the_function_and_the_fit_undoes_it(base: Checkpoint) -> None:
    draws = KEY.generator("victim")
    victim = base.replace({n: t + 0.02 * t.std() * torch.from_numpy(draws.standard_normal(tuple(t.shape)))
                           for n, t in base.items() if t.ndim == 2})  # fmt: skip
    locked = victim
    for lock in sampled_locks(victim, ("qk",), GeneralLinear(), KEY.generator, adapts=True):
        assert {lock.groups[f"qk/{layer}"] for layer in (1, 3)} == {"general-linear"}
        locked = lock.put_on(locked)
    tokens = {"input_ids": torch.from_numpy(draws.integers(3, SIZES["vocab_size"], (4, 12)))}
    with torch.no_grad(), lifted():
        before, after = (one.module(torch.float64)(**tokens).logits for one in (victim, locked))
    assert (before - after).norm() < 1e-10 * before.norm()
    restored = fit_all(locked, base, ("qk",))

    def far(one: Checkpoint, other: Checkpoint) -> float:
        return sum(float((one[name] - other[name]).square().sum()) for name in base) ** 0.5

    assert far(locked, victim) > 5 * far(victim, base)
    assert far(restored, victim) < 0.5 * far(victim, base)
