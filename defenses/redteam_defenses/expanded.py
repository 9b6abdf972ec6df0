"""Networks whose activations are written out as polynomials: their form in a checkpoint, and how they run.

A neuron h = φ(w·x + b) becomes h = Σ_n c_n tⁿ, n = 0…N, in t = (w·x + b − m) ÷ ‖w‖: the Taylor expansion of φ about m,
with c_n = φ⁽ⁿ⁾(m) ‖w‖ⁿ ÷ n!. Written out in x it would be the symmetric tensors c_n ŵ⊗…⊗ŵ of every order, each of rank
one; what is stored are their factors. In place of a projection's tensors a checkpoint then has, under the same stem,

    direction     ŵ = w ÷ ‖w‖, [neurons, in]
    offset        (b − m) ÷ ‖w‖, [neurons]
    coefficients  c, [neurons, N + 1]

so that neither the projection nor its scale is there to be merged. The config names the form (`redteam_network`) and
lists what it replaces, so that an installed package builds it; nothing that came along is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from redteam.anatomy import ARCHITECTURES, Anatomy, Site, anatomy_of, find_sites
from redteam.anatomy.architecture import Shaped
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.known import NETWORK
from redteam.checkpoint.modules import build as plain_network
from redteam.checkpoint.modules import parameter_names
from redteam.errors import BadInput, NotACheckpoint

if TYPE_CHECKING:
    from redteam.anatomy import Linear

NAME = "expanded-mlp"
REPLACED = "expanded"
"""Entry of the config: name → shape of the tensors that the polynomials stand for."""
HEADS = ("qk", "vo", "heads", "queries", "qk-norm")
"""Kinds of sites that no MLP has a part in."""
_SCALES = 1e-12  # under which a neuron's weight counts as none, and its direction is left as it is


@dataclass(frozen=True)
class Polynomial:
    """The neurons of one MLP.

    Attributes:
        direction: float64 [m, d].
        offset: float64 [m].
        coefficients: float64 [m, N + 1].
    """

    direction: Tensor
    offset: Tensor
    coefficients: Tensor

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor, middle: Tensor, order: int, activation: Callable[[Tensor], Tensor]
    ) -> Polynomial:
        """The expansion of `activation(weight x + bias)` about some pre-activations.

        Args:
            weight: float64 [m, d].
            bias: float64 [m].
            middle: float64 [m], where each neuron's expansion starts from.
            order: N.
            activation: φ, differentiable N times by autograd.
        """
        scale = weight.norm(dim=1).clamp_min(_SCALES)
        powers = scale[:, None] ** torch.arange(order + 1, dtype=torch.float64, device=scale.device)
        return cls(weight / scale[:, None], (bias - middle) / scale, taylor(activation, middle, order) * powers)


def taylor(activation: Callable[[Tensor], Tensor], middle: Tensor, order: int) -> Tensor:
    """φ⁽ⁿ⁾(m) ÷ n! for n = 0…N, float64 [m, N + 1], by repeated differentiation."""
    with torch.enable_grad():
        at = middle.detach().to(torch.float64).requires_grad_()
        value = activation(at)
        found = [value.detach()]
        for n in range(1, order + 1):
            if not value.requires_grad:  # constant from here on
                found.append(torch.zeros_like(found[0]))
                continue
            (slope,) = torch.autograd.grad(value.sum(), at, create_graph=n < order, allow_unused=True)
            value = torch.zeros_like(at) if slope is None else slope
            found.append(value.detach() / float(math.factorial(n)))
    return torch.stack(found, dim=1)


class ExpandedLinear(nn.Module):
    """What runs in place of a projection and the activation after it."""

    def __init__(self, direction: Tensor, offset: Tensor, coefficients: Tensor) -> None:
        super().__init__()
        self.direction, self.offset = nn.Parameter(direction), nn.Parameter(offset)
        self.coefficients = nn.Parameter(coefficients)

    def forward(self, inputs: Tensor) -> Tensor:
        """Horner's rule; [..., d] to [..., m]."""
        t = nn.functional.linear(inputs, self.direction, self.offset)
        total = self.coefficients[:, -1].expand_as(t)
        for n in range(self.coefficients.shape[1] - 2, -1, -1):
            total = total * t + self.coefficients[:, n]
        return total


def expanded(checkpoint: Checkpoint, polynomials: Callable[[Site], Polynomial]) -> Checkpoint:
    """A checkpoint whose MLPs are polynomials; held in memory, since names and shapes are others.

    Args:
        checkpoint: Of a known architecture whose MLPs have no gate and tensors of their own.
        polynomials: Gives those of a site.

    Raises:
        BadInput: If the MLPs have another form.
    """
    sites = anatomy_of(checkpoint).sites(("mlp",))
    if not sites:
        raise BadInput("The checkpoint has no MLPs that could be expanded; expected a transformer with some.")
    added: dict[str, Tensor] = {}
    gone: dict[str, list[int]] = {}
    for site in sites:
        up: Any = site.left.linear
        if site.carried or getattr(up, "rows", True) is not None:
            raise BadInput(
                f"The MLP of layer {site.layer} has a gate or lies in a tensor with others; expected a projection of "
                "its own with an activation after it."
            )
        made, stem = polynomials(site), stem_of(up)
        dtype = checkpoint.dtype(up.weight)
        for part in ("direction", "offset", "coefficients"):
            added[f"{stem}.{part}"] = getattr(made, part).to(dtype)
        gone |= {name: list(checkpoint.shape(name)) for name in up.names}
    kept = {name: tensor for name, tensor in checkpoint.items() if name not in gone}
    return Checkpoint.of(kept | added, {**checkpoint.config, NETWORK: NAME, REPLACED: gone})


def stem_of(linear: Linear) -> str:
    """`encoder.layer.0.intermediate.dense` of its weight's name."""
    return linear.weight.removesuffix("weight").rstrip(".")


def build(checkpoint: Checkpoint, dtype: torch.dtype | None) -> nn.Module:
    """The network in evaluation mode, polynomials in place of projections and activations.

    Raises:
        NotACheckpoint: If the tensors do not fit, or the network has no activation of its own beside a projection.
    """
    marked, weights = _stand_in(checkpoint)
    network, places = plain_network(marked, dtype), parameter_names(marked)
    for name in weights:
        stem = name.removesuffix("weight").rstrip(".")
        path = places[name].rpartition(".")[0]
        try:
            parts = [checkpoint[f"{stem}.{part}"] for part in ("direction", "offset", "coefficients")]
        except KeyError as error:
            raise NotACheckpoint(f"The tensor {error} is missing; config and weights must belong together.") from None
        fits = [part.ndim for part in parts] == [2, 1, 2] and len({len(part) for part in parts}) == 1
        if not fits or not parts[2].shape[1]:
            raise NotACheckpoint(
                f"The tensors of {stem} do not fit the network; config and weights must belong together."
            )
        block = network.get_submodule(path.rpartition(".")[0])
        _without_activation(block, stem)
        held: Any = network.get_submodule(path).weight
        made = ExpandedLinear(
            *(part.to(held.dtype, copy=True, memory_format=torch.contiguous_format) for part in parts)
        )
        setattr(block, path.rpartition(".")[2], made)
    setattr(network, NETWORK, True)
    return network.eval()


def _stand_in(checkpoint: Checkpoint) -> tuple[Checkpoint, list[str]]:
    """A checkpoint of the plain form, zeros in place of what is gone, and the names of the projections' weights."""
    gone = checkpoint.config.get(REPLACED)
    if not isinstance(gone, Mapping) or not all(isinstance(shape, list) for shape in gone.values()):
        raise NotACheckpoint(f"The config does not say what the polynomials stand for ({REPLACED}); restore the file.")
    names = [name for name, shape in gone.items() if len(shape) == 2]
    like = next(iter(checkpoint.values())).dtype
    zeros = {name: torch.zeros(tuple(shape), dtype=like) for name, shape in gone.items()}
    stems = {name.removesuffix("weight").rstrip(".") for name in names}
    kept = {name: tensor for name, tensor in checkpoint.items() if name.rpartition(".")[0] not in stems}
    config = {key: value for key, value in checkpoint.config.items() if key not in (NETWORK, REPLACED)}
    return Checkpoint.of(kept | zeros, config), names


def _without_activation(block: nn.Module, stem: str) -> None:
    names = [name for name in (*block._modules, *vars(block)) if "act" in name and callable(getattr(block, name))]
    if len(names) != 1:
        raise NotACheckpoint(f"The block of {stem} has no activation that a polynomial could stand for.")
    setattr(block, names[0], nn.Identity())


class ExpandedAnatomy:
    """Where the heads of such a network are; its MLPs have no site."""

    def anatomy(self, checkpoint: Shaped) -> Anatomy:
        """The plain architecture's sites that no MLP has a part in.

        Raises:
            BadInput: As the plain architecture does.
        """
        gone = checkpoint.config.get(REPLACED)
        kind = str(checkpoint.config.get("model_type", ""))
        if not isinstance(gone, Mapping) or kind not in ARCHITECTURES:
            raise BadInput(f"The config does not say what its polynomials stand for ({REPLACED}); restore the file.")
        found = find_sites(ARCHITECTURES[kind], _Plain(checkpoint, gone))
        return Anatomy(tuple(site for site in found.inner if site.kind in HEADS))

    def recognises(self, checkpoint: Shaped) -> int:
        """None by its names alone."""
        return 0


class _Plain(Mapping[str, Tensor]):
    """A checkpoint with the names and shapes that it had; what is gone cannot be read."""

    def __init__(self, checkpoint: Shaped, gone: Mapping[str, Any]) -> None:
        self._checkpoint, self._gone = checkpoint, gone

    @property
    def config(self) -> Mapping[str, Any]:
        return self._checkpoint.config

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._gone[name]) if name in self._gone else self._checkpoint.shape(name)

    def __getitem__(self, name: str) -> Tensor:
        return self._checkpoint[name]

    def __iter__(self) -> Any:
        yield from self._checkpoint
        yield from self._gone

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._gone or name in self._checkpoint


ANATOMY = ExpandedAnatomy()
"""What stands in the group `redteam.architectures`."""
