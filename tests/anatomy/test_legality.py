import numpy as np
import pytest

from redteam.anatomy import GROUPS, containing, within
from redteam.errors import UnknownName
from redteam.symmetry import GROUPS as CLASSES


def test_the_containments():
    assert within("permutation") == {"permutation"}
    signed = {"permutation", "mirrored-permutation", "plane-signs", "signed-permutation"}
    assert within("signed-permutation") == signed
    assert within("orthogonal") == signed | {"orthogonal"}
    assert within("scaling") == {"positive-scaling", "plane-signs", "plane-scaling", "scaling"}
    positive = {"permutation", "positive-scaling", "positive-scaled-permutation"}
    assert within("positive-scaled-permutation") == positive
    assert within("scaled-permutation") == signed | positive | {"plane-scaling", "scaling", "scaled-permutation"}
    assert within("planar") == {"plane-signs", "plane-scaling", "planar"}
    assert within("partial-planar") == {"partial-planar"}
    assert within("general-linear") == set(GROUPS)
    assert containing("scaling") == {"scaling", "scaled-permutation", "general-linear"}


def test_it_is_an_order_that_the_list_of_names_follows():
    for a in GROUPS:
        for b in GROUPS:
            assert (a in within(b)) == (b in containing(a))
            assert not (a in within(b) and b in within(a)) or a == b
            assert a not in within(b) or GROUPS.index(a) <= GROUPS.index(b)
            assert all(within(c) <= within(b) for c in within(b))


def test_every_group_has_a_class_whose_elements_agree():
    assert set(CLASSES) == set(GROUPS)
    for name, group in CLASSES.items():
        found = group().sample(2, 6, np.random.default_rng(0))
        assert {name} <= found.groups <= containing(name) or name == "mirrored-permutation"  # plus is a permutation


def test_an_unknown_group_is_named():
    for ask in (within, containing):
        with pytest.raises(UnknownName, match="did you mean 'scaling'"):
            ask("scalling")
