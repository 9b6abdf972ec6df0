"""Checkpoints saved with what the network was wrapped into: each command refuses them by name, with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from tests.published.conftest import COMMANDS, SMALL, Shell, made, put, refused, tuned

Layout = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def prefixed(prefix: str) -> Layout:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def unmerged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA beside the weights it changes, as the adapter's own network names both."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if stem.endswith("q_proj"):
            found[f"{stem}.base_layer.weight"] = tensor
            found[f"{stem}.lora_A.default.weight"] = torch.ones(2, tensor.shape[1])
            found[f"{stem}.lora_B.default.weight"] = torch.ones(tensor.shape[0], 2)
        else:
            found[name] = tensor
    return found


def beside(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All weights as they should be, and an adapter's factors in the same file."""
    factors = {n.replace(".weight", ".lora_A.weight"): t[:2].clone() for n, t in tensors.items() if "q_proj" in n}
    return {**tensors, **factors}


def doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Everything twice, once under the wrapper's names."""
    return {**tensors, **prefixed("base_model.model.")(tensors)}


def inside(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each block was compiled by itself."""
    return {name.replace(".self_attn.", "._orig_mod.self_attn."): tensor for name, tensor in tensors.items()}


LAYOUTS: dict[str, tuple[Layout, str, str]] = {
    "compiled": (prefixed("_orig_mod."), "torch.compile", "model._orig_mod"),
    "blocks compiled": (inside, "torch.compile", "model._orig_mod"),
    "parallel": (prefixed("module."), "parallel training", "model.module"),
    "parallel and compiled": (prefixed("module._orig_mod."), "torch.compile", "model._orig_mod"),
    "sharded": (prefixed("_fsdp_wrapped_module."), "wrapper for training", "save the network inside"),
    "adapter's wrapper": (prefixed("base_model.model."), "PEFT", "merge_and_unload"),
    "unmerged": (unmerged, "adapter unmerged", "merge_and_unload"),
    "unmerged in its wrapper": (lambda t: prefixed("base_model.model.")(unmerged(t)), "adapter", "merge_and_unload"),
    "factors beside": (beside, "adapter unmerged", "merge_and_unload"),
    "doubled": (doubled, "PEFT", "merge_and_unload"),
}


@pytest.fixture(scope="module")
def llama() -> Checkpoint:
    import transformers

    return made("LlamaForCausalLM", transformers.LlamaConfig(**SMALL))


CASES = {*zip(LAYOUTS, cycle(COMMANDS), strict=False), *product(("compiled", "factors beside"), COMMANDS)}


@pytest.mark.parametrize(("layout", "command"), sorted(CASES))
def test_every_command_names_the_wrapper_and_the_remedy(
    llama: Checkpoint, here: Path, shell: Shell, layout: str, command: str
) -> None:
    """Soup#351, peft#1579, InternVL#548: what a wrapper left in the names was loaded as fresh weights, or as half."""
    arrange, what, remedy = LAYOUTS[layout]
    put("base", llama, llama.config)
    put("expert", arrange(tuned(llama)), llama.config)
    told = refused(shell, *COMMANDS[command])
    assert what in told
    assert remedy in told
    assert not Path("key").exists()


@pytest.mark.parametrize("command", ["attack", "merge", "audit"])
def test_a_wrapped_base_is_refused_too(llama: Checkpoint, here: Path, shell: Shell, command: str) -> None:
    put("base", prefixed("_orig_mod.")(dict(llama)), llama.config)
    put("expert", tuned(llama), llama.config)
    assert "base holds the names of torch.compile" in refused(shell, *COMMANDS[command])


def test_parts_that_are_called_module_are_no_wrapper(here: Path) -> None:
    tensors = {"module.w": torch.ones(2), "head.w": torch.ones(2), "block.Plora_A.weight": torch.ones(2)}
    put("model", tensors, {"model_type": "toy"})
    assert set(Checkpoint.open("model")) == set(tensors)
