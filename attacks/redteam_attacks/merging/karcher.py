"""Karcher mean: the point of the sphere with the least squared angles to all experts."""

from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import without_base
from redteam_attacks.merging.spheres import along, units


@merger(
    "karcher",
    needs_base=False,
    holds={"identical", "order", "permutation", "rotation", "still"},
    paper="Karcher, Riemannian center of mass, 1977; mergekit's `karcher`",
)
def karcher(
    view: MergerView,
    *,
    rounds: Annotated[int, Range(1, 1000)] = 10,
    tolerance: Annotated[float, Range(1e-12, 0.1)] = 1e-5,
) -> Checkpoint:
    """u ← exp_u(mean of log_u û) from the direction of the mean of û = θ / ‖θ‖; × the mean of ‖θ‖. In float64.

    Tensors of norm `tolerance` or less have no direction and count for the norm alone, as in mergekit.

    Args:
        view: The experts.
        rounds: At most how many.
        tolerance: The length of a step, in radians, at which it ends.
    """

    def merge(name: str, experts: dict[str, Checkpoint], dtype: torch.dtype) -> Tensor:
        tensors = [expert[name] for expert in experts.values()]
        unit, norms = units(torch.stack([tensor.to(torch.float64).flatten() for tensor in tensors]))
        directed = unit[norms[:, 0] > tolerance]
        if not len(directed):
            return torch.stack([tensor.to(torch.float64) for tensor in tensors]).mean(0).to(dtype)
        mean = directed.mean(0)
        u = mean / mean.norm() if mean.norm() >= tolerance else directed[0]
        for _ in range(rounds):
            cos = (directed @ u).clamp(-1, 1)
            angle = cos.arccos()
            stretch = torch.where(angle >= tolerance, angle / angle.sin(), 0.0)
            step = (stretch[:, None] * (directed - cos[:, None] * u)).mean(0)
            if step.norm() < tolerance:
                break
            u = along(u, step)
            u = u / u.norm()
        return (norms.mean() * u).to(dtype).reshape(tensors[0].shape)

    return without_base(view, merge)
