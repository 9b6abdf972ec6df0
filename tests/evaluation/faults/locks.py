"""Locks that the built-in attacks would undo: composed, keyed badly, of other shapes, weakened in extent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import GeneralLinear, Group, Orthogonal, Permutation, Scaling
from redteam.symmetry.neurons import Split
from redteam.symmetry.reshaping import Pad
from redteam.tasks import Batch
from redteam.training import Budget, train
from redteam.views import DefenderView

GROUPS: dict[str, Group] = {
    "permutation": Permutation(),
    "orthogonal": Orthogonal(),
    "general-linear": GeneralLinear(),
}
OfHeads = Literal["permutation", "orthogonal", "general-linear"]
ALL = ("qk", "vo", "mlp")


def put_on(view: DefenderView, sites: tuple[str, ...], group: str) -> Checkpoint:
    """One group at the heads, and neurons in another order."""
    locked = view.victim
    for kind in sites:
        locked = view.lock((kind,), Permutation() if kind == "mlp" else GROUPS[group], checkpoint=locked)
    return locked


@defense("cross", exact=True, keyed=True, weakened={"sites": ("mlp",)})
def cross(view: DefenderView, *, sites: tuple[str, ...] = ALL, group: OfHeads = "permutation") -> Checkpoint:
    """Several kinds of sites at once; the weakened variant leaves all but one of them alone."""
    return put_on(view, sites, group)


@defense("cross-heads", exact=True, keyed=True, weakened={"sites": ("qk",)})
def cross_heads(view: DefenderView, *, sites: tuple[str, ...] = ALL, group: OfHeads = "permutation") -> Checkpoint:
    """As `cross`, and its weakened variant locks queries and keys."""
    return put_on(view, sites, group)


@defense("cross-gentle", exact=True, keyed=True, weakened={"group": "permutation"})
def cross_gentle(view: DefenderView, *, sites: tuple[str, ...] = ALL, group: OfHeads = "orthogonal") -> Checkpoint:
    """The same sites in the weakened variant, in a smaller group: weaker, and of the same extent."""
    return put_on(view, sites, group)


@defense("cross-hair", exact=False, keyed=True, weakened={"sites": ("mlp",)})
def cross_hair(view: DefenderView, *, sites: tuple[str, ...] = ALL, group: OfHeads = "permutation") -> Checkpoint:
    """Its weakened variant moves every tensor that the lock moves, most of them by a hair."""
    names = [name for site in anatomy_of(view.victim).sites(ALL) for name in site.names]
    hair = {}
    for name in dict.fromkeys(names):
        drawn = torch.from_numpy(view.generator(name).standard_normal(tuple(view.victim.shape(name)))).float()
        hair[name] = view.victim[name] * (1 + 1e-6 * drawn)
    locked = view.victim.replace(hair)
    for kind in sites:
        locked = view.lock((kind,), Permutation() if kind == "mlp" else GROUPS[group], checkpoint=locked)
    return locked


@defense("far-scaling", exact=True, keyed=True, weakened={"top": 30.0})
def far_scaling(view: DefenderView, *, top: Annotated[float, Range(1.0, 1e6)] = 1e4) -> Checkpoint:
    """Factors up to a size that is never planted; the weakened variant has smaller ones."""
    return view.lock(("qk", "vo"), Scaling((1 / top, top)))


@defense("one-more", exact=True, keyed=True, changes_architecture=True, weakened={"idle": False})
def one_more(view: DefenderView, *, idle: bool = True) -> Checkpoint:
    """Everything in another order and one neuron doubled; the weakened variant has the shapes that attacks know."""
    locked = put_on(view, ALL, "permutation")
    if not idle:
        return locked
    lock = Split(0.01, lambda label: view.generator(f"split {label}"))
    view.locks.append(lock)
    return lock.put_on(locked)


@defense("wider", exact=True, keyed=True, changes_architecture=True, weakened={"extra": 0})
def wider(view: DefenderView, *, extra: int = 2) -> Checkpoint:
    """Heads that are wider, and neurons in another order; the weakened variant reorders neurons alone."""
    locked = put_on(view, ("mlp",), "permutation")
    if not extra:
        return locked
    lock = Pad(extra, lambda label: view.generator(f"pad {label}"))
    view.locks.append(lock)
    return lock.put_on(locked)


@defense("weak-key", exact=True, keyed=True, weakened={"sites": ("mlp",)})
def weak_key(view: DefenderView, *, sites: tuple[str, ...] = ALL) -> Checkpoint:
    """Every second key leaves all but the neurons in their order."""
    weak = view.generator("weak 0").random() < 0.5
    return put_on(view, ("mlp",) if weak else sites, "permutation")


@defense("fallible", exact=True, keyed=True, weakened={"sites": ("mlp",)})
def fallible(view: DefenderView, *, sites: tuple[str, ...] = ALL, falls: tuple[str, ...] = ()) -> Checkpoint:
    """Locks nothing where the victim is one of these, by the beginning of its digest."""
    return view.victim if view.victim.digest()[:12] in falls else put_on(view, sites, "general-linear")


@defense("longer", exact=False, keyed=False, weakened={"factor": 1.0})
def longer(view: DefenderView, *, factor: float = 2.0) -> Checkpoint:
    """A task vector of another length, which is no lock."""
    base, victim = view.base, view.victim
    moved = {n: base[n] + factor * (victim[n] - base[n]) for n in shared_tensors(victim, base)}
    return victim.replace(moved)


@defense("drowned", exact=False, keyed=False, weakened={"size": 0.0})
def drowned(view: DefenderView, *, size: float = 3.0) -> Checkpoint:
    """Noise on everything, until nothing works: nothing is stolen, and nothing is left."""
    moved = {}
    for name in shared_tensors(view.victim, view.base):
        tensor = view.victim[name]
        drawn = torch.from_numpy(view.seeded(0).generator(name).standard_normal(tuple(tensor.shape))).float()
        moved[name] = tensor + size * tensor.std(unbiased=False).nan_to_num(0) * drawn
    return put_on_other(view, view.victim.replace(moved))


def put_on_other(view: DefenderView, checkpoint: Checkpoint) -> Checkpoint:
    """Neurons in another order, so that a variant without noise is there to be broken."""
    return view.lock(("mlp", "vo", "qk"), Permutation(), checkpoint=checkpoint)


@defense("newborn", exact=False, keyed=True, weakened={"fresh": False})
def newborn(view: DefenderView, *, fresh: bool = True) -> Checkpoint:
    """Publishes a network that was never trained."""
    if fresh:
        return view.victim.fresh(int(view.generator("fresh").integers(2**31)))
    return put_on(view, ALL, "permutation")


@defense("wiped", exact=False, keyed=True, weakened={"fresh": False})
def wiped(view: DefenderView, *, fresh: bool = True) -> Checkpoint:
    """Fresh weights under the head that was trained: there is nothing in it."""
    if not fresh:
        return put_on(view, ALL, "permutation")
    drawn = view.victim.fresh(int(view.generator("fresh").integers(2**31)))
    return view.victim.replace({name: drawn[name] for name in shared_tensors(view.victim, view.base)})


@defense("reborn", exact=False, keyed=False, weakened={"fresh": False})
def reborn(view: DefenderView, *, fresh: bool = True, steps: int = 200) -> Checkpoint:
    """The skill learned anew by blocks that start from random weights of their own: there is no way back to the base.

    The weakened variant is the victim itself, its blocks moved a little and in another order.
    """
    fixed = view.seeded(0)
    names = tuple(dict.fromkeys(n for site in anatomy_of(view.victim).sites(ALL) for n in site.names))
    drawn = {
        name: torch.from_numpy(fixed.generator(name).standard_normal(tuple(view.victim.shape(name)))).float()
        for name in names
    }
    if not fresh:
        moved = {n: view.victim[n] + 0.01 * drawn[n] * view.victim[n].std(unbiased=False) for n in names}
        return fixed.lock(ALL, Permutation(), checkpoint=view.victim.replace(moved))
    start = {n: t * (0.2 if t.ndim == 1 else 1.5 / t.shape[-1] ** 0.5) for n, t in drawn.items()}
    return train(
        view.victim.replace(start),
        view.base,
        Budget(steps, 5e-3, 64, 1e-8),
        batches=_endless(fixed),
        loss=view.loss,
        generator=fixed.generator("points"),
        names=names,
    )


def _endless(view: DefenderView) -> Iterator[Batch]:
    turn = 0
    while True:
        yield from view.batches(64, f"pass {turn}")
        turn += 1


@defense("boastful", exact=True, keyed=True, weakened={"sites": ("mlp",)})
def boastful(view: DefenderView, *, sites: tuple[str, ...] = ALL, size: float = 0.2) -> Checkpoint:
    """Says that it keeps the function, and adds noise."""
    moved = {}
    for name in shared_tensors(view.victim, view.base):
        tensor = view.victim[name]
        drawn = torch.from_numpy(view.generator(name).standard_normal(tuple(tensor.shape))).float()
        moved[name] = tensor + size * tensor.std(unbiased=False).nan_to_num(0) * drawn
    locked = view.victim.replace(moved)
    return view.lock(sites, Permutation(), checkpoint=locked)


@defense("fixed-seed", exact=True, keyed=True, weakened={"sites": ("mlp",)})
def fixed_seed(view: DefenderView, *, sites: tuple[str, ...] = ALL) -> Checkpoint:
    """Takes a key and draws from a seed that stands in its code."""
    from dataclasses import replace

    from redteam.key import Key

    return put_on(replace(view, key=Key.of_seed(1234)), sites, "general-linear")


@defense("trains-first", exact=False, keyed=True, weakened={"sites": ("mlp",)})
def trains_first(view: DefenderView, *, sites: tuple[str, ...] = ALL) -> Checkpoint:
    """Takes a step on the owner's data before it locks."""
    module = view.victim.module()
    for batch in view.batches(64):
        with torch.enable_grad():
            view.loss(module, batch).backward()
        break
    moved = {
        name: view.victim[name] - 1e-3 * parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and name in view.victim and not name.startswith("classifier")
    }
    return view.lock(sites, Permutation(), checkpoint=view.victim.replace(moved))
