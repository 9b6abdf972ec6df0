"""MLP regression: neurons of the base's form, fitted to what the protected model's MLPs do."""

from __future__ import annotations

from collections.abc import Mapping
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

    Costs one pass over the inputs, and for every layer a few solves of the model's width for each neuron.

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
    network = view.protected.module(torch.float32)
    linears: Any = [tuple(side.linear for side in site.pair) for site in gone]
    where = layer_paths(start, [linear.weight for pair in linears for linear in pair])
    seen = _inputs_of(view, network, where, samples)
    activation = activation_of(view.anchor)
    changed: dict[str, Tensor] = {}
    for up, down in linears:
        before = up.read(start)
        x, h = seen[up.weight], seen[down.weight]
        weights = before.weight
        if before.bias is not None:
            x, weights = torch.cat([x, torch.ones_like(x[:, :1])], 1), torch.cat([weights, before.bias[:, None]], 1)
        fitted = regressed(x, h, weights, activation, ridge=ridge, settled=_SETTLED)
        width = before.weight.shape[1]
        changed |= up.write(start, Affine(fitted[:, :width], None if before.bias is None else fitted[:, width]))
    return start.replace(changed)


def _inputs_of(view: AttackerView, network: Any, paths: Mapping[str, str], samples: int) -> dict[str, Tensor]:
    """By a layer's label all that it is given, float64 [n, width], on inputs of the attacker's own tasks.

    Without padding: it costs as much as what is said, and says nothing.
    """
    found: dict[str, list[Tensor]] = {label: [] for label in paths}
    masks: list[Tensor] = []

    def look(label: str, given: Tensor, _: Tensor) -> None:
        there = given.shape[:-1] == masks[-1].shape if masks else False
        rows = given[masks[-1] != 0] if there else given.reshape(-1, given.shape[-1])
        found[label].append(rows.detach().double())

    with watched(network, paths, look), torch.inference_mode():
        for task in view.companions:
            left = samples
            for inputs, labels in view.own_batches(task, _BATCH):
                given = {name: value[:left] for name, value in inputs.items()}
                masks[:] = [given["attention_mask"]] if "attention_mask" in given else []
                network(**given)
                left -= len(labels)
                if left <= 0:
                    break
    return {label: torch.cat(parts).clone() for label, parts in found.items()}
