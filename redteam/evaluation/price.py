"""What stealing costs, over what working costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redteam.evaluation.results import Price, Span
from redteam.evaluation.steps import Cost
from redteam.evaluation.thresholds import THRESHOLDS

UNITS = ("seconds", "labels", "steps")
"""What a price is counted in; seconds are CPU seconds, since others depend on who else uses the machine."""

Spent = dict[int, Cost]
"""Seed → what was spent, the mean over keys."""


def price(attacks: Sequence[tuple[str, str, float, Spent]], anew: Spent | None) -> Price | None:
    """The price of a defense's skill under one threat model.

    Args:
        attacks: Attack, merger, what verdicts count of its theft on average, and what it spent by seed.
        anew: What training such an expert anew spent by seed.

    Returns:
        The costs of the cheapest attack, by CPU seconds, that steals nearly everything, over those of training anew,
        unit by unit and seed by seed; censored where no attack gets that far. `None` where training anew was not
        measured.
    """
    if not anew:
        return None
    working = {unit: _span([float(getattr(cost, unit)) for cost in anew.values()]) for unit in UNITS}
    enough = [one for one in attacks if one[2] >= THRESHOLDS.priced and one[3]]
    if not enough:
        return Price(censored=True, anew=working)
    attack, merger, _, spent = min(enough, key=lambda one: _mean(one[3], lambda cost: cost.seconds))
    paid = {unit: _span([float(getattr(cost, unit)) for cost in spent.values()]) for unit in UNITS}
    ratio = {unit: _ratio(spent, anew, unit) for unit in UNITS}
    return Price(censored=False, attack=attack, merger=merger, ratio=ratio, paid=paid, anew=working)


def _ratio(spent: Spent, anew: Spent, unit: str) -> Span | None:
    both = [seed for seed in spent if seed in anew and getattr(anew[seed], unit)]
    values = [getattr(spent[seed], unit) / getattr(anew[seed], unit) for seed in both]
    return _span(values) if values else None


def _span(values: Sequence[float]) -> Span:
    return Span(mean=sum(values) / len(values), low=min(values), high=max(values))


def _mean(spent: Spent, of: Callable[[Cost], float]) -> float:
    return sum(of(cost) for cost in spent.values()) / len(spent)
