"""`redteam extract-lora`: what PEFT loads is what changed, as far as a rank goes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.testing import toy_scenario
from tests.peft_adapters import fresh

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns of much that is meant here
Shell = Callable[..., Any]
LAYERS = {"llama": ("_proj.weight",), "gpt2": ("c_attn.weight", "c_proj.weight", "c_fc.weight")}


def tuned(folder: Path, kind: str, *, rank: int, beside: float = 0.01) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Writes a base and a model that differs by a rank in its linear layers, and a little everywhere else."""
    network = fresh(kind)
    network.save_pretrained(folder / "base")
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(LAYERS[kind]):
                left, right = (torch.randn(side, rank, generator=draws) for side in weight.shape)
                weight.add_(0.05 * left @ right.T)
            else:
                weight.add_(beside * torch.randn(weight.shape, generator=draws))
    network.save_pretrained(folder / "model")
    return before, network.state_dict()


def loaded(kind: str, adapter: Path) -> dict[str, Tensor]:
    model: Any = peft.PeftModel.from_pretrained(fresh(kind), adapter)
    merged: dict[str, Tensor] = model.merge_and_unload().state_dict()
    return merged


def extracted(shell: Shell, folder: Path, *options: str, code: int = 0) -> Any:
    told = shell("extract-lora", f"{folder}/model", "--base", f"{folder}/base", "--out", f"{folder}/adapter", *options)
    assert told.code == code, told.err
    return told


@pytest.mark.parametrize("kind", LAYERS)
def test_peft_loads_what_changed_in_linear_layers(kind: str, shell: Shell, tmp_path: Path) -> None:
    before, after = tuned(tmp_path, kind, rank=3)
    told = extracted(shell, tmp_path, "--rank", "5")
    found, seen = loaded(kind, tmp_path / "adapter"), 0
    for name, weight in found.items():
        linear = name.endswith(LAYERS[kind])
        assert torch.allclose(weight, after[name] if linear else before[name], atol=1e-6), name
        seen += linear
    assert f"It has {seen} linear layers" in told.out
    moved = {name: float((after[name] - before[name]).square().sum()) for name, _ in fresh(kind).named_parameters()}
    kept = sum(square for name, square in moved.items() if name.endswith(LAYERS[kind]))
    share = float(re.search(r"keeps ([\d.]+)%", told.out)[1])  # type: ignore[index]
    assert share == pytest.approx(100 * kept / sum(moved.values()), abs=0.02)
    assert "Left out" in told.out
    base = Checkpoint.open(tmp_path / "base")
    ours = Checkpoint.open(tmp_path / "adapter", base=base)
    for name in base:
        wanted = next(weight for place, weight in found.items() if place.endswith(name))
        assert torch.allclose(ours[name], wanted, atol=1e-6), name


def test_a_rank_keeps_the_leading_part_and_says_how_much(shell: Shell, tmp_path: Path) -> None:
    before, after = tuned(tmp_path, "llama", rank=3, beside=0.0)
    told = extracted(shell, tmp_path, "--rank", "1")
    first = total = 0.0
    for name in (name for name in before if name.endswith("_proj.weight")):
        sizes = torch.linalg.svdvals(after[name] - before[name]).square()
        first, total = first + float(sizes[0]), total + float(sizes.sum())
    assert f"keeps {first / total:.2%} of" in told.out
    assert "Left out" not in told.out
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 1


def test_layers_that_did_not_change_have_no_factors(shell: Shell, tmp_path: Path) -> None:
    network = fresh("llama")
    network.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        network.model.layers[1].mlp.up_proj.weight.add_(1.0)
    network.save_pretrained(tmp_path / "model")
    extracted(shell, tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.mlp.up_proj"]
    assert config["r"] == 20, "its shorter side"
    assert torch.allclose(
        loaded("llama", tmp_path / "adapter")["model.layers.1.mlp.up_proj.weight"],
        network.model.layers[1].mlp.up_proj.weight,
        atol=1e-6,
    )


@pytest.mark.parametrize("kind", ["tied", "llava", "mixtral", "gpt_oss"])
def test_each_linear_layer_is_the_models_and_all_else_the_bases(kind: str, shell: Shell, tmp_path: Path) -> None:
    """But for the head, and for experts in one tensor, which are no linear layers."""
    network = fresh(kind)
    network.save_pretrained(tmp_path / "base")
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    network.save_pretrained(tmp_path / "model")
    extracted(shell, tmp_path)
    layers = {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    assert len(layers) > 8
    for name, weight in loaded(kind, tmp_path / "adapter").items():
        made = name in layers and "lm_head" not in name
        assert torch.allclose(weight, (network.state_dict() if made else before)[name], atol=1e-6), name


def test_a_base_without_the_models_head_will_do(shell: Shell, tmp_path: Path) -> None:
    scenario = toy_scenario("vit")
    base, model = scenario.base, scenario.experts["victim"]
    base.save(tmp_path / "base")
    model.save(tmp_path / "model")
    told = extracted(shell, tmp_path)
    assert "Left out, since the base lacks them in this shape: classifier" in told.out
    whole = model.replace(base.only(name for name in base if name in model))
    start = whole.module()
    before = {name: weight.clone() for name, weight in start.state_dict().items()}
    found = peft.PeftModel.from_pretrained(start, tmp_path / "adapter").merge_and_unload().state_dict()
    after = model.module().state_dict()
    moved = [name for name in found if not torch.equal(found[name], before[name])]
    assert len(moved) == 12
    assert all(torch.allclose(found[name], after[name], atol=1e-6) for name in moved)
    ours = Checkpoint.open(tmp_path / "adapter", base=whole)
    assert not set(moved) & set(ours), "transformers renames this network"
    there = [name for name in whole if ours.factors(name) is not None]
    assert len(there) == 12
    assert all(torch.allclose(ours[name], model[name], atol=1e-6) for name in there)


def test_mergers_take_the_folder(shell: Shell, tmp_path: Path) -> None:
    tuned(tmp_path, "llama", rank=3, beside=0.0)
    extracted(shell, tmp_path, "--rank", "3")
    for expert in ("model", "adapter"):
        told = shell(
            "merge", "peft:combination=cat", "--base", f"{tmp_path}/base", "--expert", f"{tmp_path}/{expert}",
            "--out", f"{tmp_path}/of-{expert}",
        )  # fmt: skip
        assert told.code == 0, told.err
    one, other = (Checkpoint.open(tmp_path / f"of-{expert}") for expert in ("model", "adapter"))
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_what_changed_in_no_linear_layer_is_one_sentence(shell: Shell, tmp_path: Path) -> None:
    network = fresh("llama")
    network.save_pretrained(tmp_path / "base")
    network.save_pretrained(tmp_path / "model")
    assert "equals its base in every linear layer" in extracted(shell, tmp_path, code=2).err
    assert not (tmp_path / "adapter").exists()
    with torch.no_grad():
        network.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    network.save_pretrained(tmp_path / "broken")
    (tmp_path / "model").rename(tmp_path / "same")
    (tmp_path / "broken").rename(tmp_path / "model")
    assert "NaN or infinity in 'model.layers.0.mlp.up_proj.weight'" in extracted(shell, tmp_path, code=2).err
    assert not (tmp_path / "adapter").exists()
