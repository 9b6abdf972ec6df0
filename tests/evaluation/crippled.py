"""Every kind of lock that an architecture allows, as a defense, and attacks on it that are crippled on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redteam.anatomy import Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack, defense
from redteam.symmetry import GROUPS, fit_gauges
from redteam.views import AttackerView, DefenderView

SITES = {
    "qk": tuple(GROUPS),
    "vo": tuple(GROUPS),
    "mlp": ("permutation",),
    "heads": ("permutation",),
    "norm": ("scaling",),
}
PAIRS = [(kind, group) for kind, groups in SITES.items() for group in groups]


@defense("plant", exact=True, keyed=True, weakened={"sure": False})
def plant(view: DefenderView, *, site: str, group: str, case: str = "", sure: bool = True) -> Checkpoint:
    """A lock from one group at one kind of site; its weakened variant is the same lock, so nobody breaks it by luck.

    `case` tells locks apart that are otherwise alike, so that each gets a verdict of its own.
    """
    return view.lock((site,), GROUPS[group]())


def wrong_sign(protected: Checkpoint, fitted: Checkpoint, sites: tuple[Site, ...]) -> Checkpoint:
    """As far as the fit would go, the other way."""
    return protected.replace({name: 2 * tensor - fitted[name] for name, tensor in protected.items()})


def one_layer_left(protected: Checkpoint, fitted: Checkpoint, sites: tuple[Site, ...]) -> Checkpoint:
    """Leaves the lock on the last layer."""
    last = max(site.layer for site in sites)
    return fitted.replace({name: protected[name] for site in sites if site.layer == last for name in site.names})


def bias_forgotten(protected: Checkpoint, fitted: Checkpoint, sites: tuple[Site, ...]) -> Checkpoint:
    """Moves weights without the biases that go with them."""
    names = {name for site in sites for name in site.names if name.endswith("bias")}
    return fitted.replace({name: protected[name] for name in names})


def one_side(protected: Checkpoint, fitted: Checkpoint, sites: tuple[Site, ...]) -> Checkpoint:
    """Fits what reads and forgets what must be moved back."""
    names = {name for site in sites for name in site.names}
    first = {name for site in sites for name in site.names[: len(site.names) // 2]}
    return fitted.replace({name: protected[name] for name in names - first})


def half_way(protected: Checkpoint, fitted: Checkpoint, sites: tuple[Site, ...]) -> Checkpoint:
    """The mean of lock and fit."""
    return protected.replace({name: (tensor + fitted[name]) / 2 for name, tensor in protected.items()})


CRIPPLES = (wrong_sign, one_layer_left, bias_forgotten, one_side, half_way)


def _crippled(kind: str, group: str, cripple: Callable[..., Checkpoint]) -> Any:
    name = f"{cripple.__name__.replace('_', '-')}-{kind}-{group}"

    @attack(name, breaks={(kind, GROUPS[group])}, needs=Needs.ANCHOR, targets=("plant",))
    def crippled(view: AttackerView) -> Checkpoint:
        sites = anatomy_of(view.protected).sites((kind,))
        fitted = fit_gauges(view.protected, view.anchor, (kind,), GROUPS[group]())
        return cripple(view.protected, Checkpoint.of(dict(fitted), fitted.config), sites)

    return crippled


def _sound(kind: str, group: str) -> Any:
    @attack(f"sound-{kind}-{group}", breaks={(kind, GROUPS[group])}, needs=Needs.ANCHOR, targets=("plant",))
    def sound(view: AttackerView) -> Checkpoint:
        return fit_gauges(view.protected, view.anchor, (kind,), GROUPS[group]())

    return sound


for _kind, _group in PAIRS:
    globals()[f"sound_{_kind}_{_group}"] = _sound(_kind, _group)
    for _cripple in CRIPPLES:
        globals()[f"{_cripple.__name__}_{_kind}_{_group}"] = _crippled(_kind, _group, _cripple)
