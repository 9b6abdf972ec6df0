"""Victims that controls put in the victim's place: under planted locks, drowned in noise, moved to another length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import IllegalGauge
from redteam.evaluation import metrics
from redteam.key import Key
from redteam.symmetry import GROUPS
from redteam.symmetry.fitting import sampled_locks

Plants = Mapping[str, set[str]]
"""Kind of site → the tensors at which a lock of it was planted."""

_DROWNED = 2.0**0.5  # ‖noise‖ ÷ ‖W‖ where a lock is to leave nothing to find


def planted(
    source: Checkpoint, claims: Sequence[Sequence[str]], key: Key, changed: set[str] | None
) -> tuple[Checkpoint, Plants]:
    """A lock from each claimed group at its kind of site, one after the other; lazy.

    Args:
        source: The victim.
        claims: (kind of site, name of the group); those that the architecture does not allow are left out.
        key: Gives each claim a stream of its own.
        changed: Names of tensors: only sites that hold one of them are locked. All sites by default.

    Raises:
        IllegalGauge: If none of the claims can be planted here.
    """
    plants: dict[str, set[str]] = {}
    refused: IllegalGauge | None = None
    for kind, name in claims:
        stream = key.child(f"plant {name} at {kind}")
        try:
            drawn = sampled_locks(source, (kind,), _group(kind, name), partial(_of_site, stream))
        except IllegalGauge as error:
            refused = error
            continue
        for lock in drawn:
            touched = tuple(site for site in lock.sites if changed is None or changed & set(site.names))
            if touched:
                source = replace(lock, sites=touched).put_on(source)
                plants.setdefault(kind, set()).update(name for site in touched for name in site.names)
    if not plants:
        raise refused or IllegalGauge("The defense changes no site that the attack claims to undo.")
    return source, plants


def _of_site(stream: Key, label: str) -> np.random.Generator:
    return stream.generator(f"0/{label}")


def _group(kind: str, name: str) -> Any:
    """What is planted; where it is one number for a whole stream, the largest, since a random one may be close to 1."""
    group: Any = GROUPS[name]()
    return replace(group, scale=(group.scale[1], group.scale[1])) if kind == "norm-scale" else group


def drowned(victim: Checkpoint, base: Checkpoint, key: Key) -> Checkpoint:
    """The victim under noise √2 times as large as each tensor: nothing that an attack without data could find; lazy."""

    def noisy(name: str) -> torch.Tensor:
        tensor = victim[name].to(torch.float64)
        noise = torch.from_numpy(np.asarray(key.generator(name).standard_normal(tuple(tensor.shape)))).to(tensor.device)
        scale = _DROWNED * tensor.norm() / noise.norm().clamp_min(torch.finfo(torch.float64).tiny)
        moved: torch.Tensor = tensor + scale * noise
        return moved.to(victim.dtype(name))

    return victim.replace(Checkpoint.computed(victim.outline(shared_tensors(victim, base)), noisy))


def rescaled(victim: Checkpoint, base: Checkpoint, length: float) -> Checkpoint:
    """The victim with a task vector of another length: what a free-rider is free to choose; lazy."""
    before = metrics.length(victim, base)
    factor = length / before if before else 1.0

    def longer(name: str) -> torch.Tensor:
        moved: torch.Tensor = base[name] + (factor * (victim[name] - base[name])).to(base.dtype(name))
        return moved

    return victim.replace(Checkpoint.computed(base.outline(shared_tensors(victim, base)), longer))
