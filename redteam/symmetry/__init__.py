"""Symmetries: groups that defenses sample and attacks fit, and the additive freedoms beside them."""

from redteam.anatomy import Stacks
from redteam.symmetry.alignment import Comparison
from redteam.symmetry.canonicals import canonical
from redteam.symmetry.certificate import Certificate, certify
from redteam.symmetry.fitting import Lock, apply_gauges, fit_gauges, sample_gauges, sampled_locks, tied_cost, tied_costs
from redteam.symmetry.gauges import BlockGauge, Gauge, MatrixGauge, MonomialGauge, PlanarGauge
from redteam.symmetry.groups import GROUPS, Group, adapted, at, contains_group, largest_legal_group
from redteam.symmetry.inputs import random_inputs
from redteam.symmetry.matrix_groups import GeneralLinear, Orthogonal
from redteam.symmetry.permutations import MirroredPermutation, Permutation, SignedPermutation
from redteam.symmetry.proof import Proof, prove
from redteam.symmetry.rotary import PartialPlanar, Planar, PlaneScaling, PlaneSigns
from redteam.symmetry.scalings import Monomial, PositiveMonomial, PositiveScaling, Scaling
from redteam.symmetry.shift_lock import Reversible, ShiftLock, random_shifts
from redteam.symmetry.shifts import remove_shifts, restore

__all__ = [
    "GROUPS",
    "BlockGauge",
    "Certificate",
    "Comparison",
    "Gauge",
    "GeneralLinear",
    "Group",
    "Lock",
    "MatrixGauge",
    "MirroredPermutation",
    "Monomial",
    "MonomialGauge",
    "Orthogonal",
    "PartialPlanar",
    "Permutation",
    "Planar",
    "PlanarGauge",
    "PlaneScaling",
    "PlaneSigns",
    "PositiveMonomial",
    "PositiveScaling",
    "Proof",
    "Reversible",
    "Scaling",
    "ShiftLock",
    "SignedPermutation",
    "Stacks",
    "adapted",
    "apply_gauges",
    "at",
    "canonical",
    "certify",
    "contains_group",
    "fit_gauges",
    "largest_legal_group",
    "prove",
    "random_inputs",
    "random_shifts",
    "remove_shifts",
    "restore",
    "sample_gauges",
    "sampled_locks",
    "tied_cost",
    "tied_costs",
]
