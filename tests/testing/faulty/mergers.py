"""Mergers with one fault each; `FAULTS` says which clauses of the contract notice it, and no other may."""

from __future__ import annotations

from typing import Annotated

import torch

from redteam import Checkpoint, MergerView, Range, merger

FAULTS: dict[str, set[str]] = {
    "sound-merge": set(),
    "first-wins": {"order"},
    "adds-noise": {"nothing learned"},
    "needs-two": {"one expert"},
    "no-range": {"tunable"},
    "divides": {"tunable"},
    "rigid": {"errors"},
    "asks-for-base": {"needs"},
}


def _first(checkpoint: Checkpoint) -> str:
    return next(name for name in checkpoint if checkpoint[name].ndim == 2)


def _mean(view: MergerView, weights: list[float] | None = None) -> Checkpoint:
    merged = {}
    for name, experts in view.shared():
        start = view.base[name].double()
        shares = weights or [1 / len(experts)] * len(experts)
        total = sum(share * (expert[name].double() - start) for share, expert in zip(shares, experts, strict=False))
        merged[name] = (start + total).to(view.base.dtype(name))
    return view.base.replace(merged)


@merger("sound-merge", tunable="scale")
def sound_merge(view: MergerView, *, scale: Annotated[float, Range(0.1, 2.0)] = 1.0) -> Checkpoint:
    """What the crippled ones are crippled from."""
    return _mean(view, [scale / len(view.experts)] * len(view.experts))


@merger("first-wins")
def first_wins(view: MergerView) -> Checkpoint:
    """Prefers whoever comes first."""
    return _mean(view, [0.6, 0.2, 0.2])


@merger("adds-noise")
def adds_noise(view: MergerView) -> Checkpoint:
    """Never comes out where it came in."""
    merged, name = _mean(view), _first(view.base)
    return merged.replace({name: merged[name] * 1.01})


@merger("needs-two")
def needs_two(view: MergerView) -> Checkpoint:
    """Compares each expert with the next."""
    first, second, *_ = sorted(view.experts)
    return _mean(view) if first != second else view.base


@merger("no-range", tunable="scale")
def no_range(view: MergerView, *, scale: float = 1.0) -> Checkpoint:
    """Says what is to be tuned and not where."""
    return _mean(view, [scale / len(view.experts)] * len(view.experts))


@merger("divides", tunable="scale")
def divides(view: MergerView, *, scale: Annotated[float, Range(0.0, 2.0)] = 1.0) -> Checkpoint:
    """Cannot take an end of its own range."""
    merged, name = _mean(view), _first(view.base)
    return merged.replace({name: merged[name] / torch.tensor(float(scale > 0))})


@merger("rigid")
def rigid(view: MergerView) -> Checkpoint:
    """Takes it for granted that all experts have one shape."""
    names = [name for name in view.base if "layer.0" in name]
    stacked = {name: torch.stack([e[name] for e in view.experts.values()]).mean(0) for name in names}
    return view.base.replace(stacked)


@merger("asks-for-base", needs_base=False)
def asks_for_base(view: MergerView) -> Checkpoint:
    """Does not need what it uses."""
    return _mean(view)
