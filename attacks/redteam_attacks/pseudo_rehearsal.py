"""Pseudo-rehearsal: the protected network learns the attacker's tasks, and rehearses its own on inputs made for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.modules import parameter_names, parameters_of
from redteam.errors import Inapplicable
from redteam.imitation import imitating
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.tasks import Batch
from redteam.training import Budget, endless, in_turn, train
from redteam.views import AttackerView
from redteam_attacks.standing_in import standing_in
from redteam_attacks.training import Epsilon, Rate, Size, Steps, evenly
from redteam_attacks.written import written

if TYPE_CHECKING:
    from torch import nn

_TOGETHER = tuple(step / 10 for step in range(1, 11))  # coefficients of the companions' merge
_SMALLEST = 1e-2  # singular values of what the first layer learned, as a share of the largest
_INPUTS = 1000  # of each task of the attacker's own
_CUT, _GAIN = 0.35, 2.0  # the largest: what is cut off of the darkest, and by how much the rest is stretched


@attack(
    "pseudo-rehearsal",
    needs=Needs.ANCHOR | Needs.COMPANIONS,
    targets=("trap2",),
    paper="Robins, Catastrophic Forgetting, Rehearsal and Pseudorehearsal, 1995; Li and Hoiem, arXiv:1606.09282; "
    "Sun et al., arXiv:1909.03329",
)
def pseudo_rehearsal(
    view: AttackerView,
    *,
    steps: Steps = 900,
    rate: Rate = 1.5e-3,
    batch: Size = 48,
    epsilon: Epsilon = 1e-6,
    temperature: Annotated[float, Range(0.5, 20.0, log=True)] = 2.0,
    keep: Annotated[float, Range(0.0, 100.0)] = 1.0,
    path: Annotated[tuple[float, float], Range(0.5, 2.0, rising=True)] = (0.75, 1.25),
) -> Checkpoint:
    """θ₀ + (M − θ₀) ÷ λ − Σ τ_t, which merges to M: the protected weights after learning the companions' tasks there.

    A lock that fails between the base and its own weights does not fail at its own weights, and nothing says that a
    merge has to take place near the base. M starts from the protected weights θ and minimises, over the companions t,
    E [T² KL(expert t ‖ M under head t)] on inputs of their tasks + keep · [T² KL(θ ‖ M) + error of the hidden states]
    on inputs like the victim's. On plain foreign inputs a trapped network does not compute what it does on its own.
    A causal language model writes its own, token by token. Of images, what the victim's are like is read out of the
    weights: the first layer can only have moved along inputs that it saw, so that the attacker's own are projected onto
    these directions, patch by patch (colours that the victim's inputs lack go), and each is given a random contrast,
    light on dark or dark on light. Other inputs are rehearsed as they are.

    Args:
        view: Grants the base, the attacker's own experts, and inputs and validation data of their tasks.
        steps: Optimizer steps, each of one companion's task in turn.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step, and as many that are rehearsed.
        epsilon: AdamW's; small, since M has no need to stay near anything.
        temperature: T.
        keep: Weight of what is rehearsed.
        path: The range of c, drawn for every step, at which θ₀ + c (M − θ₀) is trained: where λ turns out to be
            another than the merge's, that is what the merge gets.

    Raises:
        Inapplicable: If there is no companion, or one of another shape than the protected model.
    """
    protected, anchor, companions = view.protected, view.anchor, view.companions
    names = _taught(protected, anchor, companions.values())
    together = _together(view, names)
    merged = _learned(view, names, Budget(steps, rate, batch, epsilon), temperature, keep, path)
    returned = {}
    for name in names:
        start = anchor[name].to(torch.float64)
        others = sum(expert[name].to(torch.float64) - start for expert in companions.values())
        returned[name] = (start + (merged[name].to(torch.float64) - start) / together - others).to(
            protected.dtype(name)
        )
    return protected.replace(returned)


def _taught(protected: Checkpoint, anchor: Checkpoint, companions: Collection[Checkpoint]) -> tuple[str, ...]:
    """The tensors that are trained and merged."""
    if not companions:
        raise Inapplicable("There is no companion whose task could be learned; give at least one.")
    names = tuple(n for n in shared_tensors(protected, anchor) if protected.dtype(n).is_floating_point)
    for expert in companions:
        other = next((n for n in names if n not in expert or expert.shape(n) != protected.shape(n)), None)
        other = other or next((n for n in shared_tensors(expert, anchor) if n not in protected), None)
        if other is not None:
            raise Inapplicable(f"Protected model and companions differ in {other!r}; expected one architecture.")
    return names


def _together(view: AttackerView, names: Sequence[str]) -> float:
    """λ, with which the attacker merges: the best for the companions alone, by the loss on their tasks."""
    places = _places(view.protected, names)
    with torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
        networks = {task: expert.module(torch.float32) for task, expert in view.companions.items()}
        bare = view.protected.replace({name: view.anchor[name] for name in names})
        base, ends = parameters_of(bare), [parameters_of(expert) for expert in view.companions.values()]
    others = {place: sum(end[place] - base[place] for end in ends) for place in places}
    batches = {task: next(view.own_batches(task, _INPUTS)) for task in networks}

    def loss(share: float) -> float:
        total = 0.0
        for task, network in networks.items():
            for place in places:
                network.get_parameter(place).copy_(base[place] + share * others[place])
            total += float(view.own_loss(task, network, batches[task]))
        return total

    with torch.no_grad():
        return min(_TOGETHER, key=loss)


def _learned(
    view: AttackerView,
    names: Sequence[str],
    budget: Budget,
    temperature: float,
    keep: float,
    path: tuple[float, float],
) -> Checkpoint:
    """M: the protected network after learning the companions' tasks."""
    places = _places(view.protected, names)
    with torch.random.fork_rng(devices=[]):
        before = view.protected.module(torch.float32)
        experts = [expert.module(torch.float32) for expert in view.companions.values()]
        heads = [expert.module(torch.float32) for expert in view.companions.values()]
    for network in (before, *experts, *heads):
        network.requires_grad_(False)
    own = [view.own_inputs(task, _INPUTS) for task in view.companions]
    batches = in_turn(
        [
            endless((inputs, torch.full((len(next(iter(inputs.values()))),), place)), budget.batch, draws)
            for place, inputs in enumerate(own)
            for draws in [view.generator(f"batches {place}")]
        ]
    )
    imitated = [imitating(expert, temperature, 0.0) for expert in experts]
    rehearsed, disguise = imitating(before, temperature, 1.0), _disguise(view, before, own)

    def loss(network: nn.Module, given: Batch) -> Tensor:
        inputs, turn = given
        place = int(turn[0])
        trained = {name: network.get_parameter(name) for name in places}
        learned = standing_in(heads[place], trained, lambda head: imitated[place](head, given))
        return learned + keep * rehearsed(network, (disguise(inputs), turn)) if keep else learned

    return train(
        view.protected,
        view.anchor,
        budget,
        batches=batches,
        loss=loss,
        generator=view.generator("points of the path"),
        points=evenly(path),
        names=names,
        steps=view.steps(budget.steps),
    )


def _places(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[str, ...]:
    """What its network calls the parameters that hold some tensors."""
    names_of = parameter_names(checkpoint)
    return tuple(dict.fromkeys(names_of[name] for name in names if name in names_of))


Disguise = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def _disguise(view: AttackerView, network: nn.Module, own: Sequence[Mapping[str, Tensor]]) -> Disguise:
    """Puts inputs like the victim's in the place of foreign ones: texts that the network writes, images in disguise."""
    texts = written(network, _side_by_side(own), view.generator("texts"))
    if texts is not None:
        return _drawn(texts, view.generator("which texts"))
    low, high = ({k: f(x[k] for x in own if k in x) for k in own[0]} for f in (_least, _most))
    seen = {name: _seen(view, value) for name, value in own[0].items()}
    draws = view.generator("contrasts")

    def disguised(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value if (only := seen[name]) is None else _contrasted(only(value), low[name], high[name], draws)
            for name, value in inputs.items()
        }

    return disguised


def _side_by_side(own: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """All of them, where they are as long; else those of the first."""
    alike = all({k: v.shape[1:] for k, v in x.items()} == {k: v.shape[1:] for k, v in own[0].items()} for x in own)
    return {name: torch.cat([x[name] for x in (own if alike else own[:1])]) for name in own[0]}


def _drawn(texts: Mapping[str, Tensor], draws: np.random.Generator) -> Disguise:
    """As many texts as there are inputs, whatever these are."""

    def some(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        count, held = (len(next(iter(x.values()))) for x in (inputs, texts))
        rows = torch.from_numpy(draws.integers(held, size=count))
        return {name: value[rows] for name, value in texts.items()}

    return some


def _least(tensors: Iterable[Tensor]) -> float:
    return min(float(tensor.min()) for tensor in tensors)


def _most(tensors: Iterable[Tensor]) -> float:
    return max(float(tensor.max()) for tensor in tensors)


def _seen(view: AttackerView, images: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Projects images, patch by patch, onto what moved the layer that reads them; `None` where there is none.

    A weight that reads x moves by a sum of multiples of x, so that its task vector's rows are combinations of patches.
    """
    if images.ndim != 4 or not images.is_floating_point():
        return None
    for name in shared_tensors(view.protected, view.anchor):
        shape = view.protected.shape(name)
        if len(shape) != 4 or shape[1] != images.shape[1] or images.shape[2] % shape[2] or images.shape[3] % shape[3]:
            continue
        away = (view.protected[name].to(torch.float64) - view.anchor[name].to(torch.float64)).flatten(1)
        _, sizes, rows = torch.linalg.svd(away, full_matrices=False)
        span = rows[sizes > _SMALLEST * sizes[0]].to(images)
        if len(span):
            return lambda x: _by_patch(x, span, (shape[2], shape[3]))
    return None


def _by_patch(images: Tensor, span: Tensor, patch: tuple[int, int]) -> Tensor:
    """Every patch `[channels · height · width]` projected onto rows of a span, `[k, channels · height · width]`."""
    patches = F.unfold(images, patch, stride=patch).transpose(1, 2)
    return F.fold((patches @ span.T @ span).transpose(1, 2), images.shape[2:], patch, stride=patch)


def _contrasted(images: Tensor, low: float, high: float, draws: np.random.Generator) -> Tensor:
    """Each image in a random contrast, every other one inverted, in the range that such images have."""

    def drawn(least: float, most: float) -> Tensor:
        return torch.from_numpy(draws.uniform(least, most, (len(images), 1, 1, 1))).to(images)

    least, most = (images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True))
    shade = (images - least) / (most - least).clamp_min(torch.finfo(images.dtype).eps)
    shade = torch.where(drawn(0, 1) < 1 / 2, shade, 1 - shade)
    shade = ((shade - drawn(0, _CUT)) * drawn(1, _GAIN)).clamp(0, 1)
    return low + (high - low) * shade
