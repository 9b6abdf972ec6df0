"""What mergers that keep every expert whole, and MDM-OC, are held against: releases and papers written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]
Oracle = Callable[[Tensors, Mapping[str, Tensors]], Tensors]


def emr_release(deltas: Sequence[Tensors], *, flat: bool) -> list[dict[str, Tensor]]:
    """τ_uni · mask · rescaler of every task, as EMR's release computes them: for CLIP, or with vectors laid flat."""
    shapes = {name: delta.shape for name, delta in deltas[0].items()}
    if flat:
        deltas = [{"": torch.cat([delta.reshape(-1) for delta in one.values()])} for one in deltas]
    unified, masks = {}, {}
    scales, kept = torch.zeros(len(deltas)).double(), torch.zeros(len(deltas)).double()
    for name in deltas[0]:
        flag = (torch.stack([one[name] for one in deltas]).mean(0) > 0) * 2 - 1
        largest = torch.zeros_like(deltas[0][name])
        masks[name] = [(one[name] * flag) > 0 for one in deltas]
        for task, one in enumerate(deltas):
            size = (masks[name][task] * one[name]).abs()
            largest = torch.where(size > largest, size, largest)
            scales[task] += one[name].abs().mean()
        unified[name] = largest * flag
    for task in range(len(deltas)):
        for name, vector in unified.items():
            kept[task] += (vector * masks[name][task]).abs().mean()
    made = [
        {name: unified[name] * masks[name][task] * scales[task] / kept[task] for name in unified}
        for task in range(len(deltas))
    ]
    if not flat:
        return made
    parts = [one[""].split([shape.numel() for shape in shapes.values()]) for one in made]
    return [{n: p.reshape(s) for (n, s), p in zip(shapes.items(), one, strict=True)} for one in parts]


def smile_layer(
    linear: nn.Linear, tuned: Sequence[tuple[Tensor, Tensor | None]], inputs: Tensor, *, gate: int, k: int, top: int
) -> Tensor:
    """SmileMoELinear of FusionBench with routing_use_diff, on `[n, in]`; of each expert weight and bias."""
    deltas = [weight - linear.weight for weight, _ in tuned]
    found = [torch.linalg.svd(delta, full_matrices=True) for delta in deltas]
    seen = torch.stack([v[:gate] for _, _, v in found]).reshape(len(tuned) * gate, -1)
    logits = (inputs @ seen.T).view(len(inputs), len(tuned), gate).norm(p=2, dim=2)
    weights, chosen = torch.topk(logits.softmax(1), top, dim=-1)
    weights = weights / weights.sum(-1, keepdim=True)
    rows = []
    for row, weight, which in zip(inputs, weights, chosen, strict=True):
        out = linear(row)
        for share, expert in zip(weight, which.tolist(), strict=True):
            u, s, v = found[expert]
            rank = min(k, len(s))
            low = u[:, :rank] @ ((s[:rank, None] * v[:rank]) @ row)
            bias = tuned[expert][1]
            out = out + share * (low if bias is None else low + bias - linear.bias)
        rows.append(out)
    return torch.stack(rows)


def gram_schmidt(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Each vector less its projections on what came of those before it."""
    made: list[Tensor] = []
    for vector in vectors:
        left = vector.clone()
        for before in made:
            left -= (vector @ before) / (before @ before) * before
        made.append(left)
    return made


def emr(*, flat: bool) -> Oracle:
    """What runs on the task of the first expert."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        first = emr_release([{n: e[n] - base[n] for n in base} for e in experts.values()], flat=flat)[0]
        return {name: base[name] + first[name] for name in base}

    return made


def smile(*, gate: int, k: int, top: int) -> Oracle:
    """Of each matrix Σ f(v) vᵀ over the right singular vectors of the base's; the rest is the base's."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        out = dict(base)
        for name, start in base.items():
            if start.ndim == 2:
                linear = nn.Linear(*start.shape[::-1], bias=False, dtype=start.dtype)
                linear.weight = nn.Parameter(start, requires_grad=False)
                directions = torch.linalg.svd(start).Vh
                tuned = [(expert[name], None) for expert in experts.values()]
                out[name] = smile_layer(linear, tuned, directions, gate=gate, k=k, top=top).T @ directions
        return out

    return made


def mdm_oc(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
    """λ = 0.3, experts in order of their names."""
    names = sorted(base)
    flat = [torch.cat([(experts[t][n] - base[n]).reshape(-1) for n in names]) for t in sorted(experts)]
    parts = (0.3 * torch.stack(gram_schmidt(flat)).sum(0)).split([base[n].numel() for n in names])
    return {n: base[n] + part.reshape(base[n].shape) for n, part in zip(names, parts, strict=True)}
