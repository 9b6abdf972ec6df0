"""What each merger is held against, on drawn tensors: `python -m tests.mergers.oracles` prints the table of the docs.

Releases are transcribed step by step, in float64, as they stand and not as it is quickest. Where a merger
draws, the transcription gets the same draws.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, Whole, shared_tensors
from redteam.checkpoint.modules import parameter_names
from redteam.key import Key
from redteam.plugins.registry import MERGERS
from redteam.tasks import Batch
from redteam.testing import toy_scenario
from redteam.views import MergerView
from tests.mergers import whole_oracles as whole

KEPT: Mapping[str, Any] = json.loads((Path(__file__).parent / "mergekit.json").read_text())
TAKES = {"slerp": 2, "nuslerp": 2, "arcee-fusion": 1, "nearswap": 1}
DATALESS = tuple(name for name in MERGERS.names if not MERGERS.load(name).spec.needs)
SHAPES: Mapping[str, tuple[int, ...]] = {
    "tall": (14, 9),
    "wide": (6, 31),
    "square": (8, 8),
    "flat": (9,),
    "conv": (4, 2, 3),
}
STREAM = Key.derive(seed=0, index=0, name="merge")
Tensors = Mapping[str, Tensor]
Formula = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""The change of a tensor from what it is in the base and its task vectors."""


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


def batch_of(task: str, samples: int) -> Batch:
    """The samples of a task that a merger is shown, the victim's in its owner's order."""
    scenario = toy_scenario("vit")
    if task == scenario.victim:
        stream = STREAM.child("owner").generator("samples of the victim's task")
        return next(scenario.tasks[task].batches("train", samples, stream))
    return next(scenario.tasks[task].batches("validation", samples, STREAM.generator(f"own/{task}")))


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
        made, found = of_toy(text), of_data()
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


def matrices(formula: Formula) -> Formula:
    """Else the mean, as all releases have it."""
    return lambda start, taus: formula(start, taus) if start.ndim == 2 else sum(taus) / len(taus)  # type: ignore[return-value]


# --- matrix by matrix -------------------------------------------------------------------------------------------------


def tsv(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
    """compute_and_sum_svd_mem_reduction of AntoAndGar/task_singular_vectors."""
    for i, tau in enumerate(taus):
        u, s, v = torch.linalg.svd(tau, full_matrices=False)
        if i == 0:
            sum_u, sum_s, sum_v = torch.zeros_like(u), torch.zeros_like(s), torch.zeros_like(v)
        reduced = int(s.shape[0] * (1 / len(taus)))
        sum_u[:, i * reduced : (i + 1) * reduced] = u[:, :reduced]
        sum_s[i * reduced : (i + 1) * reduced] = s[:reduced]
        sum_v[i * reduced : (i + 1) * reduced, :] = v[:reduced, :]
    u_u, _, v_u = torch.linalg.svd(sum_u, full_matrices=False)
    u_v, _, v_v = torch.linalg.svd(sum_v, full_matrices=False)
    return u_u @ v_u @ torch.diag(sum_s) @ u_v @ v_v


def iso_c(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
    """iso_c of danielm1405/iso-merging."""
    u, s, v = torch.linalg.svd(torch.stack(list(taus)).sum(0), full_matrices=False)
    return u @ torch.diag(torch.ones_like(s) * s.mean()) @ v


def iso_cts(share: float) -> Formula:
    """iso_cts of danielm1405/iso-merging."""

    def made(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
        short, count = min(start.shape), len(taus)
        common = int(short * share)
        common = short - round((short - common) / count) * count
        u, s, v = torch.linalg.svd(torch.stack(list(taus)).sum(0), full_matrices=False)
        common_u, common_s, common_v = u[:, :common], s[:common], v[:common, :]
        each = int((short - common) / count)
        all_u, all_s, all_v = torch.zeros_like(u), torch.zeros_like(s), torch.zeros_like(v)
        for i, tau in enumerate(taus):
            u, s, v = torch.linalg.svd(tau - common_u @ common_u.T @ tau, full_matrices=False)
            all_u[:, i * each : (i + 1) * each] = u[:, :each]
            all_s[i * each : (i + 1) * each] = s[:each]
            all_v[i * each : (i + 1) * each, :] = v[:each, :]
        all_u[:, count * each : count * each + common] = common_u
        all_s[count * each : count * each + common] = common_s
        all_v[count * each : count * each + common, :] = common_v
        u_u, _, v_u = torch.linalg.svd(all_u, full_matrices=False)
        u_v, _, v_v = torch.linalg.svd(all_v, full_matrices=False)
        return u_u @ v_u @ torch.diag(torch.ones_like(all_s) * all_s.mean()) @ u_v @ v_v

    return made


def wudi(ridge: float) -> Formula:
    """Where the loss of nathanielyvo/WUDI-Merging is least, beside a ridge."""

    def made(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
        target, gram = torch.zeros_like(start), ridge * torch.eye(start.shape[1], dtype=torch.float64)
        for tau in taus:
            target = target + tau @ (tau.T @ tau) / torch.norm(tau) ** 2
            gram = gram + tau.T @ tau / torch.norm(tau) ** 2
        return target @ torch.linalg.inv(gram)

    return made


def actmat(weights: Sequence[float]) -> Formula:
    """merge_actmat of marawangamal/actmat, with pinv's cutoff in float32; its weights are 1."""

    def made(start: Tensor, taus: Sequence[Tensor]) -> Tensor:
        d = torch.stack(list(taus))
        c = torch.tensor(weights, dtype=torch.float64)[:, None, None] * (d.transpose(1, 2) @ d)
        eps = torch.finfo(torch.float32).eps
        return (d @ c).sum(dim=0) @ torch.linalg.pinv(c.sum(dim=0), rtol=c.shape[1] * eps)

    return made


def cart(share: float, prior: float) -> Callable[[Tensors, Mapping[str, Tensors]], Tensors]:
    """_get_truncated_task_vectors and _merge_weights of JH-GEECS/CART."""

    def made(base: Tensors, experts: Mapping[str, Tensors]) -> Tensors:
        out = {}
        for name, start in base.items():
            average = start + sum(e[name] - start for e in experts.values()) / len(experts)
            total = torch.zeros_like(start)
            for expert in experts.values():
                value = expert[name] - average
                if start.ndim == 2:
                    u, s, v = torch.linalg.svd(value, full_matrices=False)
                    dim = max(1, int(share * s.shape[0]))
                    value = (u[:, :dim] * s[:dim]) @ v[:dim, :]
                total = total + value
            out[name] = average + prior * total
        return out

    return made


# --- entry by entry ---------------------------------------------------------------------------------------------------


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
}


# --- with data --------------------------------------------------------------------------------------------------------


def mean_of_toys() -> dict[str, Tensor]:
    scenario = toy_scenario("vit")
    names = set.intersection(*(set(shared_tensors(e, scenario.base)) for e in scenario.experts.values()))
    return {n: torch.stack([e[n].double() for e in scenario.experts.values()]).mean(0) for n in sorted(names)}


def regmean(samples: int, ratio: float) -> dict[str, Tensor]:
    """get_regmean_weights and merging_with_regmean_weights of FusionBench, in float64."""
    grams: list[dict[str, Tensor]] = []
    for task, expert in toy_scenario("vit").experts.items():
        network, found = expert.module(torch.float32), {}

        def hook(name: str, found: dict[str, Tensor]) -> Any:
            def look(module: Any, given: Any, output: Any) -> None:
                x = given[0].detach().reshape(-1, given[0].shape[-1]).double()
                found[name] = found.get(name, 0.0) + torch.matmul(x.transpose(0, 1), x)

            return look

        for name, module in network.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(hook(f"{name}.weight", found))
        inputs, _ = batch_of(task, samples)
        with torch.no_grad():
            for rows in torch.arange(len(next(iter(inputs.values())))).split(64):
                network(**{key: value[rows] for key, value in inputs.items()})
        grams.append(found)
    out = mean_of_toys()
    read = parameter_names(toy_scenario("vit").experts["left"])
    for name in (name for name in out if read[name] in grams[0]):
        size = grams[0][read[name]].shape[0]
        reduce = torch.full((size, size), ratio, dtype=torch.float64) + torch.eye(size, dtype=torch.float64) * (
            1 - ratio
        )
        weights = [gram[read[name]] * reduce for gram in grams]
        experts = toy_scenario("vit").experts.values()
        products = [w @ e[name].double().transpose(0, 1) for w, e in zip(weights, experts, strict=True)]
        out[name] = (torch.inverse(sum(weights)) @ sum(products)).transpose(0, 1)  # type: ignore[arg-type]
    return out


def fisher(samples: int, *, normalise: bool) -> dict[str, Tensor]:
    """arXiv:2111.09832 with labels as they are; normalised as merging_with_fisher_weights of FusionBench does it."""
    scenario, out = toy_scenario("vit"), mean_of_toys()
    squares = {}
    for task, expert in scenario.experts.items():
        network = expert.module(torch.float32)
        inputs, labels = batch_of(task, samples)
        total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in network.named_parameters()}
        for row in range(len(labels)):
            network.zero_grad()
            one = {key: value[row : row + 1] for key, value in inputs.items()}
            torch.nn.functional.cross_entropy(network(**one).logits, labels[row : row + 1]).backward()
            for name, parameter in network.named_parameters():
                if parameter.grad is not None:
                    total[name] += parameter.grad.double() ** 2
        held = parameter_names(expert)
        squares[task] = {name: total[held[name]] / len(labels) for name in out}
    norms = {task: sum(float((s[n] ** 2).sum()) for n in out) ** 0.5 for task, s in squares.items()}
    for name in out:
        top = bottom = torch.zeros(())
        for task, expert in scenario.experts.items():
            weight = (squares[task][name] + 1e-6) * (1 / (norms[task] + 1e-6) if normalise else 1.0)
            top, bottom = top + weight * expert[name].double(), bottom + weight
        out[name] = top / bottom
    return out


def neulig() -> dict[str, Tensor]:
    from tests.mergers.neulig_oracle import neulig as written_out

    return written_out(48, 6, 0.1)


WITH_DATA: Mapping[str, tuple[str, Callable[[], dict[str, Tensor]]]] = {
    "regmean:samples=48": ("FusionBench", lambda: regmean(48, 0.9)),
    "regmean:samples=48,alpha=0.6": ("FusionBench", lambda: regmean(48, 0.6)),
    "fisher:samples=24": ("its formula", lambda: fisher(24, normalise=False)),
    "fisher:samples=24,normalise=true": ("FusionBench", lambda: fisher(24, normalise=True)),
    "neulig:samples=48,steps=6,rate=0.1": ("its formula", neulig),
}


if __name__ == "__main__":
    sys.stdout.write("".join(rows()))
