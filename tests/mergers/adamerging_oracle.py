"""AdaMerging's release written out on the toy: its loop over tasks, and the vectors of AdaMerging++."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from redteam.checkpoint import shared_tensors
from redteam.checkpoint.modules import parameter_names
from redteam.testing import toy_scenario
from redteam.views import MergerView
from tests.mergers.data_oracles import STREAM, batch_of, in_float64


def softmax_entropy(x: Tensor) -> Tensor:
    return -(x.softmax(1) * x.log_softmax(1)).sum(1)


def ties_merging_split(flat_task_checks: Tensor, share: float) -> Tensor:
    """Its selected entries. The release keeps one entry more than the share, and looks for signs of zero sums."""
    checks = flat_task_checks.clone()
    d = checks.shape[1]
    kth_values, _ = checks.abs().kthvalue(d - int(d * share) + 1, dim=1, keepdim=True)
    checks = checks * (checks.abs() >= kth_values)
    sign = torch.sign(checks.sum(dim=0))
    sign[sign == 0] = torch.sign(sign.sum())
    return checks * torch.where(sign.unsqueeze(0) > 0, checks > 0, checks < 0)


def adamerging(samples: int, steps: int, lr: float, *, layer_wise: bool, plus: bool) -> dict[str, Tensor]:
    """main_layer_wise_adamerging.py, main_task_wise_adamerging.py and their ++; the toy's tasks in order of names."""
    toy, exam_datasets = toy_scenario("vit"), sorted(toy_scenario("vit").experts)
    names = sorted(shared_tensors(toy.experts["left"], toy.base))
    experts, base = in_float64()
    pretrained = tuple(base[name] for name in names)
    vectors = [tuple(experts[t][n] - base[n] for n in names) for t in exam_datasets]
    if plus:
        flat = ties_merging_split(torch.stack([torch.cat([v.flatten() for v in one]) for one in vectors]), 0.2)
        sizes = [p.numel() for p in pretrained]
        vectors = [tuple(v.reshape(p.shape) for v, p in zip(row.split(sizes), pretrained, strict=True)) for row in flat]
    paramslist = [pretrained, *vectors]
    rlambdas = torch.ones(len(names) if layer_wise else 1, len(exam_datasets), dtype=torch.float64) * 0.3
    lambdas_raw = nn.Parameter(rlambdas)
    pretrain_lambdas = torch.ones(len(lambdas_raw), 1)
    optimizer = torch.optim.Adam([lambdas_raw], lr=lr, betas=(0.9, 0.999), weight_decay=0.0)
    networks = {task: toy.dressed(toy.base, task).module(torch.float64) for task in exam_datasets}
    places = parameter_names(toy.experts["left"])
    view = MergerView(toy.experts, toy.base, STREAM)
    inputs = {task: batch_of(task, samples)[0] for task in exam_datasets}

    def merged() -> tuple[Tensor, ...]:
        alph = torch.cat((pretrain_lambdas, torch.clamp(lambdas_raw, min=0.0, max=1.0)), 1)
        rows = alph if layer_wise else alph.expand(len(names), -1)
        return tuple(
            sum(pi * lambdasi for pi, lambdasi in zip(p, rows[j], strict=True))  # type: ignore[misc]
            for j, p in enumerate(zip(*paramslist, strict=True))
        )

    for epoch in range(steps):
        losses: Tensor = torch.zeros(())
        for dataset_name in exam_datasets:
            order = torch.from_numpy(view.generator(f"{dataset_name}/{epoch}").permutation(samples))
            for rows in order.split(16)[:2]:  # the release stops after its second batch
                there = {places[name]: tensor for name, tensor in zip(names, merged(), strict=True)}
                data = {key: value[rows] for key, value in inputs[dataset_name].items()}
                outputs = torch.func.functional_call(networks[dataset_name], there, (), data).logits
                losses = losses + softmax_entropy(outputs).mean(0)
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
    with torch.no_grad():
        assert (lambdas_raw - 0.3).abs().max() > 0.01, "nothing was learned"
        return dict(zip(names, merged(), strict=True))
