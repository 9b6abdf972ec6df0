"""Symmetries: groups that defenses sample and attacks fit, and the additive freedoms beside them."""

from redteam.anatomy import Stacks
from redteam.symmetry.canonicals import canonical
from redteam.symmetry.certificate import Certificate, certify
from redteam.symmetry.comparison import Comparison
from redteam.symmetry.fitting import Lock, fit_gauges, sample_gauges, sampled_locks, tied_cost
from redteam.symmetry.gauges import Dense, Gauge, Partial, Permuted, Turned
from redteam.symmetry.groups import GROUPS, Group, adapted, at, contains_group, widest
from redteam.symmetry.inputs import random_inputs
from redteam.symmetry.linear import GeneralLinear, Orthogonal
from redteam.symmetry.permutations import MirroredPermutation, Permutation, SignedPermutation
from redteam.symmetry.rotary import PartialPlanar, Planar, PlaneScaling, PlaneSigns
from redteam.symmetry.scalings import Monomial, PositiveMonomial, PositiveScaling, Scaling
from redteam.symmetry.shift_lock import Reversible, ShiftLock, random_shifts
from redteam.symmetry.shifts import restore, settle

__all__ = [
    "GROUPS",
    "Certificate",
    "Comparison",
    "Dense",
    "Gauge",
    "GeneralLinear",
    "Group",
    "Lock",
    "MirroredPermutation",
    "Monomial",
    "Orthogonal",
    "Partial",
    "PartialPlanar",
    "Permutation",
    "Permuted",
    "Planar",
    "PlaneScaling",
    "PlaneSigns",
    "PositiveMonomial",
    "PositiveScaling",
    "Reversible",
    "Scaling",
    "ShiftLock",
    "SignedPermutation",
    "Stacks",
    "Turned",
    "adapted",
    "at",
    "canonical",
    "certify",
    "contains_group",
    "fit_gauges",
    "random_inputs",
    "random_shifts",
    "restore",
    "sample_gauges",
    "sampled_locks",
    "settle",
    "tied_cost",
    "widest",
]
