"""What mergers with data are held against on the toy: papers and FusionBench written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.modules import parameter_names
from redteam.key import Key
from redteam.tasks import Batch
from redteam.testing import toy_scenario

STREAM = Key.derive(seed=0, index=0, name="merge")


def batch_of(task: str, samples: int) -> Batch:
    """The samples of a task that a merger is shown, the victim's in its owner's order."""
    scenario = toy_scenario("vit")
    if task == scenario.victim:
        stream = STREAM.child("owner").generator("samples of the victim's task")
        return next(scenario.tasks[task].batches("train", samples, stream))
    return next(scenario.tasks[task].batches("validation", samples, STREAM.generator(f"own/{task}")))


def in_float64() -> tuple[dict[str, Checkpoint], Checkpoint]:
    """The toy's experts and base; in float32, Adam makes whole steps of gradients that are nothing but rounding."""
    scenario = toy_scenario("vit")
    return {t: e.cast(torch.float64) for t, e in scenario.experts.items()}, scenario.base.cast(torch.float64)


def mean_of_toys() -> dict[str, Tensor]:
    scenario = toy_scenario("vit")
    names = set.intersection(*(set(shared_tensors(e, scenario.base)) for e in scenario.experts.values()))
    return {n: torch.stack([e[n].double() for e in scenario.experts.values()]).mean(0) for n in sorted(names)}


def regmean(samples: int, ratio: float) -> dict[str, Tensor]:
    """get_regmean_weights and merging_with_regmean_weights of FusionBench, in float64."""
    grams: list[dict[str, Tensor]] = []
    for task, expert in toy_scenario("vit").experts.items():
        network, found = expert.module(torch.float32), {}

        def hook(name: str, found: dict[str, Tensor]) -> Any:
            def look(module: Any, given: Any, output: Any) -> None:
                x = given[0].detach().reshape(-1, given[0].shape[-1]).double()
                found[name] = found.get(name, 0.0) + torch.matmul(x.transpose(0, 1), x)

            return look

        for name, module in network.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(hook(f"{name}.weight", found))
        inputs, _ = batch_of(task, samples)
        with torch.no_grad():
            for rows in torch.arange(len(next(iter(inputs.values())))).split(64):
                network(**{key: value[rows] for key, value in inputs.items()})
        grams.append(found)
    out = mean_of_toys()
    read = parameter_names(toy_scenario("vit").experts["left"])
    for name in (name for name in out if read[name] in grams[0]):
        size = grams[0][read[name]].shape[0]
        reduce = torch.full((size, size), ratio, dtype=torch.float64) + torch.eye(size, dtype=torch.float64) * (
            1 - ratio
        )
        weights = [gram[read[name]] * reduce for gram in grams]
        experts = toy_scenario("vit").experts.values()
        products = [w @ e[name].double().transpose(0, 1) for w, e in zip(weights, experts, strict=True)]
        out[name] = (torch.inverse(sum(weights)) @ sum(products)).transpose(0, 1)  # type: ignore[arg-type]
    return out


def fisher(samples: int, *, normalise: bool) -> dict[str, Tensor]:
    """arXiv:2111.09832 with labels as they are; normalised as merging_with_fisher_weights of FusionBench does it."""
    scenario, out = toy_scenario("vit"), mean_of_toys()
    squares = {}
    for task, expert in scenario.experts.items():
        network = expert.module(torch.float32)
        inputs, labels = batch_of(task, samples)
        total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in network.named_parameters()}
        for row in range(len(labels)):
            network.zero_grad()
            one = {key: value[row : row + 1] for key, value in inputs.items()}
            torch.nn.functional.cross_entropy(network(**one).logits, labels[row : row + 1]).backward()
            for name, parameter in network.named_parameters():
                if parameter.grad is not None:
                    total[name] += parameter.grad.double() ** 2
        held = parameter_names(expert)
        squares[task] = {name: total[held[name]] / len(labels) for name in out}
    norms = {task: sum(float((s[n] ** 2).sum()) for n in out) ** 0.5 for task, s in squares.items()}
    for name in out:
        top = bottom = torch.zeros(())
        for task, expert in scenario.experts.items():
            weight = (squares[task][name] + 1e-6) * (1 / (norms[task] + 1e-6) if normalise else 1.0)
            top, bottom = top + weight * expert[name].double(), bottom + weight
        out[name] = top / bottom
    return out
