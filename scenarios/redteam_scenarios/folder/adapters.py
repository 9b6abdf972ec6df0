"""Experts that are trained as adapters: LoRA at the linear layers of the blocks, by PEFT, merged at the end."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.modules import parameter_names
from redteam.checkpoint.tensors import in_a_block
from redteam.errors import BadInput
from redteam.tasks import Batch
from redteam.training import Budget, Loss

_ALPHA = 2  # what is added is scaled by this, whatever the rank


def adapter_version(task: str) -> str:
    """The version of PEFT that is installed.

    Raises:
        BadInput: If none is.
    """
    try:
        return importlib.metadata.version("peft")
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(
            f"tasks.{task} asks for an adapter (lora), which PEFT trains and which is not installed; pip install "
            "'merge-redteam[peft]', or leave lora out."
        ) from None


def adapted(
    start: Checkpoint,
    budget: Budget,
    rank: int,
    *,
    head: Sequence[str],
    batches: Iterator[Batch],
    loss: Loss,
    seed: int,
    steps: Iterable[int],
) -> Checkpoint:
    """The start with an adapter trained and merged into it, in its own names and dtypes.

    What the adapter does not reach stays as it is, bit by bit, but for the head.

    Args:
        start: The base under a task's head.
        budget: Steps, rate and batch.
        rank: Of every adapted layer.
        head: Tensors of the task's own, which are trained whole.
        batches: One batch a step.
        loss: What is minimised.
        seed: Of the adapter's first weights.
        steps: The numbers of the steps, where somebody counts them.

    Raises:
        BadInput: If there is no layer to adapt.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import get_cosine_schedule_with_warmup
    from transformers.pytorch_utils import Conv1D

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = start.module(torch.float32)
        layers = _layers(module, (nn.Linear, Conv1D))
        if not layers:
            raise BadInput(f"The {start.architecture} has no linear layers in its blocks to adapt; leave lora out.")
        turned = all(isinstance(module.get_submodule(name), Conv1D) for name in layers)
        settings = LoraConfig(r=rank, lora_alpha=_ALPHA * rank, target_modules=layers, fan_in_fan_out=turned)
        names = parameter_names(start)
        parameters = dict(module.named_parameters())
        own = [parameters[names[name]] for name in head if names.get(name) in parameters]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks transformers for what that calls deprecated
            network = get_peft_model(module, settings)
    for parameter in own:
        parameter.requires_grad_(True)
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=budget.rate, eps=budget.epsilon, weight_decay=0.0, foreach=False)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(budget.warmup * budget.steps), budget.steps)
    for _ in steps:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss(module, next(batches)).backward()
        nn.utils.clip_grad_norm_(learned, budget.clip, foreach=False)
        optimizer.step()
        schedule.step()
    merged = start.trained(network.merge_and_unload())
    reached = {f"{name}.weight" for name in layers}
    changed = [name for name in start if names.get(name) in reached or name in head]
    return start.replace({name: merged[name] for name in changed})


def _layers(module: nn.Module, kinds: tuple[type, ...]) -> list[str]:
    """Linear layers in numbered blocks; not those whose weights another module reads itself."""
    inside = tuple(f"{name}." for name, one in module.named_modules() if isinstance(one, nn.MultiheadAttention))
    return [
        name
        for name, one in module.named_modules()
        if isinstance(one, kinds) and in_a_block(f"{name}.weight") and not name.startswith(inside)
    ]
