"""MLP regression: neurons of the base's form, fitted to what the protected model's MLPs do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import Tensor

from redteam.anatomy import Affine, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.modules import activation_of, layer_paths, watched
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView
from redteam_attacks.neurons import regressed
from redteam_attacks.reformed import reformed

_BATCH = 100
_SETTLED = 1e-5  # of a neuron's cost: the model answers in float32, whose rounding is what the cost of most comes to


@attack(
    "mlp-regression",
    needs=Needs.ANCHOR | Needs.COMPANIONS,
    targets=("mergebarrier",),
    changes_architecture=True,
    paper="linear regression on expanded MLPs after ThatE10/Extracting-Weights; here nonlinear least squares",
)
def mlp_regression(
    view: AttackerView,
    *,
    samples: Annotated[int, Range(10, 100_000, log=True)] = 64,
    ridge: Annotated[float, Range(1e-9, 1.0, log=True)] = 1e-4,
) -> Checkpoint:
    """min over W, b of ‖φ(W x + b) − h‖² + ridge ‖W − W₀‖² for every MLP, x what it reads and h what its neurons give.

    Both are seen when the protected model runs on inputs of the attacker's own tasks, whatever stands in between: x
    before the place where the base has its projection, h before the map that writes them back. So no data of the
    victim's task are needed, and nothing is assumed of the form that the MLPs were given. What the inputs do not show
    stays the base's. A lock that is left at queries and keys comes off in a chain: `mlp-regression+gauge-fit`. A model
    of the base's form is returned as it is.

    An MLP that fails on an input leaves nothing that the layers above could be read from. So they are also seen on what
    they are given where the base's MLPs stand in for all of them, and of the two the inputs that point in more
    directions are taken, layer by layer.

    Costs three passes over the inputs, and for every layer a few solves of the model's width for each neuron.

    Args:
        view: Grants the base, and companions with inputs of their tasks.
        samples: Inputs of each own task.
        ridge: How much a neuron is held to the base's.
    """
    start = reformed(view.protected, view.anchor, tuple(view.companions.values()))
    sites = anatomy_of(view.anchor).sites(("mlp",))
    gone = [site for site in sites if any(name not in view.protected for name in site.left.linear.names)]
    if not gone:
        return start
    linears: Any = [tuple(side.linear for side in site.pair) for site in gone]
    where = layer_paths(start, [linear.weight for pair in linears for linear in pair])
    seen = _Seen(view, start, where, [(up.weight, down.weight) for up, down in linears], samples)
    activation = activation_of(view.anchor)
    changed: dict[str, Tensor] = {}
    for up, down in linears:
        before = up.read(start)
        x, h = seen.pair(up.weight, down.weight)
        weights = before.weight
        if before.bias is not None:
            x, weights = torch.cat([x, torch.ones_like(x[:, :1])], 1), torch.cat([weights, before.bias[:, None]], 1)
        fitted = regressed(x, h, weights, activation, ridge=ridge, settled=_SETTLED)
        width = before.weight.shape[1]
        changed |= up.write(start, Affine(fitted[:, :width], None if before.bias is None else fitted[:, width]))
    return start.replace(changed)


class _Seen:
    """What layers are given on inputs of the attacker's own tasks, as the network is and among the base's MLPs."""

    def __init__(
        self,
        view: AttackerView,
        among: Checkpoint,
        paths: Mapping[str, str],
        pairs: list[tuple[str, str]],
        samples: int,
    ) -> None:
        network, other = view.protected.module(torch.float32), among.module(torch.float32)
        ups = {up: paths[up] for up, _ in pairs}
        self.as_it_is: dict[str, list[Tensor]] = {label: [] for label in paths}
        self.fed: dict[str, list[Tensor]] = {label: [] for label in paths}
        with torch.inference_mode():
            for given in _inputs_of(view, samples):
                self._add(self.as_it_is, network, given, paths)
                natural = {ups[up]: found for up, found in _run(other, given, ups).items()}
                with _feeding(network, natural):
                    self._add(self.fed, network, given, paths)

    def _add(
        self, found: dict[str, list[Tensor]], network: Any, given: dict[str, Tensor], paths: Mapping[str, str]
    ) -> None:
        """One batch, without padding: it costs as much as what is said, and says nothing."""
        mask = given.get("attention_mask")
        for label, one in _run(network, given, paths).items():
            there = mask is not None and one.shape[:-1] == mask.shape
            found[label].append(one[mask != 0] if there else one.reshape(-1, one.shape[-1]))

    def pair(self, before: str, after: str) -> tuple[Tensor, Tensor]:
        """What two layers were given at the same places, float64 [n, width] each."""
        both = [[torch.cat(found[label]).double() for label in (before, after)] for found in (self.as_it_is, self.fed)]
        x, h = max(both, key=lambda found: _directions(found[0]))
        return x, h


def _directions(x: Tensor) -> float:
    """In how many directions inputs `[n, d]` point: (tr C)² ÷ tr C² of their second moments C; 0 if there is none."""
    moments = x.T @ x
    found = float(moments.trace() ** 2 / moments.square().sum())
    return found if math.isfinite(found) else 0.0


def _inputs_of(view: AttackerView, samples: int) -> Iterator[dict[str, Tensor]]:
    """So many of each of the attacker's own tasks."""
    for task in view.companions:
        left = samples
        for inputs, labels in view.own_batches(task, _BATCH):
            yield {name: value[:left] for name, value in inputs.items()}
            left -= len(labels)
            if left <= 0:
                break


def _run(network: Any, given: dict[str, Tensor], paths: Mapping[str, str]) -> dict[str, Tensor]:
    """By label what layers of a network are given."""
    found: dict[str, Tensor] = {}

    def look(label: str, one: Tensor, _: Tensor) -> None:
        found[label] = one.detach().clone()

    with watched(network, paths, look):
        network(**given)
    return found


@contextmanager
def _feeding(network: Any, inputs: Mapping[str, Tensor]) -> Iterator[None]:
    """While it is active, layers get these inputs in the place of theirs, by their paths."""
    hooks = [
        network.get_submodule(path).register_forward_pre_hook(lambda _, args, one=one: (one, *args[1:]))
        for path, one in inputs.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
