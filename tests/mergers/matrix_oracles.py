"""What mergers that take a matrix as a matrix are held against: releases written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Formula = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""The change of a tensor from what it is in the base and its task vectors."""


def matrices(formula: Formula) -> Formula:
    """Else the mean, as all releases have it."""
    return lambda start, taus: formula(start, taus) if start.ndim == 2 else sum(taus) / len(taus)  # type: ignore[return-value]


def tsv(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
    """compute_and_sum_svd_mem_reduction of AntoAndGar/task_singular_vectors."""
    for i, tau in enumerate(taus):
        u, s, v = torch.linalg.svd(tau, full_matrices=False)
        if i == 0:
            sum_u, sum_s, sum_v = torch.zeros_like(u), torch.zeros_like(s), torch.zeros_like(v)
        reduced = int(s.shape[0] * (1 / len(taus)))
        sum_u[:, i * reduced : (i + 1) * reduced] = u[:, :reduced]
        sum_s[i * reduced : (i + 1) * reduced] = s[:reduced]
        sum_v[i * reduced : (i + 1) * reduced, :] = v[:reduced, :]
    u_u, _, v_u = torch.linalg.svd(sum_u, full_matrices=False)
    u_v, _, v_v = torch.linalg.svd(sum_v, full_matrices=False)
    return u_u @ v_u @ torch.diag(sum_s) @ u_v @ v_v


def iso_c(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
    """iso_c of danielm1405/iso-merging."""
    u, s, v = torch.linalg.svd(torch.stack(list(taus)).sum(0), full_matrices=False)
    return u @ torch.diag(torch.ones_like(s) * s.mean()) @ v


def iso_cts(share: float) -> Formula:
    """iso_cts of danielm1405/iso-merging."""

    def made(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
        short, count = min(start.shape), len(taus)
        common = int(short * share)
        common = short - round((short - common) / count) * count
        u, s, v = torch.linalg.svd(torch.stack(list(taus)).sum(0), full_matrices=False)
        common_u, common_s, common_v = u[:, :common], s[:common], v[:common, :]
        each = int((short - common) / count)
        all_u, all_s, all_v = torch.zeros_like(u), torch.zeros_like(s), torch.zeros_like(v)
        for i, tau in enumerate(taus):
            u, s, v = torch.linalg.svd(tau - common_u @ common_u.T @ tau, full_matrices=False)
            all_u[:, i * each : (i + 1) * each] = u[:, :each]
            all_s[i * each : (i + 1) * each] = s[:each]
            all_v[i * each : (i + 1) * each, :] = v[:each, :]
        all_u[:, count * each : count * each + common] = common_u
        all_s[count * each : count * each + common] = common_s
        all_v[count * each : count * each + common, :] = common_v
        u_u, _, v_u = torch.linalg.svd(all_u, full_matrices=False)
        u_v, _, v_v = torch.linalg.svd(all_v, full_matrices=False)
        return u_u @ v_u @ torch.diag(torch.ones_like(all_s) * all_s.mean()) @ u_v @ v_v

    return made


def wudi(ridge: float) -> Formula:
    """Where the loss of nathanielyvo/WUDI-Merging is least, beside a ridge."""

    def made(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
        target, gram = torch.zeros_like(start), ridge * torch.eye(start.shape[1], dtype=torch.float64)
        for tau in taus:
            target = target + tau @ (tau.T @ tau) / torch.norm(tau) ** 2
            gram = gram + tau.T @ tau / torch.norm(tau) ** 2
        return target @ torch.linalg.inv(gram)

    return made


def actmat(weights: Sequence[float]) -> Formula:
    """merge_actmat of marawangamal/actmat, with pinv's cutoff in float32; its weights are 1."""

    def made(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
        d = torch.stack(list(taus))
        c = torch.tensor(weights, dtype=torch.float64)[:, None, None] * (d.transpose(1, 2) @ d)
        eps = torch.finfo(torch.float32).eps
        return (d @ c).sum(dim=0) @ torch.linalg.pinv(c.sum(dim=0), rtol=c.shape[1] * eps)

    return made


def cart(share: float, prior: float) -> Callable[[Tensors, Mapping[str, Tensors]], Tensors]:
    """_get_truncated_task_vectors and _merge_weights of JH-GEECS/CART."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        out = {}
        for name, start in base.items():
            average = start + sum(e[name] - start for e in experts.values()) / len(experts)
            total = torch.zeros_like(start)
            for expert in experts.values():
                value = expert[name] - average
                if start.ndim == 2:
                    u, s, v = torch.linalg.svd(value, full_matrices=False)
                    dim = max(1, int(share * s.shape[0]))
                    value = (u[:, :dim] * s[:dim]) @ v[:dim, :]
                total = total + value
            out[name] = average + prior * total
        return out

    return made
