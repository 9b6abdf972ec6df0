"""Defenses with one fault each; `FAULTS` says which clauses of the contract notice it, and no other may."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch

from redteam import Checkpoint, DefenderView, Range, defense
from redteam.anatomy import anatomy_of
from redteam.symmetry import GeneralLinear, Orthogonal, Permutation

FAULTS: dict[str, set[str]] = {
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
}


def _first(checkpoint: Checkpoint) -> str:
    return next(name for name in checkpoint if checkpoint[name].ndim == 2)


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
