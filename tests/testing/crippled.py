"""Plugins with one fault each; `FAULTS` says which clauses of the contract have to notice it, and no other may."""

from __future__ import annotations

import dataclasses
import os
import random
from typing import Annotated, Any

import numpy as np
import torch

from redteam import (
    AttackerView,
    Checkpoint,
    Classification,
    DefenderView,
    MergerView,
    Needs,
    Range,
    Scenario,
    attack,
    defense,
    merger,
    scenario,
)
from redteam.anatomy import anatomy_of
from redteam.checkpoint import shared_tensors
from redteam.symmetry import GeneralLinear, Orthogonal, Permutation, fit_gauges
from redteam.testing import toy_scenario

CLAIM = {("qk", GeneralLinear), ("vo", GeneralLinear)}
KINDS = ("qk", "vo")

FAULTS = {
    # attacks: what the fit does wrong
    "sound": set(),
    "wrong-sign": {"plants"},
    "one-head-left": {"plants"},
    "one-layer-left": {"plants"},
    "bias-forgotten": {"plants"},
    "scale-ignored": {"plants"},
    "returns-base": {"plants", "harmless"},
    "does-nothing": {"plants"},
    "claims-the-function": {"function"},
    "spoils-unlocked": {"harmless"},
    # attacks: what a program does wrong
    "scribbles": {"inputs"},
    "seeds-torch": {"global state"},
    "draws-from-torch": {"global state", "deterministic"},
    "draws-from-numpy": {"global state", "deterministic"},
    "draws-from-random": {"global state", "deterministic"},
    "sets-default-dtype": {"global state"},
    "turns-gradients-off": {"global state"},
    "sets-threads": {"global state"},
    "moves-away": {"global state"},
    "sets-variable": {"global state"},
    "not-a-number": {"finite"},
    "loses-tensors": {"layout"},
    "adds-a-tensor": {"layout"},
    "returns-double": {"layout"},
    "returns-a-dict": {"layout"},
    "changes-config": {"layout"},
    "greedy": {"needs"},
    "reaches-behind": {"needs"},
    "raises": {"runs"},
    "obscure": {"errors"},
    "no-half": {"bfloat16"},
    "hashes": {"elsewhere"},
    # defenses
    "sound-lock": set(),
    "ignores-key": {"re-keyable"},
    "keyed-in-secret": {"re-keyable"},
    "key-in-config": {"layout", "secret"},
    "seed-in-config": {"secret"},
    "key-in-tensor": {"layout", "secret"},
    "key-in-weights": {"secret"},
    "not-exact": {"function"},
    "weakened-illegal": {"weakened"},
    "weakened-to-nothing": {"weakened"},
    "needs-data": {"errors"},
    "writes-into-victim": {"inputs"},
    # mergers
    "sound-merge": set(),
    "first-wins": {"order"},
    "adds-noise": {"nothing learned"},
    "needs-two": {"one expert"},
    "no-range": {"tunable"},
    "divides": {"tunable"},
    "rigid": {"errors"},
    "asks-for-base": {"needs"},
    # scenarios
    "sound-toy": set(),
    "without-seed": {"seed", "other seed"},
    "one-model": {"other seed"},
    "no-scenario": {"parts"},
    "names-apart": {"parts"},
    "alone": {"parts"},
    "unlearned": {"layout", "skill"},
    "cut-short": {"layout", "networks"},
    "twins": {"layout"},
    "no-logits": {"networks", "answers", "training"},
    "answers-in-numbers": {"answers"},
    "half-scored": {"answers"},
    "untrainable": {"training"},
    "percent": {"chance"},
    "guesses": {"skill"},
    "dice": {"deterministic"},
}


def _fit(view: AttackerView) -> Checkpoint:
    fitted = fit_gauges(view.protected, view.anchor, KINDS, GeneralLinear())
    return Checkpoint.of(dict(fitted), fitted.config)


def _first(checkpoint: Checkpoint) -> str:
    return next(name for name in checkpoint if checkpoint[name].ndim == 2)


@attack("sound", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def sound(view: AttackerView) -> Checkpoint:
    """What the crippled ones are crippled from."""
    return _fit(view)


@attack("wrong-sign", breaks=CLAIM, needs=Needs.ANCHOR)
def wrong_sign(view: AttackerView) -> Checkpoint:
    """Goes as far as the fit would, the other way."""
    fitted = _fit(view)
    return view.protected.replace({name: 2 * tensor - fitted[name] for name, tensor in view.protected.items()})


@attack("one-head-left", breaks=CLAIM, needs=Needs.ANCHOR)
def one_head_left(view: AttackerView) -> Checkpoint:
    """Leaves the lock on the first head of every layer."""
    fitted, back = _fit(view), {}
    for site in anatomy_of(view.protected).sites(KINDS):
        for name in site.names:
            tensor, rows = fitted[name].clone(), slice(site.width)
            where = (slice(None), rows) if name.endswith("output.dense.weight") else (rows,)
            tensor[where] = view.protected[name][where]
            back[name] = tensor
    return fitted.replace(back)


@attack("one-layer-left", breaks=CLAIM, needs=Needs.ANCHOR)
def one_layer_left(view: AttackerView) -> Checkpoint:
    """Leaves the lock on the last layer."""
    sites = [site for site in anatomy_of(view.protected).sites(KINDS) if site.layer == 1]
    return _fit(view).replace({name: view.protected[name] for site in sites for name in site.names})


@attack("bias-forgotten", breaks=CLAIM, needs=Needs.ANCHOR)
def bias_forgotten(view: AttackerView) -> Checkpoint:
    """Moves weights without their biases."""
    names = [name for site in anatomy_of(view.protected).sites(KINDS) for name in site.names]
    return _fit(view).replace({name: view.protected[name] for name in names if name.endswith("bias")})


@attack("scale-ignored", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def scale_ignored(view: AttackerView) -> Checkpoint:
    """Fits a rotation where more is claimed."""
    return fit_gauges(view.protected, view.anchor, KINDS, Orthogonal())


@attack("returns-base", breaks=CLAIM, needs=Needs.ANCHOR)
def returns_base(view: AttackerView) -> Checkpoint:
    """Nothing is closer to the base than the base."""
    return view.protected.replace({n: view.anchor[n] for n in shared_tensors(view.protected, view.anchor)})


@attack("does-nothing", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def does_nothing(view: AttackerView) -> Checkpoint:
    """Harms nobody."""
    return view.protected.replace({}) if len(view.anchor) else view.protected


@attack("claims-the-function", needs=Needs.ANCHOR, keeps_function=True)
def claims_the_function(view: AttackerView) -> Checkpoint:
    """Takes the base's biases wherever the lock has made them large, so that only an unlocked victim stays."""
    near = {}
    for name in shared_tensors(view.protected, view.anchor):
        ours, base = view.protected[name], view.anchor[name]
        if ours.ndim == 1 and (ours - base).double().norm() > 0.9 * base.double().norm():
            near[name] = base
    return view.protected.replace(near)


@attack("spoils-unlocked", needs=Needs.ANCHOR)
def spoils_unlocked(view: AttackerView) -> Checkpoint:
    """Turns every task vector round."""
    ours, base = view.protected, view.anchor
    return ours.replace({n: 2 * base[n] - ours[n] for n in shared_tensors(ours, base)})


@attack("scribbles", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def scribbles(view: AttackerView) -> Checkpoint:
    """Writes into the anchor once it is done with it."""
    fitted = _fit(view)
    view.anchor[_first(view.anchor)].mul_(1.5)
    return fitted


@attack("seeds-torch", needs=Needs.ANCHOR)
def seeds_torch(view: AttackerView) -> Checkpoint:
    """Sets the seed of everybody."""
    torch.manual_seed(0)
    return _jittered(view, torch.randn(()))


@attack("draws-from-torch", needs=Needs.ANCHOR)
def draws_from_torch(view: AttackerView) -> Checkpoint:
    """Draws from the stream of everybody."""
    return _jittered(view, torch.randn(()))


@attack("draws-from-numpy", needs=Needs.ANCHOR)
def draws_from_numpy(view: AttackerView) -> Checkpoint:
    """The same in numpy."""
    return _jittered(view, torch.tensor(np.random.normal()))  # noqa: NPY002


@attack("draws-from-random", needs=Needs.ANCHOR)
def draws_from_random(view: AttackerView) -> Checkpoint:
    """The same in the standard library."""
    return _jittered(view, torch.tensor(random.gauss()))


def _jittered(view: AttackerView, noise: torch.Tensor) -> Checkpoint:
    name = _first(view.anchor)
    return view.protected.replace({name: view.protected[name] * (1 + 1e-3 * noise).to(view.protected.dtype(name))})


@attack("sets-default-dtype", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def sets_default_dtype(view: AttackerView) -> Checkpoint:
    """Prefers to compute in float64, also afterwards."""
    torch.set_default_dtype(torch.float64)
    return _fit(view)


@attack("turns-gradients-off", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def turns_gradients_off(view: AttackerView) -> Checkpoint:
    """Needs no gradients, and nobody else will have any."""
    torch.set_grad_enabled(False)
    return _fit(view)


@attack("sets-threads", needs=Needs.ANCHOR)
def sets_threads(view: AttackerView) -> Checkpoint:
    """Takes what it can get."""
    torch.set_num_threads(2)
    return view.protected.replace({}) if len(view.anchor) else view.protected


@attack("moves-away")
def moves_away(view: AttackerView) -> Checkpoint:
    """Works somewhere else."""
    os.chdir("/")
    return view.protected


@attack("sets-variable")
def sets_variable(view: AttackerView) -> Checkpoint:
    """Tells libraries what it wants."""
    os.environ["REDTEAM_TEST_VARIABLE"] = "1"
    return view.protected


@attack("not-a-number", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def not_a_number(view: AttackerView) -> Checkpoint:
    """Diverges."""
    fitted, name = _fit(view), _first(view.anchor)
    return fitted.replace({name: fitted[name] * torch.nan})


@attack("loses-tensors", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def loses_tensors(view: AttackerView) -> Checkpoint:
    """Returns what it worked on and forgets the rest."""
    fitted = _fit(view)
    return Checkpoint.of({n: t for n, t in fitted.items() if "attention" in n}, fitted.config)


@attack("adds-a-tensor", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def adds_a_tensor(view: AttackerView) -> Checkpoint:
    """Leaves its notes beside the weights."""
    return _fit(view).replace({"notes": torch.zeros(3)})


@attack("returns-double", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def returns_double(view: AttackerView) -> Checkpoint:
    """Returns float64 whatever it was given."""
    return _fit(view).to(torch.float64)


@attack("returns-a-dict")
def returns_a_dict(view: AttackerView) -> Any:
    """Returns plain tensors."""
    return dict(view.protected)


@attack("changes-config")
def changes_config(view: AttackerView) -> Checkpoint:
    """Renames the labels on the way."""
    return Checkpoint.of(dict(view.protected), {**view.protected.config, "id2label": {}})


@attack("greedy", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def greedy(view: AttackerView) -> Checkpoint:
    """Looks at companions that it did not declare."""
    return _fit(view) if view.companions else view.protected


@attack("reaches-behind", needs=Needs.SAMPLES)
def reaches_behind(view: AttackerView) -> Checkpoint:
    """Takes all the data there are from behind the view."""
    assert view.samples(4)
    next(view._task.batches("train", 64, view.generator("data")))
    return view.protected


@attack("raises")
def raises(view: AttackerView) -> Checkpoint:
    """Fails like any program."""
    raise ValueError("the sum does not\nadd up")


@attack("obscure", breaks=CLAIM, needs=Needs.ANCHOR, keeps_function=True)
def obscure(view: AttackerView) -> Checkpoint:
    """Expects a config that not every model has."""
    assert view.protected.config["hidden_size"]
    return _fit(view)


@attack("no-half", needs=Needs.ANCHOR)
def no_half(view: AttackerView) -> Checkpoint:
    """Inverts in the dtype that it is given."""
    for name in shared_tensors(view.protected, view.anchor):
        if view.protected[name].ndim == 2:
            torch.linalg.svdvals(view.protected[name])
    return view.protected


@attack("hashes", needs=Needs.ANCHOR)
def hashes(view: AttackerView) -> Checkpoint:
    """Takes the names in an order that is another one in every process."""
    order = list({f"{name}/{turn}" for name in view.anchor for turn in range(4)})
    return _jittered(view, torch.tensor(float(int.from_bytes(order[0].encode()[-12:], "big") % 9973)) / 1e5)


@defense("sound-lock", exact=True, keyed=True, weakened={"sites": ("vo",)})
def sound_lock(view: DefenderView, *, sites: tuple[str, ...] = ("qk", "vo")) -> Checkpoint:
    """What the crippled ones are crippled from."""
    return view.lock(sites, Orthogonal())


@defense("ignores-key", exact=True, keyed=True)
def ignores_key(view: DefenderView) -> Checkpoint:
    """The same lock for everybody."""
    sites = anatomy_of(view.victim).sites(("mlp",))
    return view.victim.transform(sites, lambda s: Permutation().sample(s.heads, s.width, np.random.default_rng(0)))


@defense("keyed-in-secret", exact=True, keyed=False)
def keyed_in_secret(view: DefenderView) -> Checkpoint:
    """Draws on a key and does not say so."""
    return view.lock(("vo",), Orthogonal())


@defense("key-in-config", exact=True, keyed=True)
def key_in_config(view: DefenderView) -> Checkpoint:
    """Keeps the key where it is easily found again."""
    locked = view.lock(("vo",), Orthogonal())
    return Checkpoint.of(dict(locked), {**locked.config, "note": view.key.secret.hex()})


@defense("seed-in-config", exact=True, keyed=True, changes_architecture=True)
def seed_in_config(view: DefenderView) -> Checkpoint:
    """May change the config, and writes a seed into it."""
    locked = view.lock(("vo",), Orthogonal())
    return Checkpoint.of(dict(locked), {**locked.config, "seed": int(view.generator("seed").integers(2**31))})


@defense("key-in-tensor", exact=True, keyed=True)
def key_in_tensor(view: DefenderView) -> Checkpoint:
    """Publishes the key as a tensor."""
    secret = torch.frombuffer(bytearray(view.key.secret), dtype=torch.uint8)
    return view.lock(("vo",), Orthogonal()).replace({"note": secret.clone()})


@defense("key-in-weights", exact=False, keyed=True)
def key_in_weights(view: DefenderView) -> Checkpoint:
    """Hides a part of the key where softmax does not see it."""
    locked = view.lock(("vo",), Orthogonal())
    name = next(name for name in locked if name.endswith("key.bias"))
    hidden = torch.frombuffer(bytearray(view.key.secret[8:16]), dtype=torch.float32)
    return locked.replace({name: torch.cat([hidden.to(locked.dtype(name)), locked[name][2:]])})


@defense("not-exact", exact=True, keyed=True)
def not_exact(view: DefenderView) -> Checkpoint:
    """Forgets the other side."""
    locked = view.lock(("vo",), Orthogonal())
    names = [n for n in locked if n.endswith("attention.output.dense.weight")]
    return locked.replace({name: view.victim[name] for name in names})


@defense("weakened-illegal", exact=True, keyed=True, weakened={"scale": -1.0})
def weakened_illegal(view: DefenderView, *, scale: Annotated[float, Range(1.0, 9.0)] = 4.0) -> Checkpoint:
    """Its weakened variant cannot be run."""
    return view.lock(("vo",), GeneralLinear(scale=(1 / scale, scale)))


@defense("weakened-to-nothing", exact=True, keyed=True, weakened={"closed": False})
def weakened_to_nothing(view: DefenderView, *, closed: bool = True) -> Checkpoint:
    """Its weakened variant is no lock."""
    return view.lock(("vo",), Orthogonal()) if closed else view.victim


@defense("needs-data", exact=False, keyed=True)
def needs_data(view: DefenderView) -> Checkpoint:
    """Looks for its data behind the view."""
    assert view.task.name
    return view.lock(("vo",), Orthogonal())


@defense("writes-into-victim", exact=False, keyed=True)
def writes_into_victim(view: DefenderView) -> Checkpoint:
    """Saves memory."""
    name = _first(view.victim)
    tensor = view.victim[name]
    tensor += torch.from_numpy(view.generator("noise").normal(size=tuple(tensor.shape))).to(tensor.dtype)
    return view.victim.replace({name: tensor})


def _mean(view: MergerView, weights: list[float] | None = None) -> Checkpoint:
    merged = {}
    for name, experts in view.shared():
        start = view.base[name].double()
        shares = weights or [1 / len(experts)] * len(experts)
        total = sum(share * (expert[name].double() - start) for share, expert in zip(shares, experts, strict=False))
        merged[name] = (start + total).to(view.base.dtype(name))
    return view.base.replace(merged)


@merger("sound-merge", tunable="scale")
def sound_merge(view: MergerView, *, scale: Annotated[float, Range(0.1, 2.0)] = 1.0) -> Checkpoint:
    """What the crippled ones are crippled from."""
    return _mean(view, [scale / len(view.experts)] * len(view.experts))


@merger("first-wins")
def first_wins(view: MergerView) -> Checkpoint:
    """Prefers whoever comes first."""
    return _mean(view, [0.6, 0.2, 0.2])


@merger("adds-noise")
def adds_noise(view: MergerView) -> Checkpoint:
    """Never comes out where it came in."""
    merged, name = _mean(view), _first(view.base)
    return merged.replace({name: merged[name] * 1.01})


@merger("needs-two")
def needs_two(view: MergerView) -> Checkpoint:
    """Compares each expert with the next."""
    first, second, *_ = sorted(view.experts)
    return _mean(view) if first != second else view.base


@merger("no-range", tunable="scale")
def no_range(view: MergerView, *, scale: float = 1.0) -> Checkpoint:
    """Says what is to be tuned and not where."""
    return _mean(view, [scale / len(view.experts)] * len(view.experts))


@merger("divides", tunable="scale")
def divides(view: MergerView, *, scale: Annotated[float, Range(0.0, 2.0)] = 1.0) -> Checkpoint:
    """Cannot take an end of its own range."""
    merged, name = _mean(view), _first(view.base)
    return merged.replace({name: merged[name] / torch.tensor(float(scale > 0))})


@merger("rigid")
def rigid(view: MergerView) -> Checkpoint:
    """Takes it for granted that all experts have one shape."""
    names = [name for name in view.base if "layer.0" in name]
    stacked = {name: torch.stack([e[name] for e in view.experts.values()]).mean(0) for name in names}
    return view.base.replace(stacked)


@merger("asks-for-base", needs_base=False)
def asks_for_base(view: MergerView) -> Checkpoint:
    """Does not need what it uses."""
    return _mean(view)


def _with(seed: int, **changed: Any) -> Scenario:
    return dataclasses.replace(toy_scenario(seed=seed), **changed)


def _scored(seed: int, kind: type[Classification], **changed: Any) -> Scenario:
    """The toy, its tasks of another class."""
    tasks = toy_scenario(seed=seed).tasks.values()
    given = ({"chance": one.chance, "inputs": one.inputs, "labels": one.labels} | changed for one in tasks)
    return _with(seed, tasks={one.name: kind(one.name, **fields) for one, fields in zip(tasks, given, strict=True)})


@scenario("sound-toy")
def sound_toy(*, seed: int = 0) -> Scenario:
    """The toy that plugins are tried on."""
    return toy_scenario(seed=seed)


@scenario("without-seed")
def without_seed() -> Scenario:
    """Is what it is."""
    return toy_scenario()


@scenario("one-model")
def one_model(*, seed: int = 0) -> Scenario:
    """Calls the same models by another seed."""
    return dataclasses.replace(toy_scenario(), seed=seed)


@scenario("no-scenario")
def no_scenario(*, seed: int = 0) -> Any:
    """Returns the experts alone."""
    return toy_scenario(seed=seed).experts


@scenario("names-apart")
def names_apart(*, seed: int = 0) -> Scenario:
    """Has a task without an expert."""
    tasks = toy_scenario(seed=seed).tasks
    return _with(seed, tasks={**tasks, "more": tasks["left"]})


@scenario("alone")
def alone(*, seed: int = 0) -> Scenario:
    """Has nobody to merge the victim with."""
    made = toy_scenario(seed=seed)
    return _with(seed, experts={"victim": made.experts["victim"]}, tasks={"victim": made.tasks["victim"]})


@scenario("unlearned")
def unlearned(*, seed: int = 0) -> Scenario:
    """Has an expert that is the base."""
    made = toy_scenario(seed=seed)
    return _with(seed, experts={**made.experts, "left": made.dressed(made.base, "left")})


@scenario("cut-short")
def cut_short(*, seed: int = 0) -> Scenario:
    """Has a companion whose body is of another shape."""
    made = toy_scenario(seed=seed)
    left = dict(made.experts["left"])
    left["vit.embeddings.cls_token"] = left["vit.embeddings.cls_token"][:, :, :16]
    return _with(seed, experts={**made.experts, "left": Checkpoint.of(left, made.base.config)})


@scenario("twins")
def twins(*, seed: int = 0) -> Scenario:
    """Has the same expert twice."""
    experts, tasks = dict(toy_scenario(seed=seed).experts), dict(toy_scenario(seed=seed).tasks)
    experts["right"] = experts["left"]
    tasks["right"] = dataclasses.replace(tasks["left"], name="right")
    return _with(seed, experts=experts, tasks=tasks)


class _Misnamed(Classification):
    def inputs_of(self, split: Any) -> Any:
        return {"pictures": self.inputs[split]["pixel_values"]}

    def predictions(self, module: Any, split: Any) -> Any:
        return module(**self.inputs_of(split)).logits.argmax(-1).numpy()

    def loss(self, module: Any, batch: Any) -> Any:
        return module(pictures=batch[0]["pixel_values"]).logits.mean()


@scenario("no-logits")
def no_logits(*, seed: int = 0) -> Scenario:
    """Hands its networks what they do not take."""
    return _scored(seed, _Misnamed)


class _Numbers(Classification):
    def correct(self, module: Any, split: Any = "test") -> Any:
        return super().correct(module, split).astype(float)


@scenario("answers-in-numbers")
def answers_in_numbers(*, seed: int = 0) -> Scenario:
    """Scores with numbers."""
    return _scored(seed, _Numbers)


class _Half(Classification):
    def correct(self, module: Any, split: Any = "test") -> Any:
        return super().correct(module, split)[::2]


@scenario("half-scored")
def half_scored(*, seed: int = 0) -> Scenario:
    """Scores every other sample."""
    return _scored(seed, _Half)


class _Untrainable(Classification):
    def loss(self, module: Any, batch: Any) -> Any:
        with torch.no_grad():
            return super().loss(module, batch)


@scenario("untrainable")
def untrainable(*, seed: int = 0) -> Scenario:
    """Has a loss without a gradient."""
    return _scored(seed, _Untrainable)


@scenario("percent")
def percent(*, seed: int = 0) -> Scenario:
    """Writes the accuracy of guessing in per cent."""
    return _scored(seed, Classification, chance=25.0)


class _Guesses(Classification):
    def predictions(self, module: Any, split: Any) -> Any:
        right = self.labels[split].numpy()
        return np.where(np.arange(len(right)) % 4 == 0, right, (right + 1) % 4)


@scenario("guesses")
def guesses(*, seed: int = 0) -> Scenario:
    """Has experts that are right as often as guessing."""
    return _scored(seed, _Guesses)


@scenario("dice")
def dice(*, seed: int = 0) -> Scenario:
    """Draws anew every time it is asked, and by the seed as well."""
    made = toy_scenario(seed=seed)
    nudge = np.random.default_rng().standard_normal()
    bias = next(name for name in made.base if name.endswith("layernorm.bias"))
    return _with(seed, base=made.base.replace({bias: made.base[bias] + float(nudge)}))
