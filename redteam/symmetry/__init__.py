"""Symmetries: groups that defenses sample and attacks fit, and the additive freedoms beside them."""

from redteam.anatomy import Stacks
from redteam.symmetry.canonicals import canonical
from redteam.symmetry.certificate import Certificate, certify
from redteam.symmetry.fitting import Lock, comparable, fit_gauges, sample_gauges, sampled_locks, tied_cost
from redteam.symmetry.gauges import Dense, Gauge, Permuted, Turned
from redteam.symmetry.groups import GROUPS, GeneralLinear, Group, Orthogonal, Permutation, SignedPermutation
from redteam.symmetry.inputs import random_inputs
from redteam.symmetry.scalings import Monomial, Planar, Scaling
from redteam.symmetry.shift_lock import Reversible, ShiftLock, random_shifts
from redteam.symmetry.shifts import restore, settle

__all__ = [
    "GROUPS",
    "Certificate",
    "Dense",
    "Gauge",
    "GeneralLinear",
    "Group",
    "Lock",
    "Monomial",
    "Orthogonal",
    "Permutation",
    "Permuted",
    "Planar",
    "Reversible",
    "Scaling",
    "ShiftLock",
    "SignedPermutation",
    "Stacks",
    "Turned",
    "canonical",
    "certify",
    "comparable",
    "fit_gauges",
    "random_inputs",
    "random_shifts",
    "restore",
    "sample_gauges",
    "sampled_locks",
    "settle",
    "tied_cost",
]
