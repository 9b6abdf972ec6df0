"""What PEFT itself makes of an adapter is what it is merged to, whole or not at all, a module at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import NotACheckpoint
from tests.peft_adapters import (
    ADAPTERS,
    EXPERTS,
    changed,
    fresh,
    logits,
    lora,
    opened,
    trained,
    without,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns of much that is meant here


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_is_merged_to_what_peft_merges_it_to(tmp_path: Path, name: str) -> None:
    kind, config = ADAPTERS[name]
    model = trained(tmp_path, kind, config())
    found, base = opened(tmp_path), Checkpoint.open(tmp_path / "base")
    model.merge_and_unload(safe_merge=True).save_pretrained(tmp_path / "merged")
    expected = Checkpoint.open(tmp_path / "merged")
    assert set(found) == set(expected)
    for tensor in expected:
        assert found[tensor].dtype == expected.dtype(tensor)
        assert torch.allclose(found[tensor], expected[tensor], rtol=1e-5, atol=1e-6), tensor
    assert any(not torch.equal(expected[tensor], base[tensor]) for tensor in base)


@pytest.mark.parametrize("name", ["DoRA", "experts, one by one", "OFT"])
def test_half_precision_is_rounded_once(tmp_path: Path, name: str) -> None:
    kind, config = ADAPTERS[name]
    trained(tmp_path, kind, config())
    half = Checkpoint.open(tmp_path / "base").to(torch.bfloat16)
    found = Checkpoint.open(tmp_path / "adapter", base=half)
    exact = Checkpoint.open(tmp_path / "adapter", base=half.to(torch.float32))
    for tensor in exact:
        assert torch.equal(found[tensor], exact[tensor].to(torch.bfloat16))


def test_only_the_module_that_is_asked_for_is_read(tmp_path: Path) -> None:
    trained(tmp_path, *(part() if callable(part) else part for part in ADAPTERS["DoRA"]))
    base, read = Checkpoint.open(tmp_path / "base"), list[str]()

    def watched(name: str) -> Tensor:
        read.append(name)
        return base[name]

    found = Checkpoint.open(tmp_path / "adapter", base=Checkpoint.computed(base.outline(), watched, base.config))
    assert read == []
    touched = "model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(found[touched], base[touched])
    assert read == [touched]


def test_one_expert_is_the_slice_of_all(tmp_path: Path) -> None:
    kind, config = ADAPTERS["experts, packed"]
    trained(tmp_path, kind, config())
    found = opened(tmp_path)
    for tensor in found:
        assert torch.equal(found.part(tensor, 1), found[tensor][1:2])


def test_without_peft_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, "llama", lora(use_dora=True))
    monkeypatch.setattr("redteam.checkpoint.by_peft.find_spec", lambda _: None)
    with pytest.raises(NotACheckpoint, match=r"DoRA.*; PEFT merges such adapters: pip install 'merge-redteam\[peft\]'"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["DoRA", "experts, one by one", "tokens, tied"])
def test_a_locked_adapter_computes_what_it_computed_on_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any], name: str
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    kind, config = ADAPTERS[name]
    expected = logits(trained(tmp_path, kind, config()))
    lock = "permutation:sites=[mlp,vo]"
    told = shell("protect", lock, "adapter", "--base", "base", "--key", "key", "--out", "out")
    assert told.code == 0, told.err
    network, info = AutoModelForCausalLM.from_pretrained("out", output_loading_info=True)
    assert not any(info.values())
    assert torch.allclose(logits(network), expected, rtol=1e-4, atol=1e-4)


def test_experts_under_their_older_names_are_merged_or_named(tmp_path: Path) -> None:
    """unsloth-zoo#812: changes of w1, w2, w3 of each expert, which transformers 5 holds in one tensor, were dropped."""
    base = fresh("mixtral")
    base.save_pretrained(tmp_path / "base")
    stored = Checkpoint.open(tmp_path / "base")
    experts = [
        name for name in stored if ".experts." in name and name.endswith(("w1.weight", "w2.weight", "w3.weight"))
    ]
    assert len(experts) == 2 * 3 * 3
    halves, expected = {}, {}
    for index, name in enumerate(experts):
        generator = torch.Generator().manual_seed(index)
        rows, columns = stored.shape(name)
        a, b = torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)
        module = f"base_model.model.{name.removesuffix('.weight')}"
        halves |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        expected[name] = stored[name] + 3 * b @ a
    (tmp_path / "adapter").mkdir()
    save_file(halves, tmp_path / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["w1", "w2", "w3"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    found = opened(tmp_path)
    assert all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-5) for name in experts)
    changed(tmp_path, without("experts.1.w2"))
    with pytest.raises(NotACheckpoint, match=r"16 of 18 modules.*layers\.0\..*experts\.1\.w2"):
        opened(tmp_path)
    changed(tmp_path, without("nothing"), use_dora=True)
    with pytest.raises(NotACheckpoint, match=r"the network has no .*experts\.0\.w1"):
        opened(tmp_path)


def test_experts_that_unsloth_trained_are_said_to_be_doubtful(tmp_path: Path) -> None:
    """unsloth#6930: until September 2026 it took columns of lora_B in another order than PEFT, and no file says so."""
    trained(tmp_path, "qwen3_moe", lora(target_modules=[], target_parameters=EXPERTS))
    assert len(opened(tmp_path).remarks) == 1
    changed(tmp_path, auto_mapping={"base_model_class": "Qwen3MoeForCausalLM", "unsloth_fixed": True})
    assert "Unsloth" in opened(tmp_path).remarks[1]


def test_the_sum_of_a_dora_is_taken_before_its_norm(tmp_path: Path) -> None:
    """peft#3608: a direction is normed once, after all that is added; merged and unmerged must agree."""
    model = trained(tmp_path, "llama", lora(use_dora=True, lora_alpha=40))
    found, network = opened(tmp_path), fresh("llama")
    network.load_state_dict(dict(found.items()))
    assert torch.allclose(logits(network), logits(model), rtol=1e-4, atol=1e-4)
