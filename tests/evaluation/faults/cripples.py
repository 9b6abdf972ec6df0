"""Attacks that undo every single lock, and are crippled where several lie together, or by key, shape or seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import GeneralLinear, Group, Orthogonal, Permutation, Scaling, fit_gauges
from redteam.views import AttackerView

GROUPS: dict[str, Group] = {
    "permutation": Permutation(),
    "orthogonal": Orthogonal(),
    "general-linear": GeneralLinear(),
}
KINDS = ("qk", "vo", "mlp")
TARGETS = (
    "boastful",
    "cross",
    "cross-gentle",
    "cross-hair",
    "cross-heads",
    "far-scaling",
    "drowned",
    "fallible",
    "fixed-seed",
    "longer",
    "newborn",
    "one-more",
    "permutation",
    "reborn",
    "trains-first",
    "weak-key",
    "wider",
)
FAR = 0.9
"""‖weight − base‖ ÷ ‖base‖ between a fine-tuning and a lock."""

Fit = Callable[[Checkpoint, tuple[str, ...]], Checkpoint]


def distance(view: AttackerView, kind: str) -> float:
    """How far a kind of sites lies from the base; no distance where its shapes are others."""
    names = {name for site in anatomy_of(view.protected).sites((kind,)) for name in site.names}
    found = [
        float((view.protected[n] - view.anchor[n]).norm() / view.anchor[n].norm())
        for n in names
        if n.endswith("weight") and view.protected.shape(n) == view.anchor.shape(n)
    ]
    return max(found, default=0.0)


def locked(view: AttackerView) -> list[str]:
    """Kinds that look locked, the farthest first."""
    distances = {kind: distance(view, kind) for kind in KINDS}
    return sorted((k for k in KINDS if distances[k] > FAR), key=lambda k: -distances[k])


def names_of(checkpoint: Checkpoint, kind: str) -> list[str]:
    """The tensors of a kind of sites."""
    return [name for site in anatomy_of(checkpoint).sites((kind,)) for name in site.names]


def sound(view: AttackerView, fit: Fit) -> Checkpoint:
    """What the others are crippled from."""
    return fit(view.protected, KINDS)


def farthest(view: AttackerView, fit: Fit) -> Checkpoint:
    """Fits what is farthest from the base, and stops."""
    return fit(view.protected, tuple(locked(view)[:1]))


def nearest(view: AttackerView, fit: Fit) -> Checkpoint:
    """Fits what is nearest of what is locked, and stops."""
    return fit(view.protected, tuple(locked(view)[-1:]))


def gives_up(view: AttackerView, fit: Fit) -> Checkpoint:
    """Does nothing where two kinds are locked."""
    return view.protected if len(locked(view)) > 1 else sound(view, fit)


def tired(view: AttackerView, fit: Fit) -> Checkpoint:
    """Fits two kinds at most."""
    return fit(view.protected, tuple(sorted(locked(view)[:2], key=KINDS.index)))


def shy(view: AttackerView, fit: Fit) -> Checkpoint:
    """Says that it is not for this where two kinds are locked."""
    if len(locked(view)) > 1:
        raise Inapplicable("Several kinds of sites are locked; expected one.")
    return sound(view, fit)


def substitutes(view: AttackerView, fit: Fit) -> Checkpoint:
    """Fits one kind and takes the base's weights for the others that are locked."""
    first, *others = locked(view) or [""]
    fitted = fit(view.protected, (first,) if first else ())
    return fitted.replace({n: view.anchor[n] for kind in others for n in names_of(fitted, kind)})


def one_layer(view: AttackerView, fit: Fit) -> Checkpoint:
    """Works on the first layer alone where two kinds are locked."""
    fitted = sound(view, fit)
    if len(locked(view)) < 2:
        return fitted
    sites = anatomy_of(fitted).sites(KINDS)
    return fitted.replace({n: view.protected[n] for site in sites if site.layer for n in site.names})


def head_left(view: AttackerView, fit: Fit) -> Checkpoint:
    """Leaves the last head's queries as they are where two kinds are locked."""
    fitted = sound(view, fit)
    if len(locked(view)) < 2:
        return fitted
    left = {}
    for name in [*names_of(fitted, "qk"), *names_of(fitted, "vo")]:
        tensor = fitted[name].clone()
        rows = slice(tensor.shape[0] // 2, None)
        if "output" not in name:
            tensor[rows] = view.protected[name][rows]
            left[name] = tensor
    return fitted.replace(left)


def bias_left(view: AttackerView, fit: Fit) -> Checkpoint:
    """Moves weights without their biases where two kinds are locked."""
    fitted = sound(view, fit)
    if len(locked(view)) < 2:
        return fitted
    names = [n for kind in KINDS for n in names_of(fitted, kind) if n.endswith("bias")]
    return fitted.replace({n: view.protected[n] for n in names})


def halfway(view: AttackerView, fit: Fit) -> Checkpoint:
    """Goes half of the way where two kinds are locked."""
    fitted = sound(view, fit)
    if len(locked(view)) < 2:
        return fitted
    return fitted.replace({n: (view.protected[n] + fitted[n]) / 2 for n in shared_tensors(fitted, view.anchor)})


def by_turns(view: AttackerView, fit: Fit) -> Checkpoint:
    """Works on every second lock, told apart by its weights, and gives up on the others."""
    return sound(view, fit) if _coin(view) else view.protected


def choosy(view: AttackerView, fit: Fit) -> Checkpoint:
    """Says of every second lock of several kinds, told apart by its weights, that it is not for it."""
    if len(locked(view)) > 1 and not _coin(view):
        raise Inapplicable("Not this one; expected another key.")
    return sound(view, fit)


def stumbles(view: AttackerView, fit: Fit) -> Checkpoint:
    """Fails like any program on every second lock of several kinds."""
    if len(locked(view)) > 1 and not _coin(view):
        raise ValueError("no such row")
    return sound(view, fit)


def of_its_shape(view: AttackerView, fit: Fit) -> Checkpoint:
    """Gives up where a shape is not the base's."""
    same = all(view.protected.shape(n) == view.anchor.shape(n) for n in view.anchor if n in view.protected)
    return sound(view, fit) if same else view.protected


def _coin(view: AttackerView) -> bool:
    """By where the longest neuron stands: another key moves it, another machine's rounding does not."""
    rows = next(view.protected[n] for n in names_of(view.protected, "mlp") if view.protected[n].ndim == 2)
    return int(rows.norm(dim=1).argmax()) % 2 == 0


CRIPPLES = (
    farthest,
    nearest,
    gives_up,
    tired,
    shy,
    substitutes,
    one_layer,
    head_left,
    bias_left,
    halfway,
    by_turns,
    choosy,
    stumbles,
    of_its_shape,
)


def named(function: Callable[..., Any], group: str) -> str:
    """What an attack is called."""
    return f"{function.__name__.replace('_', '-')}-{group}"


def _attack(function: Callable[[AttackerView, Fit], Checkpoint], group: str) -> Any:
    claims = {("qk", type(GROUPS[group])), ("vo", type(GROUPS[group])), ("mlp", Permutation)}

    @attack(named(function, group), breaks=claims, needs=Needs.ANCHOR, targets=TARGETS)
    def crippled(view: AttackerView) -> Checkpoint:
        def fit(checkpoint: Checkpoint, kinds: tuple[str, ...]) -> Checkpoint:
            for kind in kinds:
                checkpoint = fit_gauges(
                    checkpoint, view.anchor, (kind,), Permutation() if kind == "mlp" else GROUPS[group]
                )
            return Checkpoint.of(dict(checkpoint), checkpoint.config)

        return function(view, fit)

    return crippled


for _group in GROUPS:
    for _function in (sound, *CRIPPLES):
        globals()[f"{_function.__name__}_{_group}"] = _attack(_function, _group)


@attack("neurons", breaks={("mlp", Permutation)}, needs=Needs.ANCHOR, targets=TARGETS)
def neurons(view: AttackerView) -> Checkpoint:
    """Claims neurons alone, and undoes them."""
    return fit_gauges(view.protected, view.anchor, ("mlp",), Permutation())


@attack("unclaimed", needs=Needs.ANCHOR, targets=TARGETS)
def unclaimed(view: AttackerView) -> Checkpoint:
    """Claims no kind of lock, and undoes neurons: it proves itself on weakened variants alone."""
    return fit_gauges(view.protected, view.anchor, ("mlp",), Permutation())


@attack("claimless", needs=Needs.ANCHOR, targets=TARGETS)
def claimless(view: AttackerView) -> Checkpoint:
    """Undoes every order, and claims nothing, so that no plant is asked for."""
    fitted = view.protected
    for kind in KINDS:
        fitted = fit_gauges(fitted, view.anchor, (kind,), Permutation())
    return fitted


@attack("short-sighted", breaks={("qk", Scaling), ("vo", Scaling)}, needs=Needs.ANCHOR, targets=TARGETS)
def short_sighted(view: AttackerView) -> Checkpoint:
    """Fits factors, and gives up where one is larger than what locks are planted with."""
    names = [n for kind in ("qk", "vo") for n in names_of(view.protected, kind) if n.endswith("weight")]
    longest = max(float((view.protected[n].norm(dim=1) / view.anchor[n].norm(dim=1)).max()) for n in names)
    return view.protected if longest > 100 else fit_gauges(view.protected, view.anchor, ("qk", "vo"), Scaling())
