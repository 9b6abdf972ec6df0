from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redteam.errors import BadSetting, PluginFault, UnknownName
from redteam.plugins.contracts import defense, merger
from redteam.plugins.settings import Range, bind, describe, settings_of

if TYPE_CHECKING:
    from nowhere import View


@merger("task-arithmetic", tunable="coefficient")
def arithmetic(view: View, *, coefficient: Annotated[float, Range(0.05, 1.5)] = 0.3) -> None: ...


@defense("mergelock", exact=True, keyed=True)
def mergelock(
    view: View,
    *,
    scale: Annotated[tuple[float, float], Range(1e-6, 1e6)] = (0.01, 100.0),
    factor: Literal["rotation", "gaussian"] = "rotation",
    rounds: int = 3,
    exact: bool = False,
    sites: tuple[str, ...] = ("qk", "vo"),
    note: str | None = None,
) -> None: ...


def test_defaults_fill_in_the_order_of_the_signature() -> None:
    bound = bind(mergelock, {"rounds": 5})
    assert list(bound) == list(settings_of(mergelock)) == ["scale", "factor", "rounds", "exact", "sites", "note"]
    assert bound["rounds"] == 5
    assert bound["scale"] == (0.01, 100.0)
    assert bound["note"] is None


@given(st.floats(0.05, 1.5))
def test_numbers_in_range_pass_unchanged(number: float) -> None:
    assert bind(arithmetic, {"coefficient": number}) == {"coefficient": number}


@given(st.floats().filter(lambda x: not 0.05 <= x <= 1.5))
def test_numbers_out_of_range_are_refused(number: float) -> None:
    with pytest.raises(BadSetting):
        bind(arithmetic, {"coefficient": number})


def test_whole_numbers_and_lists_stand_for_numbers_and_tuples() -> None:
    bound = bind(mergelock, {"scale": [1, 2], "sites": ["mlp"]})
    assert bound["scale"] == (1.0, 2.0)
    assert all(type(x) is float for x in bound["scale"])
    assert bound["sites"] == ("mlp",)


@pytest.mark.parametrize(
    "given",
    [
        {"scale": 3},
        {"scale": [1]},
        {"scale": [1, 2, 3]},
        {"scale": ["1", "2"]},
        {"scale": [1, 1e9]},
        {"factor": "rotatoin"},
        {"rounds": 2.5},
        {"rounds": "2"},
        {"rounds": True},
        {"exact": 1},
        {"exact": "yes"},
        {"sites": "qk"},
        {"sites": [1]},
        {"note": 1},
        {"note": object()},
    ],
)
def test_values_of_another_type_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=r"of mergelock must"):
        bind(mergelock, given)


def test_sentences() -> None:
    with pytest.raises(UnknownName, match=r"^mergelock has no setting 'scal'; did you mean 'scale'\?$"):
        bind(mergelock, {"scal": 1})
    with pytest.raises(BadSetting, match=r"^coefficient of task-arithmetic must lie in \[0.05, 1.5\], got 7\.$"):
        bind(arithmetic, {"coefficient": 7})
    with pytest.raises(BadSetting, match=r"factor of mergelock must be one of 'rotation', 'gaussian', got 'x'\.$"):
        bind(mergelock, {"factor": "x"})


def test_a_setting_without_default_is_required() -> None:
    def few(view: View, *, samples: int) -> None: ...

    assert settings_of(few)["samples"].required
    assert bind(few, {"samples": 4}) == {"samples": 4}
    with pytest.raises(BadSetting, match="few needs a value for samples"):
        bind(few, {})


def test_faults_of_the_plugin_are_told_apart() -> None:
    def untyped(*, x=1): ...  # type: ignore[no-untyped-def]

    def unresolved(*, x: View = 1) -> None: ...

    def wrong(*, x: Annotated[float, Range(0, 1)] = 2.0) -> None: ...

    for function in (untyped, unresolved, wrong):
        with pytest.raises(PluginFault):
            bind(function, {})


@pytest.mark.parametrize(("low", "high", "log"), [(1, 0, False), (0, 1, True), (float("nan"), 1, False)])
def test_a_range_must_be_one(low: float, high: float, log: bool) -> None:
    with pytest.raises(ValueError, match="no range"):
        Range(low, high, log)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (float, "number"),
        (int | None, "whole number or nothing"),
        (tuple[str, ...], "list of any length, each text"),
        (Literal["a", 1], "one of 'a', 1"),
        (Annotated[bool, "x"], "true or false"),
    ],
)
def test_types_in_words(annotation: Any, text: str) -> None:
    assert describe(annotation) == text
