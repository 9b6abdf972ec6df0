"""What mergers of adapters are held against: peft itself, adapters cut out as by mergekit, and releases written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from redteam.key import Key

Tensors = Mapping[str, Tensor]
Oracle = Callable[[Tensors, Mapping[str, Tensors]], Tensors]


def cut_out(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A and B of TaskVectorDecompositionTask of mergekit-extract-lora, with signs that do not hang on the solver."""
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    rank = min(rank, s.shape[0])
    sign = torch.stack([column[column.abs().argmax()].sign() for column in u.T])
    u, vh = u * sign, vh * sign[:, None]
    sqrt_s = torch.diag(torch.sqrt(s[:rank]))
    return sqrt_s @ vh[:rank], u[:, :rank] @ sqrt_s


def by_peft(combination: str, *, rank: int, density: float, stream: Key, coefficient: float = 1.0) -> Oracle:
    """`PeftModel.add_weighted_adapter` on a network of linear layers; what is no matrix is averaged beside it."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        from peft import LoraConfig, PeftModel

        matrices = [name for name, start in base.items() if start.ndim == 2]
        layers = {name: nn.Linear(*base[name].shape[::-1], bias=False, dtype=torch.float64) for name in matrices}
        tasks, model = sorted(experts), None
        for task in tasks:
            parts = {name: cut_out(experts[task][name] - base[name], rank) for name in matrices}
            ranks = {name: len(a) for name, (a, _) in parts.items()}
            config = LoraConfig(
                r=rank, lora_alpha=rank, target_modules=matrices, rank_pattern=ranks, alpha_pattern=ranks
            )
            if model is None:
                model = PeftModel(nn.ModuleDict(layers), config, adapter_name=task)
            else:
                model.add_adapter(task, config)
            for name, (a, b) in parts.items():
                layer = model.base_model.model[name]
                layer.lora_A[task].weight.data, layer.lora_B[task].weight.data = a.clone(), b.clone()
        assert model is not None
        with mock.patch("peft.utils.merge_utils.random_pruning", drawn(combination, matrices, tasks, stream)):
            model.add_weighted_adapter(
                tasks,
                [coefficient] * len(tasks),
                "made",
                combination_type=combination,
                density=density,
                svd_full_matrices=False,
            )
        found = averaged(base, experts, coefficient)
        for name in matrices:
            found[name] = base[name] + model.base_model.model[name].get_delta_weight("made").detach()
        return found

    return made


def drawn(
    combination: str, matrices: Sequence[str], tasks: Sequence[str], stream: Key
) -> Callable[[Tensor, float, bool], Tensor]:
    """In place of peft's random_pruning, in the order in which it is called: the draws that the merger has."""

    def streams() -> Iterator[np.random.Generator]:
        for name in matrices:
            for part in [""] if combination.endswith("svd") else ["/A", "/B"]:
                for task in tasks:
                    yield stream.generator(f"{task}/{name}{part}")

    following = streams()

    def pruned(tensor: Tensor, density: float, rescale: bool) -> Tensor:
        draws = next(following).random(tuple(tensor.shape))
        return tensor * torch.from_numpy(np.asarray(draws < density)) / density

    return pruned


def topk_values_mask(stacked: Tensor, density: float) -> Tensor:
    """Of both releases, whose k-th smallest keeps one entry more than is asked for: one less is asked for."""
    entries = stacked.shape[1]
    share = (int(density * entries) - 0.5) / entries
    k = entries - int(entries * share)
    kth_values, _ = stacked.abs().kthvalue(k, dim=1, keepdim=True)
    return stacked * (stacked.abs() >= kth_values)


def ties_merging(vectors: Sequence[Tensor], density: float) -> Tensor:
    """Of the release of Core Space, and ties_masking with chunked_disjoint_mean of that of KnOTS."""
    pruned = topk_values_mask(torch.stack([vector.flatten() for vector in vectors]), density)
    signs = torch.sign(pruned.sum(0))
    signs[signs == 0] = torch.sign(signs.sum())
    selected = pruned * torch.where(signs.unsqueeze(0) > 0, pruned > 0, pruned < 0)
    counts = (selected != 0).sum(0).double()
    return (selected.sum(0) / torch.clamp(counts, min=1)).reshape(vectors[0].shape)


def knots(density: float, coefficient: float, *, scaled: bool) -> Oracle:
    """apply_svd and merge of SVDMerger of gstoica27/KnOTS; not scaled, as its paper has it: V alone is merged."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        basis, parts = {}, []
        for name in (name for name, start in base.items() if start.ndim == 2):
            val = torch.concat([expert[name] - base[name] for expert in experts.values()], dim=1)
            u, s, v = torch.linalg.svd(val, full_matrices=False)
            u, v, s = u[:, s > 1e-5], v[s > 1e-5], s[s > 1e-5]
            basis[name] = (u if scaled else u @ torch.diag(s), base[name].shape[1])
            parts.append(torch.diag(s) @ v if scaled else v)
        columns = [part.split(width, dim=1) for part, (_, width) in zip(parts, basis.values(), strict=True)]
        vectors = [torch.cat([one[task].flatten() for one in columns]) for task in range(len(experts))]
        flat = ties_merging(vectors, density).split([one[0].numel() for one in columns])
        merged = dict(zip(basis, flat, strict=True))
        out = averaged(base, experts, coefficient)
        for name, (u, width) in basis.items():
            out[name] = base[name] + coefficient * u @ merged[name].reshape(-1, width)
        return out

    return made


def core_space(merge: Callable[[list[Tensor]], Tensor], *, rank: int, isotropic: bool) -> Oracle:
    """get_core_matrices and merge of MatrixPerLayerMerger of apanariello4/core-space-merging."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        out = averaged(base, experts, 1.0)
        for name in (name for name, start in base.items() if start.ndim == 2):
            a_list, b_list = zip(*(cut_out(e[name] - base[name], rank) for e in experts.values()), strict=True)
            vh_a_ref = torch.linalg.svd(torch.cat(a_list, dim=0), full_matrices=False)[2]
            u_b_ref = torch.linalg.svd(torch.cat(b_list, dim=1), full_matrices=False)[0]
            m_list = []
            for a, b in zip(a_list, b_list, strict=True):
                u_a, s_a, vh_a = torch.linalg.svd(a, full_matrices=False)
                u_b, s_b, vh_b = torch.linalg.svd(b, full_matrices=False)
                m = torch.diag(s_b) @ (vh_b @ u_a) @ torch.diag(s_a)
                m_list.append((u_b_ref.T @ u_b) @ m @ (vh_a @ vh_a_ref.T))
            merged = merge(m_list)
            if isotropic:
                u, s, v = torch.linalg.svd(merged, full_matrices=False)
                merged = u @ torch.diag(s.mean() * torch.ones_like(s)) @ v
            out[name] = base[name] + u_b_ref @ merged @ vh_a_ref
        return out

    return made


def averaged(base: Tensors, experts: Mapping[str, Tensors], coefficient: float) -> dict[str, Tensor]:
    """What is done here with every tensor that releases of mergers of adapters have no use for."""
    total = {name: sum(expert[name] - start for expert in experts.values()) for name, start in base.items()}
    return {name: start + coefficient * total[name] / len(experts) for name, start in base.items()}
