"""Attacks with one fault each; `FAULTS` says which clauses of the contract notice it, and no other may."""

from __future__ import annotations

import os
import random
import zlib
from typing import Any

import numpy as np
import torch

from redteam import AttackerView, Checkpoint, Needs, attack
from redteam.anatomy import anatomy_of
from redteam.checkpoint import shared_tensors
from redteam.symmetry import GeneralLinear, Orthogonal, fit_gauges

CLAIM = {("qk", GeneralLinear), ("vo", GeneralLinear)}
KINDS = ("qk", "vo")

FAULTS: dict[str, set[str]] = {
    # what the fit does wrong
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
    # what a program does wrong
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
    return _jittered(view, torch.tensor(float(zlib.crc32("".join(order).encode()) % 9973)) / 1e5)
