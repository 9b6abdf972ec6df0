"""A LoRA adapter merged into its base is the arithmetic of its paper, done when a tensor is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.save import write
from redteam.errors import NotACheckpoint

Q, K, UP, HEAD = "model.layers.0.q", "model.layers.0.k", "model.layers.1.up", "score"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


BASE = {
    f"{Q}.weight": random(6, 4, seed=1),
    f"{K}.weight": random(2, 4, seed=2),
    f"{UP}.weight": random(5, 4, seed=3),
    "model.embed.weight": random(9, 4, seed=4),
    "model.conv.weight": random(5, 3, 2, 2, seed=5),
    "model.norm.weight": random(4, seed=6),
}


def adapter(folder: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> Path:
    """An adapter as PEFT writes it."""
    Checkpoint.of({f"base_model.model.{name}": t for name, t in tensors.items()}, {}).save(folder)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").unlink()
    usual = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": "some/base"}
    (folder / "adapter_config.json").write_text(json.dumps({**usual, **settings}))
    return folder


def low_rank(module: str, out: int, into: int, rank: int = 2, seed: int = 10) -> dict[str, torch.Tensor]:
    return {
        f"{module}.lora_A.weight": random(rank, into, seed=seed),
        f"{module}.lora_B.weight": random(out, rank, seed=seed + 1),
    }


def merged(folder: Path, dtype: torch.dtype = torch.float32) -> Checkpoint:
    return Checkpoint.open(folder, base=Checkpoint.of(BASE, {"model_type": "toy"}).to(dtype))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_update_is_scale_times_b_times_a_and_the_rest_stays(tmp_path: Path) -> None:
    halves = low_rank(Q, 6, 4)
    after = merged(adapter(tmp_path / "a", halves))
    a, b = halves.values()
    assert close(after[f"{Q}.weight"], BASE[f"{Q}.weight"] + 6 / 2 * b @ a)
    assert list(after) == list(BASE)
    assert all(torch.equal(after[n], BASE[n]) for n in BASE if n != f"{Q}.weight")
    assert after.architecture == "toy"


def test_a_rank_stabilised_adapter_divides_by_the_root(tmp_path: Path) -> None:
    halves = low_rank(Q, 6, 4)
    a, b = halves.values()
    after = merged(adapter(tmp_path / "a", halves, use_rslora=True))
    assert close(after[f"{Q}.weight"], BASE[f"{Q}.weight"] + 6 / 2**0.5 * b @ a)


def test_a_transposed_weight_gets_the_update_transposed(tmp_path: Path) -> None:
    halves = low_rank(Q, 4, 6)
    a, b = halves.values()
    after = merged(adapter(tmp_path / "a", halves, fan_in_fan_out=True))
    assert close(after[f"{Q}.weight"], BASE[f"{Q}.weight"] + 3 * (b @ a).T)


def test_ranks_and_alphas_by_pattern(tmp_path: Path) -> None:
    special, usual, other = low_rank(K, 2, 4, rank=3), low_rank(Q, 6, 4), low_rank(UP, 5, 4, rank=1)
    patterns = {"rank_pattern": {"k": 3, r"layers\.1\.up": 1}, "alpha_pattern": {"layers.0.k": 12, "^model.*up$": 7}}
    after = merged(adapter(tmp_path / "a", {**special, **usual, **other}, **patterns))
    for module, halves, scale in ((K, special, 12 / 3), (Q, usual, 6 / 2), (UP, other, 7 / 1)):
        a, b = halves.values()
        assert close(after[f"{module}.weight"], BASE[f"{module}.weight"] + scale * b @ a)


@pytest.mark.parametrize("transposed", [False, True])
def test_embeddings_and_convolutions(tmp_path: Path, transposed: bool) -> None:
    ea, eb, ca, cb = random(2, 9), random(4, 2, seed=1), random(2, 3, 2, 2, seed=2), random(5, 2, 1, 1, seed=3)
    after = merged(
        adapter(
            tmp_path / "a",
            {
                "model.embed.lora_embedding_A": ea,
                "model.embed.lora_embedding_B": eb,
                "model.conv.lora_A.weight": ca,
                "model.conv.lora_B.weight": cb,
            },
            fan_in_fan_out=transposed,
        )
    )
    assert close(after["model.embed.weight"], BASE["model.embed.weight"] + 3 * (eb @ ea).T)
    change = torch.nn.functional.conv2d(ca.transpose(0, 1), cb).transpose(0, 1)
    assert close(after["model.conv.weight"], BASE["model.conv.weight"] + 3 * change)


def test_whole_tensors_replace_and_heads_are_added(tmp_path: Path) -> None:
    norm, head = random(4, seed=20), random(3, 4, seed=21)
    after = merged(adapter(tmp_path / "a", {"model.norm.weight": norm, f"{HEAD}.modules_to_save.default.weight": head}))
    assert torch.equal(after["model.norm.weight"], norm)
    assert torch.equal(after[f"{HEAD}.weight"], head)
    assert after.shape(f"{HEAD}.weight") == (3, 4)


def test_what_lies_below_an_update_is_stored_too(tmp_path: Path) -> None:
    a, b, embedding, bias = random(2, 11), random(4, 2, seed=1), random(11, 4, seed=2), random(6, seed=3)
    stored = {
        "model.embed.base_layer.weight": embedding,  # a vocabulary that grew
        "model.embed.lora_embedding_A": a,
        "model.embed.lora_embedding_B": b,
        f"{Q}.base_layer.bias": bias,
        **low_rank(Q, 6, 4),
    }
    after = merged(adapter(tmp_path / "a", stored))
    assert after.shape("model.embed.weight") == (11, 4)
    assert close(after["model.embed.weight"], embedding + 3 * (b @ a).T)
    assert torch.equal(after[f"{Q}.bias"], bias)


def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    halves = low_rank(Q, 6, 4)
    a, b = halves.values()
    after = merged(adapter(tmp_path / "a", halves), torch.bfloat16)[f"{Q}.weight"]
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, (BASE[f"{Q}.weight"].bfloat16().float() + 3 * b @ a).bfloat16())


def test_a_prefix_that_only_one_of_them_has_is_seen_through(tmp_path: Path) -> None:
    for index, module in enumerate((f"bert.{Q}", Q.removeprefix("model."))):
        halves = low_rank(module, 6, 4)
        a, b = halves.values()
        after = merged(adapter(tmp_path / str(index), halves))
        assert close(after[f"{Q}.weight"], BASE[f"{Q}.weight"] + 3 * b @ a)


@pytest.mark.parametrize("there", ["language_model.model.", "model.language_model.", "model.", ""])
@pytest.mark.parametrize("here", ["language_model.model.", "model.language_model.", "model.", ""])
def test_words_around_a_network_may_stand_in_any_order(tmp_path: Path, here: str, there: str) -> None:
    """A language model in a VLM is called one way by transformers 4, another by 5, and a third by its files."""
    base = {n.replace("model.", there, 1): tensor for n, tensor in BASE.items()}
    base["vision_tower.layers.0.q.weight"] = random(6, 4, seed=30)
    halves, norm = low_rank(Q.replace("model.", here, 1), 6, 4), random(4, seed=20)
    folder = adapter(tmp_path / "a", {**halves, f"{here}norm.weight": norm})
    after = Checkpoint.open(folder, base=Checkpoint.of(base, {"model_type": "toy"}))
    a, b = halves.values()
    name = f"{Q.replace('model.', there, 1)}.weight"
    assert close(after[name], base[name] + 3 * b @ a)
    assert torch.equal(after[f"{there}norm.weight"], norm)
    assert set(after) == set(base)


def test_a_merged_adapter_is_published_like_its_base(tmp_path: Path) -> None:
    Checkpoint.of(BASE, {"model_type": "toy"}).save(tmp_path / "base")
    base = Checkpoint.open(tmp_path / "base")
    after = Checkpoint.open(adapter(tmp_path / "a", low_rank(Q, 6, 4)), base=base)
    write(after, tmp_path / "out", like=tmp_path / "base")
    assert Checkpoint.open(tmp_path / "out").digest() == after.digest() != base.digest()
    assert Checkpoint.open(tmp_path / "a" / "adapter_model.safetensors", base=base).digest() == after.digest()


def test_an_adapter_without_its_base_asks_for_it(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint, match=r"adapter of 'some/base'.*--base"):
        Checkpoint.open(adapter(tmp_path / "a", low_rank(Q, 6, 4)))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "PREFIX_TUNING"}, "'PREFIX_TUNING', and LORA, .* are what is merged"),
        ({"peft_type": None}, "None, and LORA, .* are what is merged"),
        ({"peft_type": ["LORA"]}, "and LORA, .* are what is merged"),
        ({"init_lora_weights": "pissa"}, "changed its base"),
        ({"init_lora_weights": {"x": 1}}, "changed its base"),
        ({"layer_replication": [[0, 1]]}, "repeats layers"),
        ({"lora_bias": True}, "biases of its own"),
        ({"r": 3}, "has rank 2"),
        ({"r": "two"}, "has a rank"),
        ({"r": 0}, "has a rank"),
        ({"lora_alpha": True}, "has a rank or an alpha"),
        ({"lora_alpha": 1e300}, "has a rank or an alpha"),
        ({"lora_alpha": 4e-218}, "has a rank or an alpha"),
        ({"rank_pattern": [1]}, "damaged patterns"),
        ({"alpha_pattern": {"(a+)+b": 2}}, "pattern that is not followed"),
        ({"alpha_pattern": {"(q|(": 2}}, "pattern"),
        ({"alpha_pattern": {".*.*.*.*q": 2}}, "pattern that is not followed"),
    ],
)
def test_another_kind_of_adapter_is_refused_in_a_sentence(tmp_path: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(NotACheckpoint, match=why):
        merged(adapter(tmp_path / "a", low_rank(Q, 6, 4), **settings))


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        (low_rank("elsewhere", 6, 4), "its base lacks"),
        (low_rank(Q, 6, 5), "has factors"),
        ({f"{Q}.lora_A.weight": random(2, 4)}, "only one of the two"),
        ({f"{Q}.lora_A.weight": random(2), f"{Q}.lora_B.weight": random(6, 2)}, "has factors"),
        ({**low_rank(Q, 6, 4), f"{Q}.lora_magnitude_vector": random(6)}, "no part of a plain LoRA"),
        ({**low_rank(Q, 6, 4), f"{Q}.lora_B.bias": random(6)}, "no part of a plain LoRA"),
        ({**low_rank(Q, 6, 4), f"{Q}.weight": random(6, 4)}, "both changes and replaces"),
        ({**low_rank(Q, 6, 4), f"{Q}.lora_A.default.weight": random(2, 4)}, "twice"),
        ({}, "changes nothing"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], why: str) -> None:
    with pytest.raises(NotACheckpoint, match=why):
        merged(adapter(tmp_path / "a", tensors))


def test_a_tied_head_is_not_untied_in_silence(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", {"lm_head.weight": random(9, 4)})
    tied = Checkpoint.of(BASE, {"tie_word_embeddings": True})
    with pytest.raises(NotACheckpoint, match="a head of its own"):
        Checkpoint.open(folder, base=tied)


def test_a_pickle_and_a_folder_of_both_kinds_are_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", low_rank(Q, 6, 4))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(NotACheckpoint, match="is a pickle"):
        merged(folder)
    Checkpoint.of(BASE, {}).save(tmp_path / "b")
    (folder / "adapter_config.json").rename(tmp_path / "b" / "adapter_config.json")
    with pytest.raises(NotACheckpoint, match="both a model and an adapter"):
        merged(tmp_path / "b")


def test_a_quantised_base_is_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", low_rank(Q, 6, 4))
    for dtype in (torch.int8, torch.float8_e4m3fn):
        with pytest.raises(NotACheckpoint, match="it is quantised"):
            Checkpoint.open(folder, base=Checkpoint.of({n: t.to(dtype) for n, t in BASE.items()}, {}))


def test_a_missing_folder_beside_an_adapter_is_no_adapter(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", low_rank(Q, 6, 4))
    with pytest.raises(NotACheckpoint, match="does not exist"):
        merged(folder / "missing")


def test_an_adapter_s_weights_are_read_only_when_asked_for(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", low_rank(Q, 6, 4))
    after = merged(folder)
    (folder / "adapter_model.safetensors").unlink()
    assert torch.equal(after[f"{K}.weight"], BASE[f"{K}.weight"])
    with pytest.raises(NotACheckpoint, match="cannot be read"):
        after[f"{Q}.weight"]
