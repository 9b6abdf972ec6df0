"""Task vectors weighed: one pass over a base and models made from it, a tensor of two of them in memory at a time."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import torch

from redteam.anatomy.alike import finite
from redteam.audit.tensors import standing
from redteam.audit.walk import Progress
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput
from redteam.symmetry.shelved import squared_distance

FAR = 0.3
"""Distance of a weight matrix to the base's, in units of its norm, that fine-tunes stay below: full fine-tunes of
language models and ViTs move theirs by 0.001 to 0.1, and the experts of the scenario digits by up to 0.21."""


@dataclass(eq=False)
class Weighed:
    """How the tensors that a model shares with its base stand to it.

    Attributes:
        shared: Their names.
        apart: Squared distance to the base of each that is finite and of floating point.
        size: The base's squared norm there.
        matrices: Which of these have two axes or more.
        same: Those that are the base's, bit for bit or rounded to the model's dtype.
        rounded: Squared distance that is lost where the model is stored as the base is, over tensors of other dtypes.
        refused: Tensors with NaN or infinity that the base has not → what `redteam merge` says of them.
        overflowing: Tensors with numbers that the base's dtype cannot hold → what storing them says.
    """

    shared: tuple[str, ...]
    apart: dict[str, float] = field(default_factory=dict)
    size: dict[str, float] = field(default_factory=dict)
    matrices: list[str] = field(default_factory=list)
    same: set[str] = field(default_factory=set)
    rounded: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    overflowing: dict[str, str] = field(default_factory=dict)

    @property
    def is_base(self) -> bool:
        """Whether it has learned nothing that a merge could take."""
        return len(self.same) == len(self.shared)

    @property
    def length(self) -> float | None:
        """‖τ‖ / ‖base‖, None where that is no finite number."""
        size = sum(self.size.values())
        found = math.sqrt(sum(self.apart.values()) / size) if size else math.inf
        return found if math.isfinite(found) and not self.refused else None

    def moved(self, name: str) -> float:
        """How far one of the tensors is from the base's, in units of its norm; 0 where that has none."""
        return math.sqrt(self.apart[name] / self.size[name]) if self.size[name] else 0.0

    @property
    def over_matrices(self) -> tuple[float, float]:
        """Distance over all weight matrices, in units of the base's norm, and the largest of a single one."""
        apart, size = (sum(held[name] for name in self.matrices) for held in (self.apart, self.size))
        return math.sqrt(apart / size) if size else 0.0, max(map(self.moved, self.matrices), default=0.0)

    @property
    def by_layer(self) -> dict[str, float]:
        """Numbered block, such as `"model.layers.3"` → how far its tensors are from the base's, in its norm."""
        apart, size = defaultdict[str, float](float), defaultdict[str, float](float)
        for name in self.apart:
            if match := re.match(r"((?:.*?\.)?\d+)\.", name):
                apart[match[1]] += self.apart[name]
                size[match[1]] += self.size[name]
        return {layer: math.sqrt(apart[layer] / size[layer]) for layer in apart if size[layer]}


def weigh(models: Mapping[str, Checkpoint], base: Checkpoint, progress: Progress | None = None) -> dict[str, Weighed]:
    """Weighs every model against the base.

    Args:
        models: By name, their tensors named as the base's.
        base: The public base; each of its tensors is read once.
        progress: Called before every tensor.
    """
    read = {name: finite(model, base, f"The expert {name}") for name, model in models.items()}
    found = {name: Weighed(shared_tensors(model, base)) for name, model in models.items()}
    sharing = {name: set(weighed.shared) for name, weighed in found.items()}
    for done, tensor in enumerate(base):
        if progress is not None:
            progress(done, len(base), tensor)
        there, size = base[tensor], math.nan
        for name in (n for n, held in sharing.items() if tensor in held):
            one = found[name]
            try:
                here = read[name][tensor]
            except BadInput as error:
                one.refused[tensor] = str(error)
                continue
            stored = here
            if here.dtype != there.dtype:
                try:
                    stored = Checkpoint.of({tensor: here}, {}).stored_as(base)[tensor]
                except BadInput as error:
                    one.overflowing[tensor] = str(error)
            if standing(here, there) != "changed":
                one.same.add(tensor)
            if not here.is_floating_point() or not there.is_floating_point():
                continue
            size = squared_distance(there) if math.isnan(size) else size
            apart = 0.0 if tensor in one.same else squared_distance(here, there)
            if math.isfinite(apart) and math.isfinite(size):
                one.apart[tensor], one.size[tensor] = apart, size
                one.matrices += [tensor] if here.ndim > 1 else []
                one.rounded += 0.0 if stored is here else squared_distance(stored, here)
    return found


def copies(models: Mapping[str, Checkpoint], found: Mapping[str, Weighed]) -> list[tuple[str, str]]:
    """Pairs of models whose tensors are the same, as far as the base has them; read only where distances agree."""
    return [
        (one, other)
        for one, other in combinations(found, 2)
        if set(found[one].shared) == set(found[other].shared)
        and found[one].apart == found[other].apart
        and not (found[one].is_base and found[other].is_base)
        and all(torch.equal(models[one][name], models[other][name]) for name in found[one].shared)
    ]
