import numpy as np
import pytest

from redteam.anatomy import GROUPS, containing, within
from redteam.errors import UnknownName
from redteam.symmetry import GROUPS as CLASSES


def test_the_containments():
    assert within("permutation") == {"permutation"}
    assert within("orthogonal") == {"permutation", "signed-permutation", "orthogonal"}
    assert within("scaled-permutation") == {"permutation", "signed-permutation", "scaling", "scaled-permutation"}
    assert within("planar") == {"planar"}
    assert within("scaling") == {"scaling"}
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
        assert group().sample(2, 6, np.random.default_rng(0)).groups == containing(name)


def test_an_unknown_group_is_named():
    for ask in (within, containing):
        with pytest.raises(UnknownName, match="did you mean 'scaling'"):
            ask("scalling")
