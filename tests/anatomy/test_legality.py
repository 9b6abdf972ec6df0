import numpy as np
import pytest

from redteam.anatomy import GROUPS, subgroups, supergroups
from redteam.errors import UnknownName
from redteam.symmetry import GROUPS as CLASSES


def test_the_containments():
    assert subgroups("permutation") == {"permutation"}
    signed = {"permutation", "mirrored-permutation", "plane-signs", "signed-permutation"}
    assert subgroups("signed-permutation") == signed
    assert subgroups("orthogonal") == signed | {"orthogonal"}
    assert subgroups("scaling") == {"positive-scaling", "plane-signs", "plane-scaling", "scaling"}
    positive = {"permutation", "positive-scaling", "positive-scaled-permutation"}
    assert subgroups("positive-scaled-permutation") == positive
    assert subgroups("scaled-permutation") == signed | positive | {"plane-scaling", "scaling", "scaled-permutation"}
    assert subgroups("planar") == {"plane-signs", "plane-scaling", "planar"}
    assert subgroups("partial-planar") == {"partial-planar"}
    assert subgroups("general-linear") == set(GROUPS)
    assert supergroups("scaling") == {"scaling", "scaled-permutation", "general-linear"}


def test_it_is_an_order_that_the_list_of_names_follows():
    for a in GROUPS:
        for b in GROUPS:
            assert (a in subgroups(b)) == (b in supergroups(a))
            assert not (a in subgroups(b) and b in subgroups(a)) or a == b
            assert a not in subgroups(b) or GROUPS.index(a) <= GROUPS.index(b)
            assert all(subgroups(c) <= subgroups(b) for c in subgroups(b))


def test_every_group_has_a_class_whose_elements_agree():
    assert set(CLASSES) == set(GROUPS)
    for name, group in CLASSES.items():
        found = group().sample(2, 6, np.random.default_rng(0))
        assert {name} <= found.groups <= supergroups(name) or name == "mirrored-permutation"  # plus is a permutation


def test_an_unknown_group_is_named():
    for ask in (subgroups, supergroups):
        with pytest.raises(UnknownName, match="did you mean 'scaling'"):
            ask("scalling")
