"""What is asked of an attack beyond what is asked of every plugin: the budget, the function, and its claims."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput, ThreatModelViolation
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.plugins.contracts import AttackSpec, Needs
from redteam.symmetry import GROUPS, tied_cost
from redteam.symmetry.groups import largest_legal_group
from redteam.testing.common import Subject
from redteam.testing.outcome import Check, DoesNotApply, Fails
from redteam.testing.toys import in_dtype, toy_architectures, toy_scenario
from redteam.testing.trial import Trial, output_change
from redteam.testing.views import LABELS, Stand, attacker_view, unheard_of
from redteam.threat import DATA

DOUBLE = 1e-6
"""The largest relative change of the outputs that keeps the function where weights are float64."""

ENERGY = 0.5
"""The largest share of ‖victim − base‖² that may lie between the victim and what an attack returns that changes the
function: at least half of what the victim learned is there."""

LENGTH = 4.0
"""By which factor an attack may lengthen or shorten a tensor's task vector before it counts as moved elsewhere."""

_ROUNDING = 1e-9  # of ‖victim − base‖², where a twin comes back exactly


class AttackSubject(Subject[AttackSpec]):
    """An attack, tried on a victim whose every site is locked from the largest group that is legal there."""

    @property
    def before(self) -> Checkpoint:
        return _locked("vit").protected()

    def first(self) -> Trial:
        return self.call(_locked("vit"))

    def rounded(self, dtype: torch.dtype) -> tuple[Checkpoint, Trial]:
        stand = _locked("vit", dtype)
        return stand.protected(), self.kept(("rounded", dtype), lambda: self.call(stand))

    def astray(self) -> Iterator[tuple[str, Trial]]:
        stand = _locked("vit")
        if self.spec.needs:
            yield "where nothing is granted", self.kept("nothing", lambda: self.call(stand, needs=Needs.NONE))
        elsewhere = unheard_of(stand.protected())
        yield "on an unknown architecture", self.kept("unheard-of", lambda: self.call(stand, protected=elsewhere))

    def own_checks(self) -> Iterator[Check]:
        for architecture in toy_architectures():
            yield Check(f"function: {architecture}", partial(self._function, architecture))
        for architecture in toy_architectures():
            yield Check(f"harmless: {architecture}", partial(self._harmless, architecture))
        claims = sorted(self.spec.breaks, key=lambda claim: (claim[0], _name(claim[1])))
        for kind, group in claims:
            for architecture in toy_architectures():
                name = f"plants: {_name(group)} at {kind}, {architecture}"
                yield Check(name, partial(self._plant, architecture, kind, group))
        if not claims:
            yield Check("plants", partial(_none_to_plant, self.spec))
        yield Check("ceiling", self._ceiling)

    def budget(self) -> str:
        if self.main.labels > LABELS:
            raise Fails(f"it took {self.main.labels} labelled samples of the victim's task, granted were {LABELS}")
        declared = ", ".join(str(need.name).lower() for need in self.spec.needs)
        return f"asks for nothing beyond {declared or 'the protected weights'}"

    def call(self, stand: Stand, *, needs: Needs | None = None, protected: Checkpoint | None = None) -> Trial:
        """One call of the attack against the stand's lock, on a view that grants exactly these needs."""
        protected = stand.protected() if protected is None else protected
        view, copies = attacker_view(stand, protected, self.spec.needs if needs is None else needs)
        return Trial.of(lambda: self.plugin(view), copies)

    def on(self, what: str, stand: Stand, architecture: str) -> Trial:
        """The trial on a stand; where an architecture is not the first, the attack may say that it can't handle it."""
        trial = self.kept((what, architecture), lambda: self.call(stand))
        if isinstance(trial.error, BadInput) and architecture != toy_architectures()[0]:
            raise DoesNotApply(f"it does not take this architecture: {trial.error}")
        if isinstance(trial.error, ThreatModelViolation):
            raise DoesNotApply("it asks for what it does not declare")
        return trial

    def _function(self, architecture: str) -> str:
        if not self.spec.keeps_function:
            raise DoesNotApply("it does not claim to keep the function (keeps_function)")
        found, limits = {}, {torch.float64: DOUBLE, torch.float32: THRESHOLDS.function}
        if self.spec.role == "trivial":  # a gauge that was guessed on top of a lock may well be lost in float32
            del limits[torch.float32]
        for dtype, limit in limits.items():
            here = _locked(architecture, dtype)
            protected = here.protected()
            trial = self.on(f"locked {dtype}", here, architecture)
            self.require_ran(trial)
            word = str(dtype).removeprefix("torch.")
            found[word] = output_change(protected, trial.usable(protected), here.scenario)
            if not found[word] <= limit:
                raise Fails(f"in {word} it changes the outputs by {found[word]:.2g}, at most {limit:g} keeps them")
        return "outputs change by " + ", ".join(f"{value:.1g} in {word}" for word, value in found.items())

    def _harmless(self, architecture: str) -> str:
        if self.spec.role not in ("recovery", "naive"):
            raise DoesNotApply(f"its role is {self.spec.role}")
        if self.spec.needs & DATA:
            raise DoesNotApply("it uses data of the victim's task, which may change anything")
        if Needs.COMPANIONS in self.spec.needs and not (self.spec.breaks or self.spec.keeps_function):
            raise DoesNotApply(
                "it claims to undo no lock and may train on the attacker's own data; runs measure its harm"
            )
        stand = _planted(architecture)
        victim, base = stand.victim, stand.scenario.base
        trial = self.on("unlocked", stand, architecture)
        self.require_ran(trial, "on an unlocked victim ")
        returned = trial.usable(victim)
        if self.spec.keeps_function:
            change = output_change(victim, returned, stand.scenario)
            kinds = _kinds(victim)
            before, after = (tied_cost(one, base, kinds) for one in (victim, returned))
            if not change <= THRESHOLDS.function:
                raise Fails(f"on an unlocked victim it changes the outputs by {change:.2g}")
            if not after <= THRESHOLDS.planted_cost * before:
                raise Fails(f"it takes an unlocked victim {after / before:.3g} times as far (tied cost) from the base")
            return f"an unlocked victim stays what it was, at {after / before:.3g} times its tied cost"
        share = _share(_as_long(returned, victim, base), victim, base)
        if not share <= ENERGY:
            raise Fails(f"it takes an unlocked victim away by {share:.2g} of ‖victim − base‖², at most {ENERGY:g}")
        return f"moves an unlocked victim by {share:.2g} of ‖victim − base‖²"

    def _plant(self, architecture: str, kind: str, group: Any) -> str:
        scenario = toy_scenario(architecture)
        sites = anatomy_of(scenario.base).sites((kind,))
        if not sites or any(_name(group) not in site.legal for site in sites):
            raise DoesNotApply(f"{_name(group)} is not legal at {kind} of this architecture")
        stand, bare = _planted(architecture, kind, group), _planted(architecture)
        victim, base, protected = stand.victim, scenario.base, stand.protected()
        trial = self.on(f"planted {_name(group)} {kind}", stand, architecture)
        self.require_ran(trial, "on the planted lock ")
        twin = self.on("unlocked", bare, architecture).usable(victim)
        returned = trial.usable(protected)
        start, left, target = (tied_cost(one, base, (kind,)) for one in (protected, returned, twin))
        if output_change(protected, returned, stand.scenario) <= THRESHOLDS.function:
            if start < THRESHOLDS.planted_strength * target:
                raise DoesNotApply(f"the planted lock raises the tied cost only {start / target:.2g} times")
            if not left <= THRESHOLDS.planted_cost * target:
                raise Fails(
                    f"it leaves {left / target:.4g} times the tied cost that it leaves on the unlocked victim (the "
                    f"lock: {start / target:.3g}), at most {THRESHOLDS.planted_cost}"
                )
            return (
                f"leaves {left / target:.4g} times the tied cost of the unlocked victim, the lock {start / target:.3g}"
            )
        far = tied_cost(base, victim, (kind,))
        after, alone = tied_cost(returned, victim, (kind,)) / far, tied_cost(twin, victim, (kind,)) / far
        if not after <= min(ENERGY, THRESHOLDS.planted_cost * alone + _ROUNDING):
            raise Fails(
                f"it changes the function and ends {after:.3g} of ‖victim − base‖² away from the victim; at most "
                f"{ENERGY:g}, and {THRESHOLDS.planted_cost} times the {alone:.3g} that it leaves on the unlocked victim"
            )
        return f"ends {after:.2g} of ‖victim − base‖² away from the victim, as on the unlocked victim"

    def _ceiling(self) -> str:
        if self.spec.role != "ceiling":
            raise DoesNotApply(f"its role is {self.spec.role}")
        stand = _locked("vit", torch.float64)
        trial = self.on("locked torch.float64", stand, "vit")
        self.require_ran(trial)
        share = _share(trial.usable(stand.victim), stand.victim, stand.scenario.base)
        if not share <= 1 - THRESHOLDS.ceiling:
            raise Fails(f"with the key it ends {share:.2g} of ‖victim − base‖² away from the victim")
        return f"with the key it comes back to {share:.1g} of ‖victim − base‖²"


@lru_cache(maxsize=8)
def _locked(architecture: str, dtype: torch.dtype = torch.float32) -> Stand:
    """Every site locked from the largest group that is legal there."""
    scenario = toy_scenario(architecture)
    first = {site.kind: site for site in reversed(anatomy_of(scenario.base).places)}
    return Stand(in_dtype(scenario, dtype), tuple((kind, largest_legal_group(site)) for kind, site in first.items()))


@lru_cache(maxsize=64)
def _planted(architecture: str, kind: str = "", group: Any = None) -> Stand:
    """One kind of site locked from a group, or nothing."""
    locks = ((kind, GROUPS.get(_name(group), group)()),) if kind else ()
    return Stand(toy_scenario(architecture), locks)


def _kinds(checkpoint: Checkpoint) -> tuple[str, ...]:
    return tuple(dict.fromkeys(site.kind for site in anatomy_of(checkpoint).sites()))


def _share(returned: Checkpoint, victim: Checkpoint, base: Checkpoint) -> float:
    """‖returned − victim‖² ÷ ‖base − victim‖² over everything that can be merged."""
    far = near = 0.0
    for name in shared_tensors(victim, base):
        expert = victim[name].double()
        near += float((returned[name].double() - expert).square().sum())
        far += float((base[name].double() - expert).square().sum())
    return near / far


def _as_long(returned: Checkpoint, victim: Checkpoint, base: Checkpoint) -> Checkpoint:
    """What an attack returned, with each task vector as near to the victim's as another length brings it.

    What a coefficient does is judged by merges; within a factor of `LENGTH` it says nothing of what was kept.
    """
    moved = {}
    for name in shared_tensors(victim, base):
        start, ours = base[name].double(), returned[name].double() - base[name].double()
        size = float(ours.square().sum())
        best = float((ours * (victim[name].double() - start)).sum()) / size if size > 0 else 1.0
        moved[name] = start + min(max(best, 1 / LENGTH), LENGTH) * ours
    return returned.replace(moved)


def _none_to_plant(spec: AttackSpec) -> str:
    raise DoesNotApply("it claims to break no kind of lock (breaks)")


def _name(group: Any) -> str:
    return str(getattr(group, "name", group.__name__))
