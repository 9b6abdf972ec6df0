"""The certificate of a lock: how far it changes the outputs, exactly and as stored, and how ill-conditioned it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redteam.anatomy import Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry.canonicals import canonical
from redteam.symmetry.groups import widest

STORED = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes in which a release is tried."""

_NO_GAUGE = 1e-6  # a fit that leaves more than this share of the stacks is no change of basis


@dataclass(frozen=True)
class Certificate:
    """What a rewrite did to a network on some inputs. A change is `max|Δ| / max|output|`, computed in float64.

    Attributes:
        change: With the weights as they are.
        stored: By dtype: with the rewritten weights rounded to it, against the original unrounded.
        rounding: By dtype: with the original weights rounded to it, against the same; what storing costs anyway.
        conditions: By site label, the largest condition number of the change of basis found there; NaN where a site
            changed by something else, absent where nothing changed.
    """

    change: float
    stored: Mapping[str, float]
    rounding: Mapping[str, float]
    conditions: Mapping[str, float]


def certify(before: Checkpoint, after: Checkpoint, inputs: Mapping[str, Tensor]) -> Certificate:
    """Compares two checkpoints of one architecture, whose sites are looked at, on some inputs.

    Args:
        before: The original.
        after: The rewritten one.
        inputs: The module's keyword arguments, such as `{"pixel_values": [n, c, h, w]}`.

    Raises:
        BadInput: If the architecture is not known, or a tensor holds NaN or infinity.
    """
    exact = _outputs(before, inputs)

    def change(checkpoint: Checkpoint) -> float:
        delta = (_outputs(checkpoint, inputs) - exact).abs().max() / exact.abs().max()
        return float(delta.nan_to_num(nan=math.inf))

    names = {str(dtype).removeprefix("torch."): dtype for dtype in STORED}
    return Certificate(
        change=change(after),
        stored={name: change(after.to(dtype)) for name, dtype in names.items()},
        rounding={name: change(before.to(dtype)) for name, dtype in names.items()},
        conditions={
            site.label: _condition(site, before, after)
            for site in anatomy_of(before).sites()
            if any(not torch.equal(before[name], after[name]) for name in site.names)
        },
    )


def _outputs(checkpoint: Checkpoint, inputs: Mapping[str, Tensor]) -> Tensor:
    module: nn.Module = checkpoint.module(torch.float64)
    with torch.no_grad():
        found = module(**{k: v.to(torch.float64) if v.is_floating_point() else v for k, v in inputs.items()})
    if isinstance(found, Tensor):
        return found
    logits = getattr(found, "logits", None)
    parts = found if isinstance(found, tuple) else found.to_tuple()
    return logits if isinstance(logits, Tensor) else next(x for x in parts if isinstance(x, Tensor))


def _condition(site: Site, before: Checkpoint, after: Checkpoint) -> float:
    old, new = canonical(site, before), canonical(site, after)
    gauge = widest(site).fit(old, new)
    size = float(new.left.square().sum() + new.right.square().sum())
    if not old.moved(gauge).distance(new) <= _NO_GAUGE**2 * size:
        return math.nan
    return float(gauge.condition().max())
