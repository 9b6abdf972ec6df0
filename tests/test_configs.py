"""Which settings of two configs count when weights are merged."""

from __future__ import annotations

from typing import Any

import pytest

from redteam.checkpoint.configs import disagreements

LLAMA = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 1e4}


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 5e5},
        {"rms_norm_eps": 1e-6},
        {"tie_word_embeddings": True},
        {"hidden_act": "gelu"},
        {"num_key_value_heads": 2},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ],
)
def test_what_changes_the_function_is_found_though_one_leaves_it_out(change: dict[str, Any]) -> None:
    found = disagreements({**LLAMA, **change}, LLAMA)
    assert found
    assert any(part in " ".join(found) for part in (*change, "rope_parameters"))


def test_an_older_and_a_newer_spelling_agree() -> None:
    newer = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    newer["rope_parameters"] = {"rope_theta": 1e4, "rope_type": "default"}
    assert disagreements(LLAMA, newer) == {}


def test_what_training_may_change_is_not_asked_about() -> None:
    trained = {
        "id2label": {"0": "x"},
        "attention_dropout": 0.1,
        "_name_or_path": "x",
        "pad_token_id": 3,
        "dtype": "float16",
    }
    assert disagreements({**LLAMA, **trained}, LLAMA) == {}


def test_parts_are_looked_into() -> None:
    one = {"model_type": "nobody", "text_config": {"hidden_act": "gelu", "dropout": 0.1}}
    other = {"model_type": "nobody", "text_config": {"hidden_act": "quick_gelu", "dropout": 0.0}}
    assert disagreements(one, other) == {"text_config.hidden_act": ("gelu", "quick_gelu")}
