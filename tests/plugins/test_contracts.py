from __future__ import annotations

import pytest

from redteam.plugins.contracts import AttackSpec, Needs, attack, defense, merger, scenario, spec_of


class Group: ...


def test_decorators_leave_the_function_alone() -> None:
    def plain(view: object) -> int:
        return 7

    assert spec_of(plain) is None
    decorated = attack("some-attack", breaks={("qk", Group)}, needs=Needs.ANCHOR | Needs.INPUTS, targets=["x"])(plain)
    assert decorated is plain
    assert decorated(None) == 7
    spec = spec_of(decorated)
    assert isinstance(spec, AttackSpec)
    assert spec.breaks == frozenset({("qk", Group)})
    assert spec.targets == ("x",)
    assert Needs.INPUTS in spec.needs
    assert Needs.KEY not in spec.needs
    hash(spec)


@pytest.mark.parametrize("name", ["", "Two Words", "under_score", "9lives", "-x", "x-", "a:b", "a+b", "x@y"])
def test_names_can_be_written_in_references(name: str) -> None:
    for declare in (attack, merger, scenario):
        with pytest.raises(ValueError, match="joined by hyphens"):
            declare(name)
    with pytest.raises(ValueError, match="joined by hyphens"):
        defense(name, exact=True, keyed=True)


def test_a_role_is_one_of_four() -> None:
    with pytest.raises(ValueError, match="role"):
        attack("x", role="hero")  # type: ignore[arg-type]
