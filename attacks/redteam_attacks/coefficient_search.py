"""Coefficient search: a coefficient per layer for the victim's task vector, chosen on the attacker's own data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.modules import parameters_of
from redteam.errors import BadInput, Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.tasks import Batch
from redteam.training import Loss, in_pieces
from redteam.views import AttackerView
from redteam_attacks.common_parts import common_parts, recorded, replayed

_TOGETHER = tuple(step / 10 for step in range(1, 11))  # coefficients of the companions' merge
_WHOLE = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)  # of the victim's task vector in the merge
_FACTORS = (0.5, 0.8, 1.25, 2.0)  # by which a layer's is then changed


@attack(
    "coefficient-search",
    needs=Needs.ANCHOR | Needs.COMPANIONS,
    targets=("trap2", "mergeguard"),
)
def coefficient_search(
    view: AttackerView,
    *,
    samples: Annotated[int, Range(8, 10**6, log=True)] = 128,
    rounds: Annotated[int, Range(0, 20)] = 2,
) -> Checkpoint:
    """θ₀ + c_l τ layer by layer, for the c that make the merge of all do best by what the attacker can see.

    The attacker merges as task arithmetic does, θ₀ + λ (Σ τ_t + c ∘ τ), with λ chosen on the companions alone. Two
    things can be seen without data of the victim's task: the loss on the companions' tasks, and how far the merge under
    the victim's head is from the protected model's answers, KL(teacher ‖ merge), on the companions' inputs. The sum of
    both is lowered, over one c for all layers first, c = 1/λ among them (then the victim is merged at the scale at
    which it was released), and then by one layer at a time.

    Args:
        view: Grants the base, and the attacker's own experts with validation data of their tasks.
        samples: How many of each of these tasks to look at, at most.
        rounds: How often to go through the layers.

    Raises:
        Inapplicable: If there is no expert, or the network gives no logits of classes or tokens.
        BadInput: If the protected model's answers are not finite.
    """
    merge = _Merge.of(view, samples)
    together = min(_TOGETHER, key=lambda share: merge.loss(share, [0.0] * len(merge.layers), own=True))
    candidates = [1.0, *(share / together for share in _WHOLE)]
    best = [min(candidates, key=lambda c: merge.loss(together, [c] * len(merge.layers)))] * len(merge.layers)
    least = merge.loss(together, best)
    for _ in range(rounds):
        before = list(best)
        for layer in range(len(best)):
            for factor in _FACTORS:
                tried = [*best[:layer], before[layer] * factor, *best[layer + 1 :]]
                if (found := merge.loss(together, tried)) < least:
                    best, least = tried, found
        if best == before:
            break
    scaled = {}
    for names, coefficient in zip(merge.layers, best, strict=True):
        for name in names:
            start, ours = view.anchor[name].to(torch.float64), view.protected[name]
            scaled[name] = (start + coefficient * (ours.to(torch.float64) - start)).to(ours.dtype)
    return view.protected.replace(scaled)


@dataclass(frozen=True)
class _Merge:
    """A merge whose coefficients can be changed in place, under every head.

    Networks name their parameters unlike checkpoints, but all of them are linear in what a checkpoint holds.

    Attributes:
        layers: The names of what is merged, layer by layer, what is outside of layers first.
        victim: The victim's network.
        looked_at: What the companions' networks are asked, a few samples at a time.
        base: Parameter → where the base has it.
        others: Parameter → the companions' task vectors, summed.
        own: For every layer, parameter → the victim's task vector there, where it has one.
    """

    layers: list[list[str]]
    victim: nn.Module
    looked_at: list[_Looked]
    base: dict[str, Tensor]
    others: dict[str, Tensor]
    own: list[dict[str, Tensor]]

    @classmethod
    def of(cls, view: AttackerView, samples: int) -> _Merge:
        protected, anchor, companions = view.protected, view.anchor, view.companions
        if not companions:
            raise Inapplicable("There is no companion to merge with; expected at least one of the attacker's own.")
        names = [name for name in shared_tensors(protected, anchor) if protected.dtype(name).is_floating_point]
        layers = _by_layer(names)
        with torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
            bare = protected.replace({name: anchor[name] for name in names})
            base = parameters_of(bare)

            def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
                there = parameters_of(bare.replace(tensors))
                return {n: there[n] - base[n] for n in base if not torch.equal(there[n], base[n])}

            own = [moved({name: protected[name] for name in layer}) for layer in layers]
            others = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
            for expert in companions.values():
                held = [name for name in names if name in expert and expert.shape(name) == protected.shape(name)]
                for name, away in moved({name: expert[name] for name in held}).items():
                    others[name] += away
            networks = {task: expert.module(torch.float32) for task, expert in companions.items()}
            victim = protected.module(torch.float32)
        merged = set().union(*own, (name for name, away in others.items() if bool(away.any())))
        base = {name: tensor for name, tensor in base.items() if name in merged}
        looked_at = []
        for task, network in networks.items():
            common = common_parts(network, victim, merged)
            drawn = next(iter(view.own_batches(task, samples)))
            for batch in in_pieces(drawn, view.generator(f"pieces of {task}")):
                answers = _answers(victim, batch[0])
                if not bool(answers.isfinite().all()):
                    raise BadInput(
                        "The protected model's answers are not finite; expected finite weights, so check it."
                    )
                looked_at.append(_Looked(network, partial(view.own_loss, task), batch, answers, common))
        merge = cls(layers, victim, looked_at, base, others, own)
        merge.move(1.0, [1.0] * len(layers))
        looked_at[:] = [replace(one, common=one.common if _alike(one, victim) else ()) for one in looked_at]
        return merge

    def loss(self, together: float, coefficients: Sequence[float], *, own: bool = False) -> float:
        """The mean loss of the companions' tasks, and how far the answers are from the protected model's, in nats."""
        self.move(together, coefficients)
        total = 0.0
        with torch.inference_mode():
            for one in self.looked_at:
                with recorded(one.network, one.common) as outputs:
                    found = float(one.loss(one.network, one.batch))
                if not own:
                    with replayed(self.victim, outputs):
                        theirs = _answers(self.victim, one.batch[0])
                    found += float(F.kl_div(theirs, one.answers, reduction="batchmean", log_target=True))
                total += found * one.size
        return total / sum(one.size for one in self.looked_at) if total == total else float("inf")

    def move(self, together: float, coefficients: Sequence[float]) -> None:
        """Puts the merge with these coefficients under every head."""
        networks = (self.victim, *{id(one.network): one.network for one in self.looked_at}.values())
        with torch.inference_mode():
            for name, start in self.base.items():
                value = start + together * self.others[name]
                for layer, coefficient in zip(self.own, coefficients, strict=True):
                    if name in layer:
                        value = value + together * coefficient * layer[name]
                for network in networks:
                    network.get_parameter(name).copy_(value)


@dataclass(frozen=True)
class _Looked:
    """A few samples of a companion's task.

    Attributes:
        network: The companion's.
        loss: Of the task.
        batch: The samples.
        answers: The protected model's log-probabilities for them.
        common: Parts of the network that compute in the victim's what they compute here, once the merge is in both.
    """

    network: nn.Module
    loss: Loss
    batch: Batch
    answers: Tensor
    common: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.batch[1])


def _alike(one: _Looked, victim: nn.Module) -> bool:
    """Whether the victim's network answers the same with what the companion's computed on its way to the loss."""
    with torch.inference_mode():
        with recorded(one.network, one.common) as outputs:
            one.loss(one.network, one.batch)
        try:
            with replayed(victim, outputs):
                quick = _answers(victim, one.batch[0])
        except (StopIteration, IndexError, RuntimeError):  # the loss asks of its network something else
            return False
    return torch.equal(quick, _answers(victim, one.batch[0]))


def _by_layer(names: Sequence[str]) -> list[list[str]]:
    layers: dict[int, list[str]] = {}
    for name in names:
        number = re.search(r"\.(\d+)\.", name)
        layers.setdefault(int(number[1]) if number else -1, []).append(name)
    return [layers[layer] for layer in sorted(layers)]


def _answers(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Log-probabilities, one row for each sample, or for each token that is not padding."""
    with torch.inference_mode():
        logits = getattr(module(**inputs), "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 3):
        raise Inapplicable("The network gives no logits of classes or tokens, by which coefficients could be chosen.")
    mask = inputs.get("attention_mask")
    if logits.ndim == 3:
        logits = logits.flatten(0, 1) if mask is None else logits[mask != 0]
    return logits.log_softmax(-1)
