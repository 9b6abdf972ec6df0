"""How alike whole heads are, whatever gauge each of them is in: what a permutation of heads is fitted by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from redteam.anatomy import Side, Site, Stacks
from redteam.checkpoint import Checkpoint
from redteam.symmetry.canonicals import without_freedom
from redteam.symmetry.gauges import MonomialGauge
from redteam.symmetry.screening import sampled


@dataclass(frozen=True, eq=False)
class Heads:
    """The canonical maps of a layer's attention, float64.

    Attributes:
        query: [G, r, n, a], a head's bias as one more column.
        key: [G, n, c].
        value: [G, m, e].
        output: [G, r, m, f], columns transposed.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor

    @classmethod
    def read(cls, attention: Site, checkpoint: Checkpoint, *, sample: bool = False) -> Heads:
        """From a layer's site of the kind heads.

        Args:
            attention: The site.
            checkpoint: Whose heads.
            sample: Look at some columns alone (`redteam.symmetry.screening`), without biases.

        Raises:
            BadInput: If a tensor holds NaN or infinity.
        """
        key, value, *_ = attention.left_too
        groups = attention.width

        def flat(side: Side) -> Tensor:
            if sample:
                return sampled(side, checkpoint)
            affine = without_freedom(side.linear, side.linear.read(checkpoint), checkpoint)
            return replace(side, unit=1).stack(affine, 1)[0]

        return cls(
            flat(attention.left).unflatten(0, (groups, -1, key.unit)),
            flat(key).unflatten(0, (groups, key.unit)),
            flat(value).unflatten(0, (groups, value.unit)),
            flat(attention.pair[1]).unflatten(0, (groups, -1, value.unit)),
        )

    def likeness(self, other: Heads) -> tuple[Tensor, Tensor]:
        """`cos²` between `Wqᵀ Wk` of every two heads, and between `Wo Wv`: [G, r, G, r] each.

        No gauge of a head changes these products. They are compared without being formed, since
        `⟨Wqᵀ Wk, Wq₀ᵀ Wk₀⟩ = Σ_ij (Wq Wq₀ᵀ)_ij (Wk Wk₀ᵀ)_ij` needs n × n matrices alone.
        """
        return (
            _cosines(self.query, self.key, other.query, other.key).square(),
            _cosines(self.output, self.value, other.output, other.value).square(),
        )


def paired_features(site: Site, moving: Heads, target: Heads) -> tuple[Stacks, Stacks]:
    """Stacks whose rows stand for heads, such that two rows' product says how alike the heads are.

    The likenesses within and between two checkpoints make one matrix that is positive semidefinite, and its square
    root holds a row for every head. A group's likeness to another is the sum over their query heads, which no order
    of those changes. Rows have length 1, but for heads of zeros.

    Args:
        site: Of the kind heads (rows are groups) or queries (rows are the query heads of each group).
        moving: Of the checkpoint to be moved.
        target: Of the anchor.
    """
    blocks = [[one.likeness(other) for other in (moving, target)] for one in (moving, target)]
    left, right = (
        _root(torch.cat([torch.cat([_block(site, pair[which]) for pair in row], -1) for row in blocks], -2))
        for which in (0, 1)
    )
    n = site.width
    return Stacks(left[:, :n], right[:, :n]), Stacks(left[:, n:], right[:, n:])


def matched(site: Site, moving: Heads, target: Heads) -> MonomialGauge | None:
    """The order of heads that sampled columns show beyond doubt; None where there is any.

    There is none if every head of the anchor is at least half as like one head as heads can be, at most half as like
    any other, and every head is the likest of one.
    """
    alike = sum(_block(site, likeness) for likeness in target.likeness(moving))
    assert isinstance(alike, Tensor)
    possible = 2.0 * (target.query.shape[1] if site.kind == "heads" else 1)
    best = alike.topk(min(2, site.width), dim=-1)
    first, second = best.values[..., 0], best.values[..., -1] if site.width > 1 else torch.zeros_like(alike[..., 0])
    index = best.indices[..., 0]
    complete = (index.sort(-1).values == torch.arange(site.width, device=index.device)).all()
    clear = ((first >= possible / 2) & (second <= first / 2)).all()
    return MonomialGauge(index) if bool(complete & clear) else None


def _block(site: Site, likeness: Tensor) -> Tensor:
    if site.kind == "heads":
        return likeness.sum((1, 3))[None]
    return likeness.diagonal(dim1=0, dim2=2).movedim(-1, 0)


def _root(kernel: Tensor) -> Tensor:
    size = kernel.diagonal(dim1=-2, dim2=-1).sqrt()
    size = torch.where(size > 0, size, 1.0)
    values, vectors = torch.linalg.eigh(kernel / size[:, :, None] / size[:, None, :])
    root: Tensor = vectors * values.clamp(min=0).sqrt()[:, None, :]
    return root


def _cosines(many: Tensor, one: Tensor, many0: Tensor, one0: Tensor) -> Tensor:
    """Between `many[g, h]ᵀ one[g]` and `many0[g′, h′]ᵀ one0[g′]`, [G, r, G, r]; 0 for heads of zeros."""
    size, size0 = _sizes(many, one), _sizes(many0, one0)
    product = (
        torch.einsum("grna,hsma->grnhsm", many, many0) * torch.einsum("gnc,hmc->gnhm", one, one0)[:, None, :, :, None]
    )
    return product.sum((2, 5)) / size[:, :, None, None] / size0


def _sizes(many: Tensor, one: Tensor) -> Tensor:
    """[G, r], `‖many[g, h]ᵀ one[g]‖`, infinite for zero."""
    square = ((many @ many.mT) * (one @ one.mT)[:, None]).sum((-2, -1))
    return torch.where(square > 0, square.sqrt(), torch.inf)
