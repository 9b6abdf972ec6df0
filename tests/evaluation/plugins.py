"""Attacks that do not do what they claim, plugins that misbehave, and two defenses whose verdict is known."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace

import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.key import Key
from redteam.plugins.contracts import Needs, attack, defense, merger
from redteam.plugins.registry import DEFENSES
from redteam.symmetry import GeneralLinear, fit_gauges
from redteam.views import AttackerView, DefenderView, MergerView

CLAIM = {("qk", GeneralLinear)}


@attack("sound", breaks=CLAIM, needs=Needs.ANCHOR, targets=("mergelock", "half-door"))
def sound(view: AttackerView) -> Checkpoint:
    """What the crippled ones are crippled from."""
    return fit_gauges(view.protected, view.anchor, ("qk",), GeneralLinear())


@attack("thorough", breaks=CLAIM, needs=Needs.ANCHOR, targets=("mergelock",))
def thorough(view: AttackerView) -> Checkpoint:
    """A fit of all heads that claims little, so that little has to be planted."""
    return fit_gauges(view.protected, view.anchor, ("qk", "vo"), GeneralLinear())


@defense("stretch", exact=False, keyed=False, prepares=True)
def stretch(view: DefenderView) -> Checkpoint:
    """Stands for a training that prepares for a lock: the task vector a tenth longer; once for all of its locks."""
    shared = shared_tensors(view.victim, view.base)
    assert torch.equal(next(view.batches(4))[1], next(view.batches(4))[1])
    return view.victim.replace({name: view.base[name] + 1.1 * (view.victim[name] - view.base[name]) for name in shared})


@attack("idle", breaks=CLAIM, needs=Needs.ANCHOR, targets=("mergelock",))
def idle(view: AttackerView) -> Checkpoint:
    """Does nothing."""
    return view.protected


@attack("feigned", breaks=CLAIM, needs=Needs.ANCHOR, targets=DEFENSES.names)
def feigned(view: AttackerView) -> Checkpoint:
    """Says that it was made for every defense there is, and does nothing."""
    return view.protected


@attack("give-up", breaks=CLAIM, needs=Needs.ANCHOR, targets=("mergelock",))
def give_up(view: AttackerView) -> Checkpoint:
    """The base in the victim's place: nothing is closer to it."""
    return view.protected.replace({n: view.anchor[n] for n in shared_tensors(view.protected, view.anchor)})


@attack("wrong-sign", breaks=CLAIM, needs=Needs.ANCHOR)
def wrong_sign(view: AttackerView) -> Checkpoint:
    """Goes as far as the fit would, the other way."""
    fitted = sound(view)
    return view.protected.replace({name: 2 * tensor - fitted[name] for name, tensor in view.protected.items()})


@attack("one-head-left", breaks=CLAIM, needs=Needs.ANCHOR)
def one_head_left(view: AttackerView) -> Checkpoint:
    """Leaves the lock on the first head of every layer."""
    fitted, back = sound(view), {}
    for site in anatomy_of(view.protected).sites(("qk",)):
        for name in site.names:
            tensor = fitted[name].clone()
            tensor[: site.width] = view.protected[name][: site.width]
            back[name] = tensor
    return fitted.replace(back)


@attack("bias-forgotten", breaks=CLAIM, needs=Needs.ANCHOR)
def bias_forgotten(view: AttackerView) -> Checkpoint:
    """Moves weights without their biases."""
    names = [name for site in anatomy_of(view.protected).sites(("qk",)) for name in site.names]
    return sound(view).replace({name: view.protected[name] for name in names if name.endswith("bias")})


@attack("even-layers", breaks=CLAIM, needs=Needs.ANCHOR)
def even_layers(view: AttackerView) -> Checkpoint:
    """Skips every other layer."""
    odd = [site for site in anatomy_of(view.protected).sites(("qk",)) if site.layer % 2]
    return sound(view).replace({name: view.protected[name] for site in odd for name in site.names})


@attack("scribbles", needs=Needs.ANCHOR | Needs.COMPANIONS)
def scribbles(view: AttackerView) -> Checkpoint:
    """Writes into everything it was given."""
    for checkpoint in (view.protected, view.anchor, *view.companions.values()):
        for name in checkpoint:
            checkpoint[name].mul_(1.5).numpy()[:] += 1
    for inputs, labels in view.own_batches(next(iter(view.companions)), 64):
        labels.zero_()
        for value in inputs.values():
            value.zero_()
    return view.protected


@attack("raises")
def raises(view: AttackerView) -> Checkpoint:
    """Fails like any program."""
    raise ValueError("the sum does not\nadd up")


@attack("not-a-number")
def not_a_number(view: AttackerView) -> Checkpoint:
    """Diverges."""
    name = next(iter(view.protected))
    return view.protected.replace({name: torch.full_like(view.protected[name], torch.nan)})


@attack("misshapen")
def misshapen(view: AttackerView) -> Checkpoint:
    """Forgets to transpose back."""
    return view.protected.replace({n: t.reshape(-1) for n, t in view.protected.items()})


@attack("nothing")
def nothing(view: AttackerView) -> Checkpoint:
    """Forgets to return."""
    return None  # type: ignore[return-value]


@attack("greedy")
def greedy(view: AttackerView) -> Checkpoint:
    """Asks for what it did not declare and is not granted."""
    return view.unlock(view.key)


@attack("hangs")
def hangs(view: AttackerView) -> Checkpoint:
    """Never converges."""
    while True:
        time.sleep(0.1)


@attack("dies")
def dies(view: AttackerView) -> Checkpoint:
    """Is ended as the system ends what takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return view.protected


@attack("leaves")
def leaves(view: AttackerView) -> Checkpoint:
    """Was a script once."""
    sys.exit("done")


@defense("refuses", exact=True, keyed=False)
def refuses(view: DefenderView) -> Checkpoint:
    """Fails like any program."""
    raise RuntimeError("no lock fits")


@defense("fresh-victim", exact=False, keyed=True)
def fresh_victim(view: DefenderView) -> Checkpoint:
    """Publishes nothing that was learned."""
    return view.victim.fresh(int(view.generator("fresh").integers(2**31)))


@defense("open-door", exact=True, keyed=True)
def open_door(view: DefenderView) -> Checkpoint:
    """Takes a key and locks nothing."""
    return view.victim


@defense("one-key", exact=True, keyed=True)
def one_key(view: DefenderView) -> Checkpoint:
    """Takes a key and has one of its own: whoever runs it with another takes the lock off."""
    return replace(view, key=Key.of_seed(7)).lock(("qk", "vo"), GeneralLinear())


@defense("half-door", exact=True, keyed=True, weakened={"closed": False})
def half_door(view: DefenderView, *, closed: bool = True) -> Checkpoint:
    """Its weakened variant locks nothing, so that breaking it proves nothing."""
    return view.lock(("qk",), GeneralLinear()) if closed else view.victim


@merger("diverges")
def diverges(view: MergerView) -> Checkpoint:
    """Divides by nothing."""
    return view.base.replace({name: tensor / 0 for name, tensor in view.base.items()})


@merger("half-whole", whole=True)
def half_whole(view: MergerView) -> Checkpoint:
    """Declares that it keeps every expert whole, and gives one checkpoint."""
    return view.base
