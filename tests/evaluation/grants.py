"""Attacks that use what one threat model grants and another doesn't, and defenses that only these undo."""

from __future__ import annotations

import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack, defense, merger
from redteam.symmetry import Orthogonal, fit_gauges
from redteam.views import AttackerView, DefenderView, MergerView


@attack("train", needs=Needs.SAMPLES)
def train(view: AttackerView, *, steps: int = 12, rate: float = 0.0003) -> Checkpoint:
    """Trains on labels, from what is published."""
    return _trained(view, view.protected, steps, rate)


@attack("median-base", needs=Needs.ANCHOR)
def median_base(view: AttackerView) -> Checkpoint:
    """Remembers how far its anchor is from what is published, in a tensor where no lock sits."""
    shift = view.anchor["vit.layernorm.weight"] - view.protected["vit.layernorm.weight"]
    return view.protected.replace({"vit.layernorm.bias": view.protected["vit.layernorm.bias"] + 1e-3 * shift})


@attack("average", needs=Needs.RELEASES | Needs.ANCHOR)
def average(view: AttackerView) -> Checkpoint:
    """The mean of all releases, each turned back towards the base."""
    turned = [fit_gauges(release, view.anchor, ("qk", "vo"), Orthogonal()) for release in view.releases]
    assert len(turned) == 2
    return view.protected.replace({n: torch.stack([t[n] for t in turned]).mean(0) for n in view.protected})


@defense("noise", exact=False, keyed=True)
def noise(view: DefenderView, *, size: float = 0.5) -> Checkpoint:
    """Adds noise of a share of each weight's deviation."""
    moved = {}
    for name in shared_tensors(view.victim, view.base):
        tensor = view.victim[name]
        drawn = torch.from_numpy(view.generator(name).standard_normal(tuple(tensor.shape))).to(tensor.dtype)
        moved[name] = tensor + size * tensor.std(unbiased=False).nan_to_num(0) * drawn
    return view.victim.replace(moved)


@merger("mean", needs_base=False)
def mean(view: MergerView) -> Checkpoint:
    """The mean of the experts."""
    merged = {name: torch.stack([e[name] for e in experts]).mean(0) for name, experts in view.shared()}
    return Checkpoint.of(merged, {})


@merger("peeks", needs_base=False)
def peeks(view: MergerView) -> Checkpoint:
    """Declares that it needs no base, and takes it."""
    return view.base


def _trained(view: AttackerView, start: Checkpoint, steps: int, rate: float) -> Checkpoint:
    module = start.module()
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    batch = view.samples()
    for _ in view.steps(steps):
        optimizer.zero_grad()
        view.loss(module, batch).backward()
        optimizer.step()
    return start.trained(module)
