"""NeuLig's formula written out on the toy, with weights built anew in every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from redteam.checkpoint import shared_tensors
from redteam.checkpoint.modules import parameter_names
from redteam.testing import toy_scenario
from redteam.views import MergerView
from tests.mergers.data_oracles import STREAM, batch_of


def neulig(samples: int, steps: int, rate: float) -> dict[str, Tensor]:
    """Every tensor that the experts share; a batch is all samples of a task."""
    toy, order = toy_scenario("vit"), sorted(toy_scenario("vit").experts)
    view = MergerView(toy.experts, toy.base, STREAM)
    names = sorted(shared_tensors(toy.experts["left"], toy.base))
    places = parameter_names(toy.experts["left"])
    data = {task: batch_of(task, samples) for task in order}
    turns = dict.fromkeys(order, 0)

    def answers(task: str, inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            networks = [toy.dressed(toy.experts[one], task).module() for one in order]
            return torch.cat([network(**inputs).logits for network in networks], 1)

    def weighed(weights: Tensor) -> dict[str, Tensor]:
        return {n: sum(w * toy.experts[t][n] for w, t in zip(weights, order, strict=True)) for n in names}  # type: ignore[misc]

    width = answers("left", data["left"][0]).shape[1]
    weight, bias = torch.zeros(len(order), width, requires_grad=True), torch.zeros(len(order), requires_grad=True)
    adam = torch.optim.Adam([weight, bias], lr=rate)
    centre = {name: torch.stack([toy.experts[one][name] for one in order]).mean(0) for name in names}
    for step in range(steps):
        task = order[step % len(order)]
        inputs, labels = data[task]
        rows = torch.from_numpy(view.generator(f"{task}/{turns[task]}").permutation(len(labels)))
        turns[task] += 1
        batch = {key: value[rows] for key, value in inputs.items()}
        weights = nn.functional.linear(answers(task, batch), weight, bias).softmax(-1).mean(0)
        theta = weighed(weights)
        network = toy.dressed(toy.base, task).module()
        there = {places[name]: tensor for name, tensor in theta.items()}
        logits = torch.func.functional_call(network, there, (), batch).logits
        apart = torch.cat([(theta[name] - centre[name]).flatten() for name in names])
        loss = nn.functional.cross_entropy(logits, labels[rows]) + nn.functional.mse_loss(
            apart, torch.zeros_like(apart)
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        every = torch.cat([answers(task, data[task][0]) for task in order])
        final = nn.functional.linear(every, weight, bias).softmax(-1).mean(0)
        assert final.std() > 0.01, "nothing was learned"
        return weighed(final)
