"""The certificate of a rewrite: how far it changes a network's outputs, exactly and as stored, and its condition.

It builds the network, once for each dtype and each of the two checkpoints, one at a time: the one thing here that needs
transformers and the memory of a whole network in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from redteam.anatomy import Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry.alignment import Comparison
from redteam.symmetry.fitting import moved
from redteam.symmetry.gauges import Gauge
from redteam.symmetry.groups import largest_legal_group
from redteam.symmetry.running import inputs_for, run_network

STORED = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes in which a release is tried."""

EXACT = 1e-8
"""The largest change in float64 of a rewrite that keeps the function. Legal locks of condition up to 1e4 stay under
1e-10; what isn't legal changes outputs by a hundredth and more."""

LIMITS: Mapping[str, float] = {"float32": 100.0, "bfloat16": 3.0, "float16": 10.0}
"""By dtype: the most that the rewritten network may change in it, in multiples of what the original changes there.

bfloat16 is already the coarsest that models are published in; a vo lock of condition 100 on a small Llama costs four
times its rounding and moves the outputs visibly. The finer dtypes have room: float16 rounds 8 times and float32 65,000
times finer, so that at these multiples neither costs much more than plain bfloat16 costs anyone."""

_NO_GAUGE = 1e-6  # a fit that leaves more than this share of the stacks is no change of basis


@dataclass(frozen=True)
class Certificate:
    """What a rewrite did to a network on some inputs.

    A change is `max|Δ| / max|output|` against the original in float64, the largest over the outputs. In float64 the
    norms' and softmax's casts to float32 are lifted; in other dtypes weights and computation both have that dtype, as
    where the release is used.

    Attributes:
        change: In float64, with the weights as they are.
        dtype: The coarsest dtype in which the rewritten weights came; below float64, `change` holds its rounding.
        stored: By dtype, of the rewritten network.
        rounding: By dtype, of the original: what that dtype costs anyway.
        conditions: By site label, the largest condition number of the change of basis found there; NaN where a site
            changed by something else, absent where nothing changed.
    """

    change: float
    stored: Mapping[str, float]
    rounding: Mapping[str, float]
    conditions: Mapping[str, float]
    dtype: str = "float64"

    @property
    def limit(self) -> float:
        """The most that `change` may be: `EXACT`, or a multiple of what the dtype of the weights costs anyway."""
        return self.bound("float64")

    def bound(self, dtype: str) -> float:
        """The most that the outputs may change in a dtype; weights that came in a coarser one are held to that."""
        return max(EXACT, *(LIMITS[name] * self.rounding[name] for name in (dtype, self.dtype) if name in LIMITS), 0.0)

    def losses(self, dtypes: Iterable[str] | None = None) -> tuple[str, ...]:
        """A sentence on every loss that is over its bound; none if the rewrite costs nothing that counts.

        Args:
            dtypes: Those in which it will be used, besides float64, where it must be exact; all by default.
        """
        found = []
        if not self.change <= self.limit:
            found.append(
                f"In float64 the outputs change by {_share(self.change)}; a rewrite that keeps the function stays "
                f"under {_share(self.limit)}, so this one does not keep it, or is too ill-conditioned."
            )
        for name in self.stored if dtypes is None else [name for name in self.stored if name in set(dtypes)]:
            loss, anyway = self.stored[name], self.rounding[name]
            if not loss <= self.bound(name):
                found.append(
                    f"In {name} the outputs change by {_share(loss)}, and by {_share(anyway)} without the rewrite; "
                    f"expected at most {_share(self.bound(name))}, so narrow the lock's range or store it finer."
                )
        return tuple(found)

    def exceeds(self, dtypes: Iterable[str] | None = None) -> bool:
        """Whether any loss is over its bound; `dtypes` as in `losses`."""
        return bool(self.losses(dtypes))

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is not finite is None there."""
        return {**_finite(asdict(self)), "limit": self.limit, "losses": list(self.losses())}

    def __str__(self) -> str:
        """Some lines for people."""
        lines = [f"float64: the outputs change by {_share(self.change)} (bound {_share(self.limit)})"]
        lines += [
            f"{name}: by {_share(loss)}, and by {_share(self.rounding[name])} without the rewrite "
            f"(bound {_share(self.bound(name))})"
            for name, loss in self.stored.items()
        ]
        known = {label: value for label, value in self.conditions.items() if not math.isnan(value)}
        other = len(self.conditions) - len(known)
        if known:
            worst = max(known, key=known.__getitem__)
            lines.append(
                f"condition: at most {known[worst]:.3g} (at {worst}), over {len(known)} sites that changed basis"
            )
        if other:
            lines.append(f"{other} sites changed by something else than a change of basis")
        return "\n".join((*lines, *self.losses()))


def certify(
    before: Checkpoint, after: Checkpoint, inputs: Mapping[str, Tensor] | None = None, *, seed: int = 0
) -> Certificate:
    """Compares two checkpoints of one architecture, whose sites are looked at, on random inputs and on given ones.

    Args:
        before: The original.
        after: The rewritten one. Before it was rounded to the original's dtype, if its exactness is in question.
        inputs: Real ones beside the random ones: the module's keyword arguments, such as
            `{"pixel_values": [n, c, h, w]}`.
        seed: Of the random inputs.

    Raises:
        BadInput: If the architecture is not known, no inputs can be made up, the network does not run on them, or a
            tensor holds NaN or infinity.
        NotACheckpoint: If the network cannot be built.
    """
    tried = inputs_for(before, inputs, seed)
    exact = run_network(before, tried, torch.float64)
    names = {str(dtype).removeprefix("torch."): dtype for dtype in STORED}
    return Certificate(
        change=run_network(after, tried, torch.float64).change(exact),
        stored={name: run_network(after, tried, dtype).change(exact) for name, dtype in names.items()},
        rounding={name: run_network(before, tried, dtype).change(exact) for name, dtype in names.items()},
        conditions=_conditions(before, after),
        dtype=_coarsest(before, after),
    )


def _coarsest(before: Checkpoint, after: Checkpoint) -> str:
    """Of the dtypes of the floating tensors that the rewrite changed."""
    changed = {
        after.dtype(name)
        for name in after
        if after.dtype(name).is_floating_point and (name not in before or not torch.equal(after[name], before[name]))
    }
    return str(max(changed, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)).removeprefix("torch.")


def _differs(site: Site, before: Checkpoint, after: Checkpoint) -> bool:
    return any(name not in after or not torch.equal(before[name], after[name]) for name in site.names)


def _conditions(before: Checkpoint, after: Checkpoint) -> dict[str, float]:
    found: dict[str, float] = {}
    for site in anatomy_of(before).sites():
        if not _differs(site, before, after):
            continue
        gauge = _gauge(site, before, after)
        found[site.label] = math.nan if gauge is None else float(gauge.condition().max())
        if gauge is not None and any(side.shared for side in site.sides):
            before = moved(before, (site,), _always(gauge))  # what it shares with the next site follows
    return found


def _always(gauge: Gauge) -> Callable[[Site], Gauge]:
    return lambda site: gauge


def _gauge(site: Site, before: Checkpoint, after: Checkpoint) -> Gauge | None:
    """The change of basis between the two, None if it is something else."""
    if any(name not in after or before.shape(name) != after.shape(name) for name in site.names):
        return None
    old, new = Comparison(before, after)(site)
    gauge = largest_legal_group(site).fit(old, new)
    size = float(new.left.square().sum() + new.right.square().sum())
    return gauge if old.moved(gauge).distance(new) <= _NO_GAUGE**2 * size else None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _share(value: float) -> str:
    return f"{value:.1e}" if value < 1e-3 else f"{value:.2g}" if math.isfinite(value) else "no finite number"
