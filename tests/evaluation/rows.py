"""Rows of `results.json` made by hand: what a verdict rests on, a handful at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from scipy.stats import norm

from redteam.evaluation.results import Adversary, Control, ControlKind, Figure, Place, SeedFigure, Subject
from redteam.evaluation.statistics import Interval
from redteam.evaluation.verdict import Evidence

PLACE = Place("toy", "lock", "weights-only")
MERGER = "task-arithmetic"
OF_AN_ATTACK: tuple[ControlKind, ...] = ("floor", "gone", "harmless", "planted", "extent", "weakened")


def around(mean: float, half: float = 0.05, seeds: int = 5) -> Interval:
    """A share with an interval of that half-width."""
    over = "seeds" if seeds >= 5 else "seeds, preliminary" if seeds > 1 else "test items"
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), seeds, over)


def seed_figure(counted: float, seed: int = 0, *, half: float = 0.05, attack: str = "fit", **rest: Any) -> SeedFigure:
    """What a figure is under one seed, as if its resamples were normal."""
    spread = half / float(norm.isf(0.025))
    values = {
        "key": 0,
        "merger": MERGER,
        "theft": counted,
        "low": max(0.0, counted - half),
        "high": min(1.0, counted + half),
        "sure": min(1.0, max(0.0, counted - float(norm.isf(0.00025)) * spread)),
        **rest,
    }
    return SeedFigure(seed=seed, attack=attack, counted=counted, **values)


def figure(
    attack: str,
    counted: float | Sequence[float],
    *,
    role: str = "recovery",
    half: float = 0.05,
    advantage: float | None = None,
    **rest: Any,
) -> Figure:
    """A row: one figure for all of five seeds, or one for each seed."""
    each = [counted] * 5 if isinstance(counted, (int, float)) else list(counted)
    mean = sum(each) / len(each)
    known = around(mean, half, len(each))
    values: dict[str, Any] = {
        "merger": MERGER,
        "status": "ok",
        "theft": known,
        "counted": known,
        "advantage": None if advantage is None else around(advantage, half, len(each)),
        "per_seed": tuple(seed_figure(c, seed, half=half, attack=attack) for seed, c in enumerate(each)),
        "cells": len(each),
        "planned": len(each),
        "by": {attack: len(each)} if rest.get("choice", "attack") != "attack" else {},
        **rest,
    }
    return Figure(**vars(PLACE), attack=attack, role=role, **values)


def choices(figures: Iterable[Figure], seen: str | None = None) -> tuple[Figure, ...]:
    """The rows of the choices over several attacks: where one attack is best everywhere, its own figures.

    Args:
        figures: One row for each attack.
        seen: Which attack an attacker would choose by what they see; the best one by default.
    """
    counting = [f for f in figures if f.choice == "attack" and f.role in ("naive", "guess", "recovery") and f.per_seed]
    rows = []
    for choice, among in (("naive", [f for f in counting if f.role == "naive"]), ("worst", counting)):
        if among:
            best = max(among, key=lambda f: f.counted.mean if f.counted else 0.0)
            rows.append(best.model_copy(update={"choice": choice, "by": {best.attack: len(best.per_seed)}}))
    picked = next((f for f in counting if f.attack == seen), None) or (rows[-1] if rows else None)
    if picked is not None:
        rows.append(picked.model_copy(update={"choice": "seen", "by": {picked.attack: len(picked.per_seed)}}))
    return tuple(rows)


def control(kind: ControlKind, attack: str, *, passed: bool = True, **rest: Any) -> Control:
    """One that has passed, unless something else is said."""
    told = f"{kind} of {attack}" + ("" if passed else " failed")
    return Control(
        control=kind,
        scenario=PLACE.scenario,
        defense=rest.pop("defense", PLACE.defense),
        threat=PLACE.threat,
        attack=attack,
        passed=passed,
        limit=0.5,
        explanation=told,
        **rest,
    )


def adversary(attack: str = "fit", **rest: Any) -> Adversary:
    """An attack that was made for the lock, by somebody else, and was run on it to its end."""
    return Adversary(
        attack=attack,
        **{
            "author": "elsewhere",
            "own": False,
            "ran": True,
            "covers": True,
            "as_strong": True,
            "same_extent": True,
            **rest,
        },
    )


def subject(attacks: Iterable[str] = ("fit",), **rest: Any) -> Subject:
    """A lock of which everything is known, with every control computed."""
    tried = [(kind, attack) for attack in attacks for kind in OF_AN_ATTACK]
    values: dict[str, Any] = {
        "protects": True,
        "published": False,
        "exact": True,
        "keyed": True,
        "change": 1e-6,
        "worth": around(1.0, 0.01),
        "fidelity": {"float32": around(0.999, 0.0005)},
        "released": "float32",
        "gains": {MERGER: around(0.4)},
        "adversaries": (adversary(),),
        "ceilings": ("key-holder",),
        "tried": (("trivial", "base"), *tried, ("ceiling", "key-holder")),
        **rest,
    }
    return Subject(**vars(PLACE), **values)


def evidence(
    *figures: Figure,
    controls: Sequence[Control] | None = None,
    seen: str | None = None,
    naive: float = 0.05,
    choose: bool = True,
    **rest: Any,
) -> Evidence:
    """All rows of a verdict.

    Args:
        figures: Those of attacks; the base in the victim's place and merging without an attack come with them.
        controls: By default all that there are, passed.
        seen: See `choices`.
        naive: Theft without an attack.
        choose: Whether the rows of the choices are added.
        rest: What is different about the lock.
    """
    every = (figure("none", naive, role="naive"), *figures, figure("base", 0.0, role="trivial"))
    attacks = [f.attack for f in figures if f.role == "recovery"]
    if controls is None:
        controls = passing(attacks)
    rows = (*(choices(every, seen) if choose else ()), *every)
    return Evidence(subject(attacks, **rest), rows, tuple(enumerate(controls)))


def passing(attacks: Iterable[str], *, but: Sequence[Control] = ()) -> tuple[Control, ...]:
    """Every control that a verdict on these attacks may rest on, passed, but for some rows that replace theirs."""
    rows = [control("trivial", "base"), *(control(kind, attack) for attack in attacks for kind in OF_AN_ATTACK)]
    rows.append(control("ceiling", "key-holder"))
    replaced = {(c.control, c.attack) for c in but}
    return (*(c for c in rows if (c.control, c.attack) not in replaced), *but)
