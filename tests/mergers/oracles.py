"""What each merger is held against, on drawn tensors: `python -m tests.mergers.oracles` prints the table of the docs.

Releases are transcribed step by step, in float64, as they stand and not as it is quickest. Where a merger
draws, the transcription gets the same draws.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, Whole
from redteam.plugins.registry import MERGERS
from redteam.plugins.settings import settings_of
from redteam.testing import toy_scenario
from redteam.views import MergerView
from tests.mergers import adapter_oracles as adapters
from tests.mergers import whole_oracles as whole
from tests.mergers.adamerging_oracle import adamerging
from tests.mergers.data_oracles import STREAM, fisher, in_float64, regmean
from tests.mergers.matrix_oracles import Formula, Tensors, actmat, cart, iso_c, iso_cts, matrices, tsv, wudi
from tests.mergers.neulig_oracle import neulig

KEPT: Mapping[str, Any] = json.loads((Path(__file__).parent / "mergekit.json").read_text())
TAKES = {"slerp": 2, "nuslerp": 2, "arcee-fusion": 1, "nearswap": 1}
MERGEKIT = importlib.util.find_spec("mergekit") is not None
"""Whether the merger of that name has what it merges with."""
DATALESS = tuple(
    name for name in MERGERS.names if not MERGERS.load(name).spec.needs and (MERGEKIT or name != "mergekit")
)
SHAPES: Mapping[str, tuple[int, ...]] = {
    "tall": (14, 9),
    "wide": (6, 31),
    "square": (8, 8),
    "flat": (9,),
    "conv": (4, 2, 3),
}


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """A base and three experts that moved four fifths of the entries, by spectra that fall off."""
    draws = np.random.default_rng(7)
    base = {name: draws.standard_normal(shape) for name, shape in SHAPES.items()}
    experts = {}
    for task, size in (("left", 0.3), ("right", 0.1), ("victim", 0.5)):
        falling = {name: size / (1 + np.arange(shape[-1])) for name, shape in SHAPES.items()}
        moved = {
            name: start + falling[name] * draws.standard_normal(start.shape) * (draws.random(start.shape) < 0.8)
            for name, start in base.items()
        }
        experts[task] = _checkpoint(moved, dtype)
    return _checkpoint(base, dtype), experts


def _checkpoint(tensors: Mapping[str, Any], dtype: torch.dtype) -> Checkpoint:
    return Checkpoint.of({name: torch.from_numpy(np.asarray(t)).to(dtype) for name, t in tensors.items()}, {})


def of_mergekit(dtype: torch.dtype = torch.float32) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """The tensors that mergekit was given, which were of float32."""
    made = {
        who: Checkpoint.of({n: torch.tensor(t, dtype=torch.float32).to(dtype) for n, t in tensors.items()}, {})
        for who, tensors in KEPT["inputs"].items()
    }
    return made.pop("base"), made


def merged(text: str, base: Checkpoint, experts: Mapping[str, Checkpoint]) -> Checkpoint:
    """What a merger makes of as many of the experts as it takes."""
    plugin = MERGERS.load(text)
    used = dict(list(experts.items())[: TAKES.get(plugin.spec.name, len(experts))])
    made = plugin(MergerView(used, base, STREAM, plugin.spec.needs_base, plugin.spec.needs))
    if not plugin.spec.whole:
        result: Checkpoint = made
        return result
    return made.of("left") if made.rewire is None else run(made)


def run(made: Whole) -> Checkpoint:
    """What runs on a task, each layer as Σ f(v) vᵀ over the base's right singular vectors, which turn as it does."""
    shared, found = made.of("left"), {}
    assert made.rewire is not None
    layers = {
        name: torch.nn.utils.skip_init(torch.nn.Linear, *shared.shape(name)[::-1], bias=False)
        for name in shared
        if _is_matrix(shared, name)
    }
    for name, layer in layers.items():
        layer.weight = torch.nn.Parameter(shared[name].clone(), requires_grad=False)
    network = torch.nn.ModuleDict(layers)
    made.rewire(network, {name: f"{name}.weight" for name in layers})
    for name in layers:
        directions = torch.linalg.svd(shared[name].double()).Vh.to(shared[name])
        with torch.no_grad():
            found[name] = network[name](directions).T @ directions
    return shared.replace(found)


def _is_matrix(checkpoint: Checkpoint, name: str) -> bool:
    shape = checkpoint.shape(name)
    return len(shape) == 2 and 0 not in shape and checkpoint.dtype(name).is_floating_point


def of_toy(text: str, experts: Mapping[str, Checkpoint] | None = None, base: Checkpoint | None = None) -> Checkpoint:
    """What a merger with data makes of the toy's experts, or of others in their places."""
    scenario, plugin = toy_scenario("vit"), MERGERS.load(text)
    tasks, owner = scenario.tasks, STREAM.child("owner")
    given = (experts or scenario.experts, base or scenario.base, STREAM, plugin.spec.needs_base, plugin.spec.needs)
    result: Checkpoint = plugin(MergerView(*given, _tasks=tasks, _victim=scenario.victim, _owner=owner))
    return result


def differences() -> Iterator[tuple[str, str, float]]:
    """Merger with settings, source, and the largest difference, in units of each tensor's largest entry."""
    for text, tensors in KEPT["outputs"].items():
        made = merged(text, *of_mergekit())
        yield text, "mergekit", max(apart(made[name], torch.tensor(theirs)) for name, theirs in tensors.items())
    for text, (source, oracle) in ORACLES.items():
        base, experts = drawn()
        theirs = oracle(dict(base), {task: dict(expert) for task, expert in experts.items()})
        made = merged(text, base, experts)
        yield text, source, max(apart(made[name], theirs[name]) for name in base)
    for text, (source, of_data) in WITH_DATA.items():
        made, found = of_toy(text, *in_float64()), of_data()
        assert found.keys() == made.keys()
        yield text, source, max(apart(made[name], found[name]) for name in made)


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def rows() -> Iterator[str]:
    """The table of the docs: the largest difference of each merger to each source, rounded up to a digit."""
    worst: dict[tuple[str, str], float] = {}
    for text, source, difference in differences():
        pair = MERGERS.load(text).spec.name, source
        worst[pair] = max(difference, worst.get(pair, 0.0))
    yield "| merger | held against | largest difference |\n|---|---|---|\n"
    for (name, source), difference in sorted(worst.items()):
        yield f"| `{name}` | {source} | {rounded_up(difference):.0e} |\n"


def rounded_up(difference: float) -> float:
    """To a digit, at least 1e-15, below which it is chance."""
    difference = max(difference, 1e-15)
    power = 10.0 ** np.floor(np.log10(difference))
    return float(np.ceil(difference / power) * power)


def each(formula: Formula) -> Callable[[Tensors, Mapping[str, Tensors]], Tensors]:
    """A formula of one tensor as one of all, by the base and the task vectors."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        return {n: start + formula(start, [e[n] - start for e in experts.values()]) for n, start in base.items()}

    return made


def linear(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
    return {name: sum(e[name] for e in experts.values()) / len(experts) for name in base}  # type: ignore[misc]


def by_peft(name: str, **given: Any) -> Formula:
    """A function of peft.utils.merge_utils."""

    def made(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
        from peft.utils import merge_utils

        weights = torch.ones(len(taus), dtype=torch.float64)
        change: Tensor = getattr(merge_utils, name)(list(taus), weights, **given)
        return change

    return made


def ties(density: float) -> Callable[[Tensors, Mapping[str, Tensors]], Tensors]:
    """Trimmed, elected and averaged, the task vectors laid end to end."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        flat = torch.stack([torch.cat([(e[n] - base[n]).flatten() for n in base]) for e in experts.values()])
        for row in flat:
            row[row.abs() < row.abs().sort(descending=True).values[int(density * len(row)) - 1]] = 0
        sign = flat.sum(0).sign()
        agree = flat.sign() == torch.where(sign == 0, 1.0, sign)
        mean = (flat * agree).sum(0) / agree.sum(0).clamp(min=1)
        parts = mean.split([tensor.numel() for tensor in base.values()])
        return {n: base[n] + part.reshape(base[n].shape) for n, part in zip(base, parts, strict=True)}

    return made


def with_draws(
    formula: Callable[[Tensor, Tensor], Tensor], *, elect: bool, coefficient: float
) -> Callable[[Tensors, Mapping[str, Tensors]], Tensors]:
    """λ times the sum, or the elected mean, of a formula of each task vector and numbers drawn from [0, 1)."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        out = {}
        for name, start in base.items():
            kept = []
            for task, expert in experts.items():
                draws = STREAM.generator(f"{task}/{name}").random(tuple(start.shape))
                kept.append(formula(expert[name] - start, torch.from_numpy(np.asarray(draws))))
            deltas = torch.stack(kept)
            if elect:
                mask = deltas.sign() == (deltas.sum(0) >= 0) * 2 - 1
                divisor = mask.sum(0)
                divisor[divisor == 0] = 1
                change = (deltas * mask).sum(0) / divisor
            else:
                change = deltas.sum(0)
            out[name] = start + coefficient * change
        return out

    return made


def magprune(density: float, epsilon: float) -> Callable[[Tensor, Tensor], Tensor]:
    """rank_magnitude of declare-lab/della, whose rows of more than two axes are those under the first."""

    def made(tau: Tensor, draws: Tensor) -> Tensor:
        table = tau.reshape(1 if tau.ndim < 2 else len(tau), -1)
        ranking = torch.zeros_like(table)
        for i, order in enumerate(torch.argsort(table.abs(), dim=1)):
            ranking[i][order] = torch.arange(1, table.shape[1] + 1, dtype=torch.float64)
        span = ranking.max(1, keepdim=True).values - ranking.min(1, keepdim=True).values
        p = (density - epsilon) + (ranking - ranking.min(1, keepdim=True).values) / span * (2 * epsilon)
        return (table * (draws.reshape(table.shape) < p) / p).reshape(tau.shape)

    return made


def crumbs(keep: float, remove: float) -> Formula:
    """TaskVectorMiddleKeep of rezazzr/breadcrumbs, which goes row by row."""

    def masked(tensor: Tensor, share: float, *, top: bool) -> Tensor:
        if not tensor.ndim:
            return tensor
        _, indices = torch.topk(tensor.abs(), int(tensor.shape[-1] * share))
        mask = torch.full_like(tensor, 0.0 if top else 1.0)
        return mask.scatter_(-1, indices, 1.0 if top else 0.0) * tensor

    return lambda start, taus: 0.3 * sum(masked(masked(t, remove, top=False), keep, top=True) for t in taus)  # type: ignore[return-value]


def sce(share: float) -> Formula:
    """SCETask of FuseAI's mergekit, which selects for the weights alone."""

    def made(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
        deltas = torch.stack(list(taus))
        variance = torch.var(deltas, dim=0, unbiased=False)
        k = int(share * torch.count_nonzero(variance))
        mask = torch.zeros_like(variance)
        mask.view(-1)[torch.topk(variance.abs().view(-1), k=k).indices] = 1
        weights = torch.tensor([float((d * mask).square().sum()) / d.numel() for d in deltas], dtype=torch.float64)
        weights = (weights / weights.sum()).reshape(-1, *[1] * start.ndim)
        erased = weights * (deltas.sign() == (deltas.sum(0) >= 0) * 2 - 1)
        divisor = erased.sum(0)
        divisor[divisor == 0] = 1
        return (deltas * erased).sum(0) / divisor

    return made


def consensus(tasks: int) -> Formula:
    """generate_task_masks and construct_consensus_mask of nik-dim/tall_masks."""

    def made(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
        total = torch.stack(list(taus)).sum(0)
        masks = [(start - (start + tau)).abs() > ((start + total) - (start + tau)).abs() * 0.4 for tau in taus]
        used: Tensor = sum(mask.to(torch.float64) for mask in masks)  # type: ignore[assignment]
        return 0.3 * total * (used >= tasks)

    return made


def magmax(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
    stacked = torch.stack(list(taus))
    return 0.5 * stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]


def ramplus(r: float, alpha: float) -> Callable[[Tensors, Mapping[str, Tensors]], Tensors]:
    """As mergekit's ramplus_tl, but counted over the whole model."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        active = {n: torch.stack([(e[n] - base[n]).abs() > 1e-5 for e in experts.values()]) for n in base}
        out, scales = {}, []
        for t in range(len(experts)):
            alone = sum(float((a[t] & (a.sum(0) == 1)).sum()) for a in active.values())
            shared = sum(float((a[t] & (a.sum(0) > 1)).sum()) for a in active.values())
            scales.append(1 + r * min(shared / alone, alpha))
        for name, start in base.items():
            taus, count = torch.stack([e[name] - start for e in experts.values()]), active[name].sum(0)
            mean = (taus * active[name]).sum(0) / count.clamp(min=1)
            scale = (active[name] * torch.tensor(scales, dtype=torch.float64).reshape(-1, *[1] * start.ndim)).sum(0)
            out[name] = start + mean * torch.where(count == 1, scale, 1.0)
        return out

    return made


ORACLES: Mapping[str, tuple[str, Callable[[Tensors, Mapping[str, Tensors]], Tensors]]] = {
    "linear": ("its formula", linear),
    "task-arithmetic:coefficient=1.0": ("peft", each(by_peft("task_arithmetic"))),
    "ties:variant=peft,density=0.5": ("peft", each(by_peft("ties", density=0.5))),
    "ties": ("its formula", ties(0.2)),
    "dare": ("its formula", with_draws(lambda tau, draws: tau * (draws < 0.5) / 0.5, elect=False, coefficient=0.3)),
    "dare:elect=true": ("its formula", with_draws(lambda tau, d: tau * (d < 0.5) / 0.5, elect=True, coefficient=0.3)),
    "della": (
        "the release",
        with_draws(magprune(0.7, 0.07), elect=True, coefficient=1.1),
    ),
    "breadcrumbs:by=row,density=0.4,gamma=0.2": ("the release", each(crumbs(0.4, 0.2))),
    "sce:variant=release,density=0.3": ("the release", each(sce(0.3))),
    "magmax": ("its formula", each(magmax)),
    "consensus": ("the release", each(consensus(2))),
    "consensus:tasks=3": ("the release", each(consensus(3))),
    "ramplus:r=0.7,alpha=9.0": ("its formula", ramplus(0.7, 9.0)),
    "tsv-m": ("the release", each(matrices(tsv))),
    "iso-c": ("the release", each(matrices(iso_c))),
    "iso-cts": ("the release", each(matrices(iso_cts(0.8)))),
    "iso-cts:common=0.3": ("the release", each(matrices(iso_cts(0.3)))),
    "wudi": ("the release's loss", each(matrices(wudi(1e-2)))),
    "wudi:ridge=1e-8": ("the release's loss", each(matrices(wudi(1e-8)))),
    "actmerge": ("the release", each(matrices(actmat((1.0, 1.0, 1.0))))),
    "actmerge:weights=[[right,3.0]]": ("the release", each(matrices(actmat((1.0, 3.0, 1.0))))),
    "cart": ("the release", cart(0.08, 1.0)),
    "cart:rank=0.32,coefficient=1.9": ("the release", cart(0.32, 1.9)),
    "emr": ("the release", whole.emr(flat=True)),
    "emr:rescale=tensor": ("the release", whole.emr(flat=False)),
    "smile:gate=3,rank=5": ("the release", whole.smile(gate=3, k=5, top=1)),
    "smile:gate=3,rank=16,top=2": ("the release", whole.smile(gate=3, k=16, top=2)),
    "mdm-oc": ("its formula", whole.mdm_oc),
    "knots": ("the release", adapters.knots(0.2, 0.6, scaled=True)),
    "knots:density=0.5,coefficient=1.0": ("the release", adapters.knots(0.5, 1.0, scaled=True)),
    "knots:variant=paper,density=0.4": ("its formula", adapters.knots(0.4, 0.6, scaled=False)),
    "core-space:rank=2": (
        "the release",
        adapters.core_space(lambda cores: tsv(cores[0], cores), rank=2, isotropic=True),
    ),
    "core-space:rank=3,isotropic=false": (
        "the release",
        adapters.core_space(lambda cores: tsv(cores[0], cores), rank=3, isotropic=False),
    ),
    "core-space:rank=2,combination=ties,isotropic=false": (
        "the release",
        adapters.core_space(lambda cores: adapters.ties_merging(cores, 0.3), rank=2, isotropic=False),
    ),
    **{
        f"peft:rank=3,density=0.4,combination={name}": (
            "peft",
            adapters.by_peft(name, rank=3, density=0.4, stream=STREAM),
        )
        for name in get_args(settings_of(MERGERS.load("peft").function)["combination"].annotation)
    },
}


WITH_DATA: Mapping[str, tuple[str, Callable[[], dict[str, Tensor]]]] = {
    "regmean:samples=48": ("FusionBench", lambda: regmean(48, 0.9)),
    "regmean:samples=48,alpha=0.6": ("FusionBench", lambda: regmean(48, 0.6)),
    "fisher:samples=24": ("its formula", lambda: fisher(24, normalise=False)),
    "fisher:samples=24,normalise=true": ("FusionBench", lambda: fisher(24, normalise=True)),
    "adamerging:samples=32,steps=5,rate=0.05": (
        "the release",
        lambda: adamerging(32, 5, 0.05, layer_wise=True, plus=False),
    ),
    "adamerging:samples=32,steps=5,rate=0.05,layers=false": (
        "the release",
        lambda: adamerging(32, 5, 0.05, layer_wise=False, plus=False),
    ),
    "adamerging:samples=32,steps=5,rate=0.05,plus=true": (
        "the release",
        lambda: adamerging(32, 5, 0.05, layer_wise=True, plus=True),
    ),
    "neulig:samples=48,steps=6,rate=0.1": ("its formula", lambda: neulig(48, 6, 0.1)),
}


if __name__ == "__main__":
    sys.stdout.write("".join(rows()))
