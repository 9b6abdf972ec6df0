"""What stealing costs, over what working costs."""

from __future__ import annotations

from collections.abc import Sequence

from redteam.evaluation.results import Figure, Price
from redteam.evaluation.thresholds import THRESHOLDS

UNITS = ("seconds", "labels", "steps", "megabytes")


def price(figures: Sequence[Figure]) -> Price | None:
    """The price of a defense's skill under one threat model.

    Args:
        figures: All of that defense and threat model.

    Returns:
        The costs of the cheapest attack, by seconds, that steals nearly everything, over those of training such an
        expert anew, unit by unit; censored where no attack gets that far. `None` where training anew was not measured.
    """
    anew = next((f for f in figures if f.role == "anew" and f.status == "ok"), None)
    if anew is None:
        return None
    working = {unit: getattr(anew, unit) for unit in UNITS}
    enough = [
        f
        for f in figures
        if f.role == "recovery"
        and not f.spared
        and f.theft is not None
        and f.theft.mean >= THRESHOLDS.priced
        and f.seconds is not None
    ]
    if not enough:
        return Price(censored=True, anew=working)
    cheapest = min(enough, key=lambda f: f.seconds or 0.0)
    paid = {unit: getattr(cheapest, unit) for unit in UNITS}
    ratio = {unit: _over(paid[unit], working[unit]) for unit in UNITS}
    return Price(censored=False, attack=cheapest.attack, merger=cheapest.merger, ratio=ratio, paid=paid, anew=working)


def _over(paid: float | None, working: float | None) -> float | None:
    return None if paid is None or not working else paid / working
