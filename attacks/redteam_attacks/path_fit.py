"""Path fit: gauges of all sites learned at once, for networks between base and victim that answer as the victim."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from redteam.anatomy import ORDER, Site, Sites, anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.modules import plain_parameters
from redteam.errors import Inapplicable
from redteam.imitation import answers, imitating, same_basis, unlabelled
from redteam.memory import require
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.symmetry.charts import Chart, chart_of
from redteam.symmetry.fit_all import fit_all
from redteam.symmetry.fitting import apart, looked_up, moved
from redteam.tasks import Batch
from redteam.training import Loss, endless, in_turn
from redteam.views import AttackerView
from redteam_attacks.standing_in import standing_in
from redteam_attacks.training import Size, Steps

_BYTES = 28  # for each weight: both ends and the point between, teacher and student, and gradients in two widths
_HELD = 4  # one input of so many is held out, to tell whether the fit got better
_POINTS = 5  # of the path, at which that is told
_LARGEST_GRADIENT = 1.0
_NEAR = 1.5  # times the farthest companion's distance from the base: as far as a fine-tune lies

Ends = Annotated[tuple[float, float], Range(0.0, 1.0)]


@attack(
    "path-fit",
    needs=Needs.ANCHOR | Needs.COMPANIONS,
    targets=("mergelock",),
    paper="loss-barrier fit of all symmetries, arXiv:2606.23607; learned matching, Theus et al., arXiv:2506.22712",
)
def path_fit(
    view: AttackerView,
    *,
    steps: Steps = 150,
    rate: Annotated[float, Range(1e-5, 1.0, log=True)] = 3e-3,
    batch: Size = 64,
    inputs: Annotated[int, Range(8, 10**6)] = 1024,
    temperature: Annotated[float, Range(0.5, 20.0, log=True)] = 2.0,
    features: Annotated[float, Range(0.0, 100.0)] = 1.0,
    path: Ends = (0.25, 0.75),
    closed: bool = True,
    sites: Sites = ORDER,
) -> Checkpoint:
    """min over gauges G of E_c [T² KL(victim ‖ θ₀ + c (G·θ − θ₀)) + features · error of the hidden states].

    Closed forms ask where weights lie closest to the base's; this asks where what lies between works, which is what a
    merge is made of. It starts from the closed forms and goes on by Adam in coordinates around them, all sites at once.
    Gauges that lie apart (permutations, signs) stay as the closed forms leave them. The function stays whatever comes
    out. Inputs are those of the attacker's own tasks, which ask the victim for little of its skill: where weights lie
    about as near to the base as companions do already, or held-out inputs get no better, it learns nothing.

    Args:
        view: Grants the base, and companions with data of their tasks.
        steps: Optimizer steps, each at one point of the path.
        rate: Adam's first rate, in coordinates of the gauges; it falls to zero along a half cosine.
        batch: Samples to a step, all of one task.
        inputs: Of each of the attacker's own tasks; a quarter is held out.
        temperature: T, by which both networks' logits are divided.
        features: Weight of the hidden states' error, as in `distillation`; 0 for logits alone.
        path: The range from which c is drawn evenly.
        closed: Whether closed forms are fitted first; else it starts from the weights as they are.
        sites: Kinds of sites to fit.

    Raises:
        Inapplicable: If there is no task of the attacker's own, no site whose gauges can be learned, or the network
            stacks tensors of a site.
        NotEnoughMemory: If the run may not take so much.
    """
    if not view.companions:
        raise Inapplicable("There is no task of the attacker's own to take inputs from; give companions.")
    start = fit_all(view.protected, view.anchor, sites) if closed else view.protected
    require(_BYTES * start.weights, f"Learning gauges of a network of {start.weights / 1e6:.3g} million weights")
    way = _Way.between(view.anchor, start, sites)
    if way.length(start) <= _NEAR * max(way.length(one) for one in view.companions.values()):
        return start
    learning, held = _inputs(view, inputs, batch)
    with torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
        teacher = view.protected.module(torch.float32)
    loss = imitating(teacher, temperature, features if features and way.same_basis(teacher, held[0]) else 0.0)
    still = [torch.zeros(site.heads, chart.width, dtype=torch.float64) for site, chart in way.charts]
    learned = [one.clone().requires_grad_() for one in still]
    optimizer = torch.optim.Adam(learned, lr=rate, foreach=False)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draws = view.generator("points of the path")
    for _ in view.steps(steps):
        optimizer.zero_grad()
        share = path[0] + (path[1] - path[0]) * float(draws.random())
        with torch.enable_grad():
            way.loss(loss, next(learning), way.end(learned), share).backward()
        nn.utils.clip_grad_norm_(learned, _LARGEST_GRADIENT, foreach=False)
        optimizer.step()
        schedule.step()
    found = [one.detach() for one in learned]
    before, after = (way.barrier(loss, held, way.end(each), path) for each in (still, found))
    return way.moved(found).stored_as(view.protected) if after < before else start


def _inputs(view: AttackerView, count: int, size: int) -> tuple[Iterator[Batch], list[Batch]]:
    """Batches of the attacker's own tasks in turn, without end, and one batch of each task to judge by."""
    pools, held = [], []
    for task in view.companions:
        given = view.own_inputs(task, count)
        rows = len(next(iter(given.values())))
        apart = min(size, max(1, rows // _HELD))
        held.append(unlabelled({name: value[:apart] for name, value in given.items()}))
        rest = {name: value[apart if rows > apart else 0 :] for name, value in given.items()}
        pools.append(endless(unlabelled(rest), size, view.generator(f"batches of {task}")))
    return in_turn(pools), held


@dataclass(frozen=True)
class _Way:
    """The straight line from the base to a victim under gauges, as one network.

    Attributes:
        victim: In float64.
        anchor: Where the line begins.
        network: Its network, float32.
        base: Parameter of it → where the base has it; the victim's own where it lacks it.
        charts: The sites whose gauges can be learned, and how.
        places: Name of a tensor of these sites → the parameter that it is.
    """

    victim: Checkpoint
    anchor: Checkpoint
    network: nn.Module
    base: Mapping[str, Tensor]
    charts: tuple[tuple[Site, Chart], ...]
    places: Mapping[str, str]

    @classmethod
    def between(cls, base: Checkpoint, victim: Checkpoint, kinds: Sites) -> _Way:
        exact = victim.cast(torch.float64)
        exact = Checkpoint.of(dict(exact.items()), victim.config)  # else every step would compute it anew
        found = [(site, chart) for site in anatomy_of(exact).sites(kinds) if (chart := chart_of(site)) is not None]
        if not found:
            raise Inapplicable("No gauge of this network can be learned: where any is legal, they lie apart.")
        places, names = plain_parameters(exact), {name for site, _ in found for name in site.names}
        if stacked := sorted(names - set(places)):
            raise Inapplicable(f"The network holds {stacked[0]!r} in another form; expected each tensor as it is.")
        with torch.random.fork_rng(devices=[]):
            network = exact.module(torch.float32).requires_grad_(False)
            other = exact.replace({name: base[name] for name in shared_tensors(exact, base)}).module(torch.float32)
        there = {name: one.detach() for name, one in other.named_parameters()}
        return cls(exact, base, network, there, tuple(found), {name: places[name] for name in sorted(names)})

    def moved(self, coordinates: Sequence[Tensor]) -> Checkpoint:
        """The victim under the gauges at some coordinates, one `[heads, width]` for each chart; lazy."""
        gauges = {site.label: chart.gauge(x) for (site, chart), x in zip(self.charts, coordinates, strict=True)}
        found = self.victim
        for sites in apart([site for site, _ in self.charts]):
            found = moved(found, sites, looked_up(gauges))
        return found

    def end(self, coordinates: Sequence[Tensor]) -> dict[str, Tensor]:
        """Parameter → where it lies under the gauges at some coordinates, float64; of what they move."""
        moved = self.moved(coordinates)
        return {place: moved[name] for name, place in self.places.items()}

    def length(self, expert: Checkpoint) -> float:
        """‖θ − θ₀‖ of an expert over what gauges of the victim move and the base has."""
        common = shared_tensors(expert, self.anchor)
        apart = (expert[name].double() - self.base[self.places[name]] for name in common if name in self.places)
        return math.sqrt(sum(float(one.square().sum()) for one in apart))

    def loss(self, loss: Loss, batch: Batch, end: Mapping[str, Tensor], share: float) -> Tensor:
        """The loss of the network at θ₀ + share (G·θ − θ₀), a scalar."""
        ends = dict(self.network.named_parameters()) | {place: there.float() for place, there in end.items()}
        between = {name: torch.lerp(self.base[name], there, share) for name, there in ends.items()}
        return standing_in(self.network, between, lambda network: loss(network, batch))

    def barrier(self, loss: Loss, held: Sequence[Batch], end: Mapping[str, Tensor], path: Ends) -> float:
        """The mean loss over batches and points of the path; infinite where it is no number."""
        shares = torch.linspace(*path, _POINTS).tolist()
        with torch.no_grad():
            found = [float(self.loss(loss, batch, end, share)) for batch in held for share in shares]
        mean = sum(found) / len(found)
        return mean if math.isfinite(mean) else math.inf

    def same_basis(self, teacher: nn.Module, batch: Batch) -> bool:
        """Whether what the blocks read first lies where the base has it, so that hidden states can be compared."""
        with torch.no_grad():
            theirs = answers(teacher, batch[0], hidden=True)[1][:1]
            if not theirs:
                return False
            ours = standing_in(self.network, self.base, lambda network: answers(network, batch[0], hidden=True)[1][0])
        return same_basis((ours,), theirs)
