"""Events of long work: every one reaches every observer, and a base class that ignores them all."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from redteam.events import Observer, Observers, current, reporting_to
from redteam.terminal import Lines

EVENTS = [name for name, value in vars(Observer).items() if inspect.isfunction(value)]


def arguments(event: str) -> tuple[str, ...]:
    return tuple(inspect.signature(getattr(Observer, event)).parameters)[1:]


class Recorder(Observer):
    """Remembers what it was told, whatever it was."""

    def __init__(self, log: list[tuple[int, str, tuple[Any, ...]]], number: int) -> None:
        for event in EVENTS:
            setattr(self, event, lambda *given, event=event: log.append((number, event, given)))


def test_there_are_events() -> None:
    assert {"started", "planned", "settled", "decided", "finished", "tried", "advanced"} <= set(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_reaches_all_observers_in_order(event: str) -> None:
    log: list[tuple[int, str, tuple[Any, ...]]] = []
    given = arguments(event)
    getattr(Observers(Recorder(log, 1), Recorder(log, 2)), event)(*given)
    assert log == [(1, event, given), (2, event, given)]


@pytest.mark.parametrize("event", EVENTS)
def test_the_base_class_ignores_every_event(event: str) -> None:
    assert getattr(Observer(), event)(*arguments(event)) is None


def test_work_without_an_observer_of_its_own_reports_to_the_innermost_one() -> None:
    outer, inner = Observer(), Observer()
    assert isinstance(current(), Lines)
    with reporting_to(outer):
        with reporting_to(inner):
            assert current() is inner
        assert current() is outer
    assert isinstance(current(), Lines)
