"""SMILE: each linear layer beside low-rank experts of its own, one of which is chosen for each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint, Whole
from redteam.errors import Inapplicable
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import holders


@merger(
    "smile",
    whole=True,
    holds={"order", "permutation", "rotation", "still"},
    paper="Tang et al., SMILE: Zero-Shot Sparse Mixture of Low-Rank Experts, arXiv:2408.10174",
)
def smile(
    view: MergerView,
    *,
    rank: Annotated[int, Range(1, 4096)] = 32,
    gate: Annotated[int, Range(1, 4096)] = 16,
    top: Annotated[int, Range(1, 64)] = 1,
) -> Whole:
    """y = W₀x + b₀ + Σ w_t (U_t S_t V_tᵀ x + Δb_t), with Δ_t = U_t S_t V_tᵀ and w the largest of softmax ‖V_tᵀ x‖.

    Every linear layer is its own router, token by token, whatever the task. What is no linear layer (norms, embeddings,
    convolutions, stacked experts) stays the base's, as in the release with average_experts=false. Singular values that
    are zero are left out, with their vectors, which say nothing, and a router looks at half of the input's directions
    at most: it would score all experts alike if it saw them all. The release does neither.

    Args:
        view: The experts and the base.
        rank: Of each expert; the release's examples take 32 for ViT-B/32, its class defaults to 256.
        gate: How many of the right singular vectors the router looks at: 16 there, 256 in the class.
        top: How many experts each token gets, their weights scaled to sum to 1.
    """
    made = _Upscaled(view.base, dict(holders(view)), rank, gate, top)
    return Whole(lambda _: view.base, None, made.rewire)


@dataclass
class _Upscaled:
    """Low-rank experts of every linear layer, decomposed once for the networks of all tasks."""

    base: Checkpoint
    held: dict[str, dict[str, Checkpoint]]
    rank: int
    gate: int
    top: int
    _made: dict[str, list[Low]] = field(default_factory=dict)

    def rewire(self, network: nn.Module, parameters: Mapping[str, str]) -> None:
        """Puts a router in the place of each linear layer that some expert has changed."""
        biases = {place: name for name, place in parameters.items() if name in self.held}
        changed = 0
        for name in sorted(self.held.keys() & parameters.keys()):
            path, _, which = parameters[name].rpartition(".")
            layer = network.get_submodule(path)
            if which != "weight" or not isinstance(layer, nn.Linear) or _is_read_by_its_parent(network, path):
                continue
            if name not in self._made:
                self._made[name] = self._decomposed(name, biases.get(f"{path}.bias"))
            if any(low.matters for low in self._made[name]):
                parent, _, own = path.rpartition(".")
                setattr(network.get_submodule(parent), own, Routed(layer, self._made[name], self.top))
                changed += 1
        if not changed and not self._still():
            raise Inapplicable(
                f"smile finds no linear layer of {type(network).__name__} that an expert has changed; take a merger of "
                "tensors."
            )

    def _decomposed(self, name: str, bias: str | None) -> list[Low]:
        """What each expert that holds the weight makes of the layer; who lacks its bias leaves that as it is."""
        start, made = self.base[name].to(torch.float64), []
        for task, expert in self.held[name].items():
            move = None
            if bias is not None:
                origin = self.base[bias].to(torch.float64)
                move = self.held[bias].get(task, self.base)[bias].to(torch.float64) - origin
            made.append(Low.of(expert[name].to(torch.float64) - start, move, self.rank, self.gate))
        return made

    def _still(self) -> bool:
        return all(torch.equal(e[name], self.base[name]) for name, held in self.held.items() for e in held.values())


def _is_read_by_its_parent(network: nn.Module, path: str) -> bool:
    """Whether the layer is never called: torch's attention reads the weights of its output projection itself."""
    return isinstance(network.get_submodule(path.rpartition(".")[0]), nn.MultiheadAttention)


@dataclass(frozen=True)
class Low:
    """One expert's change of a layer, in float64.

    Attributes:
        left: U S, `[out, k]`.
        right: Vᵀ, `[k, in]`.
        seen: The rows of Vᵀ that the router looks at, `[g, in]`.
        move: Δb, `[out]`, where the layer has a bias.
    """

    left: Tensor
    right: Tensor
    seen: Tensor
    move: Tensor | None

    @classmethod
    def of(cls, delta: Tensor, move: Tensor | None, rank: int, gate: int) -> Low:
        """From a change of the weight `[out, in]` and of the bias."""
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        found = int((s > s[:1] * torch.finfo(torch.float32).eps * max(delta.shape)).sum())
        k, g = min(rank, found), min(gate, found, max(1, delta.shape[1] // 2))
        return cls(u[:, :k] * s[:k], vh[:k], vh[:g], move)

    @property
    def matters(self) -> bool:
        """Whether it changes anything."""
        return bool(len(self.right)) or (self.move is not None and bool(self.move.any()))


class Routed(nn.Module):
    """A linear layer with the low-rank changes of several experts, of which each input gets those that fit it best."""

    def __init__(self, linear: nn.Linear, experts: list[Low], top: int) -> None:
        super().__init__()
        self.linear, self.top = linear, min(top, len(experts))
        kept = [(one.left, one.right, one.seen) for one in experts]
        self.left, self.right, self.gates = (_fixed(parts, linear) for parts in zip(*kept, strict=True))
        moves = [one.move for one in experts if one.move is not None]
        self.moves = _fixed(moves, linear) if moves else None

    def forward(self, inputs: Tensor) -> Tensor:
        """As the linear layer, `[…, in]` → `[…, out]`."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        scores = torch.stack([nn.functional.linear(rows, gate).norm(dim=1) for gate in self.gates], 1)
        weights, chosen = scores.softmax(1).topk(self.top, 1)
        weights = weights / weights.sum(1, keepdim=True)
        outputs: Tensor = self.linear(rows)
        for number, (left, right) in enumerate(zip(self.left, self.right, strict=True)):
            picked, place = (chosen == number).nonzero(as_tuple=True)
            if len(picked):
                move = None if self.moves is None else self.moves[number]
                more = nn.functional.linear(nn.functional.linear(rows[picked], right), left, move)
                outputs = outputs.index_add(0, picked, weights[picked, place, None] * more)
        return outputs.reshape(*inputs.shape[:-1], -1)

    @property
    def weight(self) -> Tensor:
        """The base's, for whoever asks the layer for its dtype."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.linear.bias


def _fixed(tensors: tuple[Tensor, ...] | list[Tensor], like: nn.Linear) -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(tensor.to(like.weight), requires_grad=False) for tensor in tensors])
