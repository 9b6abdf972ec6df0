"""MergeBarrier: queries and keys reflected along their main directions, and MLPs published as polynomials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from redteam.anatomy import Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.modules import activation_of, layer_paths, watched
from redteam.errors import BadInput
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import MatrixGauge, Orthogonal, random_inputs
from redteam.symmetry.fitting import moved
from redteam.views import DefenderView
from redteam_defenses.expanded import Polynomial, expanded

_BATCH, _BATCHES = 64, 4  # training samples on which features are observed


@dataclass(frozen=True)
class Reflection:
    """−1 on the main directions of every head's queries and keys, +1 across them: an orthogonal gauge at qk.

    The directions are the eigenvectors of Q Qᵀ + K Kᵀ with the largest eigenvalues, biases included, of a head's stacks
    [n, …]: those for which ‖(P − I) Q‖² + ‖(P − I) K‖² is largest. The reflection commutes with that matrix, so that
    it is found again on what was reflected, and undoes itself; there is no secret in it.

    Attributes:
        share: Of a head's dimensions that are reflected, at least one and never all.
    """

    share: float

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every head reflected; lazy.

        Raises:
            IllegalGauge: If rotary embeddings or norms allow no orthogonal gauge at qk.
            BadInput: If the architecture is not known or has no such heads.
        """
        sites = anatomy_of(checkpoint).sites(("qk",))
        if not sites:
            raise BadInput("The checkpoint has no queries and keys to reflect; expected a transformer.")
        for site in sites:
            site.require_group("orthogonal", frozenset({Orthogonal().name}), None)
        return moved(checkpoint, sites, lambda site: self.gauge(site, checkpoint))

    take_off = put_on

    def gauge(self, site: Site, checkpoint: Checkpoint) -> MatrixGauge:
        """P of every head, symmetric and orthogonal."""
        stacks = site.stacks(checkpoint)
        _, directions = torch.linalg.eigh(stacks.left @ stacks.left.mT + stacks.right @ stacks.right.mT)
        count = min(max(1, round(self.share * site.width)), max(1, site.width - 1))
        main = directions[..., -count:]
        return MatrixGauge(torch.eye(site.width, dtype=main.dtype, device=main.device) - 2 * main @ main.mT)


@defense(
    "mergebarrier",
    exact=False,
    keyed=False,
    changes_architecture=True,
    weakened={"parts": ("attention",)},
    claim="Llama-2-13B family: merging fails at a negligible loss alone (paper); ViT-B/32, eight tasks merged: average "
    "67.2 % falls to 29.3 % (second-hand).",
    paper="arXiv:2511.10712",
)
def mergebarrier(
    view: DefenderView,
    *,
    parts: tuple[Literal["attention", "mlp"], ...] = ("attention", "mlp"),
    share: Annotated[float, Range(0.0, 1.0)] = 0.5,
    order: Annotated[int, Range(1, 20)] = 12,
    middle: Literal["midrange", "mean"] = "midrange",
) -> Checkpoint:
    """P at query and key, one for both, and φ(w·x + b) as a polynomial about the middle of what x brings.

    No lock of values and outputs is described. Left open, and settings here: how many directions are reflected (half,
    as far from I as from −I), the order, and which middle. Reflections are computed exactly, where the source takes a
    randomised decomposition. The polynomial in x is stored by its rank-one factors (`redteam_defenses.expanded`), since
    its coefficients one by one would be in^N numbers a neuron. Where rotary embeddings turn queries and keys, P would
    have to commute with the rotation, and the defense refuses; so it does where MLPs have gates.

    Not exact: a Taylor polynomial leaves φ far from its middle.

    Args:
        view: The victim, and its training data to observe features on; without data random inputs stand in.
        parts: What is protected.
        share: How many of a head's dimensions are reflected.
        order: N, the degree of the polynomials.
        middle: Halfway between the least and the largest pre-activation that was seen, or their mean, by neuron.
    """
    checkpoint = view.victim
    if "attention" in parts:
        lock = Reflection(share)
        view.locks.append(lock)
        checkpoint = lock.put_on(checkpoint)
    if "mlp" not in parts:
        return checkpoint
    activation = activation_of(view.victim)
    seen = _middles(view, middle)

    def polynomial(site: Site) -> Polynomial:
        up = site.left.linear.read(view.victim)
        bias = torch.zeros_like(up.weight[:, 0]) if up.bias is None else up.bias
        return Polynomial.of(up.weight, bias, seen[site.label], order, activation)

    return expanded(checkpoint, polynomial)


def _middles(view: DefenderView, how: str) -> dict[str, Tensor]:
    """By a site's label the middle of its pre-activations, float64 [m]."""
    sites = {site.label: site for site in anatomy_of(view.victim).sites(("mlp",))}
    names = {label: _weight(site) for label, site in sites.items()}
    paths = layer_paths(view.victim, names.values())
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}
    total: dict[str, Tensor] = {}
    count = dict.fromkeys(sites, 0)

    def look(label: str, _: Tensor, output: Tensor) -> None:
        flat = output.detach().reshape(-1, output.shape[-1]).to(torch.float64)
        low[label] = torch.minimum(low[label], flat.amin(0)) if label in low else flat.amin(0)
        high[label] = torch.maximum(high[label], flat.amax(0)) if label in high else flat.amax(0)
        total[label] = total.get(label, torch.zeros_like(flat[0])) + flat.sum(0)
        count[label] += len(flat)

    network = view.victim.module(torch.float32)
    with watched(network, {label: paths[name] for label, name in names.items()}, look), torch.inference_mode():
        for inputs in _observed(view):
            network(**inputs)
    if how == "mean":
        return {label: total[label] / count[label] for label in sites}
    return {label: (low[label] + high[label]) / 2 for label in sites}


def _weight(site: Site) -> str:
    """The name of its projection's matrix."""
    linear: Any = site.left.linear
    return str(linear.weight)


def _observed(view: DefenderView) -> Iterator[dict[str, Tensor]]:
    if view.task is None:
        yield random_inputs(view.victim)
        return
    for index, (inputs, _) in enumerate(view.batches(_BATCH, "observed")):
        if index == _BATCHES:
            return
        yield inputs
