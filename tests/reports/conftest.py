"""Results as a large run would leave them: every verdict word, every status, budgets, a sweep and drift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from redteam.evaluation import results as r
from redteam.evaluation.statistics import Interval

Make = Callable[..., r.Results]
RATES = {
    "none": {},
    "permutation": {"hungarian": 1.0, "gauge-fit": 1.0, "graft": 0.18},
    "mergelock": {"gauge-fit": 0.99, "graft": 0.58},
    "mergelock:scale=[0.5,2]": {"gauge-fit": 1.0, "procrustes": 0.62, "graft": 0.58},
    "mergelock:scale=[0.1,10]": {"gauge-fit": 0.995, "procrustes": 0.11, "graft": 0.58},
    "mergelock:scale=[0.01,100]": {"gauge-fit": 0.99, "graft": 0.58},
    "null-shift+rotation": {"gauge-fit": 0.31, "graft": 0.22},
    "gaussian-noise": {"gauge-fit": 0.51, "graft": 0.45},
    "split-neurons": {"graft": 0.1},
    "lottery": {"gauge-fit": 0.2},
    "fresh-weights": {},
}
WORDS = {
    "none": ("INEFFECTIVE", "merging without any attack already steals 1.00 of what the victim adds", ()),
    "null-shift+rotation": (
        "HOLDS-SO-FAR",
        "the best attack steals 0.31, although gauge-fit broke the weakened variant",
        (),
    ),
    "gaussian-noise": ("INCONCLUSIVE", "the best attack steals 0.51, which decides neither way", ("COSTLY",)),
    "split-neurons": ("INVALID", "no attack undid the locks it claims to undo", ()),
    "lottery": ("BROKEN", "gauge-fit takes it off on 1 of 5 seeds", ("SOMETIMES",)),
    "fresh-weights": ("UNSCORABLE", "the victim adds too little to the merge to be stolen: its gain is 0.01", ()),
}
ATTACKS = {
    "none": "naive",
    "none×0.5": "naive",
    "graft": "recovery",
    "hungarian": "recovery",
    "procrustes": "recovery",
    "gauge-fit": "recovery",
    "fine-tune": "recovery",
    "base": "trivial",
    "random-key": "trivial",
    "key-holder": "ceiling",
}
LABELS = {"few-shot:samples=8": 8.0, "few-shot:samples=32": 32.0, "few-shot:samples=128": 128.0,
          "few-shot:samples=512": 512.0, "data-rich": 1203.0}  # fmt: skip
DRIFT = {"digits": 0.0, "digits:growth=2": 0.08, "digits:growth=4": 0.35}


def around(mean: float, half: float = 0.04, seeds: int = 5) -> Interval:
    over = "seeds" if seeds >= 5 else "seeds, preliminary" if seeds > 1 else "test items"
    return Interval(mean, max(mean - half, 0.0), min(mean + half, 1.0), seeds, over)


KEPT = (
    r.WholeMerge(
        scenario="digits", defense="lock", threat="weights-only", merger="masks", stored=2.09, inference=1.0,
        theft=around(0.97), attacked=around(0.98), attack="gauge-fit", cells=10,
    ),
    r.WholeMerge(
        scenario="digits", defense="none", threat="weights-only", merger="masks", reason="adds too little <here>"
    ),
)  # fmt: skip
"""Rows of a merger that keeps every expert whole, one of which has no theft."""


def rate(scenario: str, defense: str, attack: str, threat: str) -> float:
    role = ATTACKS[attack]
    if defense == "none" and role != "trivial":
        return 1.0
    if role != "recovery":
        return {"naive": 0.0, "trivial": 0.0, "ceiling": 1.0}[role]
    if attack == "fine-tune":
        return round(1.0 - 0.9 * 0.75 ** (LABELS[threat] / 60), 4)
    return max(RATES[defense].get(attack, 0.0) - DRIFT[scenario], 0.0)


def by_seed(defense: str, mean: float, attack: str, merger: str, seeds: int) -> tuple[r.SeedFigure, ...]:
    """The same under every seed, but for the lock that falls under the last one alone."""
    lucky = defense == "lottery" and seeds > 1 and mean > 0
    values = [0.0] * (seeds - 1) + [min(mean * seeds, 1.0)] if lucky else [mean] * seeds
    return tuple(
        r.SeedFigure(seed=seed, key=seed % 2, attack=attack, merger=merger, theft=value, counted=value,
                     low=max(value - 0.06, 0.0), high=min(value + 0.06, 1.0),
                     sure=max(value - 0.1, 0.0))
        for seed, value in enumerate(values)
    )  # fmt: skip


def figure(scenario: str, defense: str, threat: str, attack: str, merger: str, seeds: int) -> r.Figure:
    given: dict[str, Any] = {"scenario": scenario, "defense": defense, "threat": threat, "attack": attack}
    given |= {"merger": merger, "role": ATTACKS[attack], "planned": 2 * seeds}
    if defense == "split-neurons" and attack in ("hungarian", "procrustes", "gauge-fit"):
        status = {"hungarian": "error", "procrustes": "timeout", "gauge-fit": "skipped"}[attack]
        return r.Figure(**given, status=status, reason='shapes <differ> & "more"')  # type: ignore[arg-type]
    mean = rate(scenario, defense, attack, threat) * (1.0 if merger == "task-arithmetic" else 0.96)
    theft = around(mean, seeds=seeds)
    with_data = attack == "fine-tune"
    counted = mean * 0.15 if with_data else mean
    return r.Figure(
        **given,
        status="ok",
        theft=theft,
        counted=around(counted, seeds=seeds),
        advantage=around(counted, seeds=seeds) if with_data else None,
        per_seed=by_seed(defense, counted, attack, merger, seeds),
        residual=None if defense == "none" else 0.136 + 408 * (1 - mean) ** 2,
        seen=mean,
        labels=LABELS.get(threat, 0.0) if with_data else 0.0,
        key_spread=None if defense == "none" else 4e-9,
        steps=300.0 if with_data else 0.0,
        seconds=0.11 if not with_data else 20.0,
        cells=2 * seeds,
    )


def choices(figures: list[r.Figure]) -> list[r.Figure]:
    """Of each place: the worst case, merging without an attack, and what an attacker would choose."""
    made = []
    for place in dict.fromkeys(f.place for f in figures):
        here = [f for f in figures if f.place == place and f.theft and f.counted]
        naive = [f for f in here if f.role == "naive"]
        all_of_them = [f for f in here if f.role in ("naive", "recovery")]
        for choice, among in (("naive", naive), ("worst", all_of_them), ("seen", all_of_them)):
            best = max(among, key=lambda f: f.counted.mean if f.counted else 0.0)
            by = {best.attack: best.theft.seeds if best.theft else 0}
            made.append(best.model_copy(update={"choice": choice, "by": by}))
    return made


def subject(place: r.Place, seeds: int) -> r.Subject:
    shape = {"float32": 1.0, "bfloat16": 0.998, "float16": 0.9 if "100" in place.defense else 0.999}
    worth = 0.97 if place.defense == "gaussian-noise" else 1.0
    return r.Subject(
        scenario=place.scenario,
        defense=place.defense,
        threat=place.threat,
        protects=place.defense != "none",
        published=place.defense == "mergelock",
        exact="noise" not in place.defense,
        keyed=place.defense != "none",
        change=1e-7,
        worth=around(worth, 0.004, seeds),
        fidelity={dtype: around(value * worth, 0.004, seeds) for dtype, value in shape.items()},
        released="float32",
        gains={"task-arithmetic": around(0.4, seeds=seeds)},
        adversaries=(
            r.Adversary(
                attack="gauge-fit",
                author="redteam-attacks",
                own=False,
                ran=True,
                covers=True,
                as_strong=True,
                same_extent=True,
            ),
        ),
        missing=("`hungarian`: shapes differ",) if place.defense == "split-neurons" else (),
        keys=2,
    )


def verdict(figures: list[r.Figure], subject: r.Subject, controls: list[r.Control], seeds: int) -> r.Verdict:
    defense, place = subject.defense, subject.place
    word, reason, flags = WORDS.get(defense, ("BROKEN", "gauge-fit with task-arithmetic steals 0.99 [0.95, 1.00]", ()))
    worst, naive, seen = (
        next(f for f in figures if f.place == place and f.choice == choice) for choice in ("worst", "naive", "seen")
    )
    theft, taken = worst.theft, naive.theft
    assert theft is not None
    assert taken is not None
    assert seen.theft is not None
    bases = [k for k, c in enumerate(controls) if c.defense in ("", defense) and (c.passed or word != "BROKEN")]
    spans = {"seconds": r.Span(mean=0.0034, low=0.0021, high=0.006), "labels": r.Span(mean=0, low=0, high=0)}
    paid = {"seconds": r.Span(mean=0.11, low=0.08, high=0.2), "labels": r.Span(mean=0, low=0, high=0)}
    anew = {
        "seconds": r.Span(mean=32.0, low=30.0, high=33.5),
        "labels": r.Span(mean=1203.0, low=1203.0, high=1203.0),
        "steps": r.Span(mean=600.0, low=600.0, high=600.0),
    }
    return r.Verdict(
        scenario=place.scenario,
        defense=defense,
        threat=place.threat,
        verdict=word,
        reason=reason,
        flags=flags if seeds >= 5 else (*(f for f in flags if f != "SOMETIMES"), "PRELIMINARY"),
        attack=worst.attack,
        merger=worst.merger,
        theft=None if word == "UNSCORABLE" else theft,
        counted=None if word == "UNSCORABLE" else worst.counted,
        advantage=worst.advantage,
        protection=Interval(1 - taken.mean, 1 - taken.high, 1 - taken.low, taken.seeds, taken.over),
        fidelity=subject.fidelity,
        by=worst.by,
        fallen={"BROKEN": 1 if defense == "lottery" else seeds}.get(word, 0),
        seen=r.Choice(attack=seen.attack, merger=seen.merger, theft=seen.theft),
        broke_first=worst.attack if theft.low >= 0.5 else "",
        cost={"seconds": 0.11, "labels": worst.labels, "steps": worst.steps},
        price=r.Price(censored=True, anew=anew)
        if theft.mean < 0.9
        else r.Price(
            censored=False,
            attack=worst.attack,
            merger=worst.merger,
            ratio={**spans, "steps": None},
            paid=paid,
            anew=anew,
        ),
        keys=2,
        rests_on=tuple(bases),
        gated=defense != "none",
    )


def cells(figures: list[r.Figure], seeds: range) -> list[r.Cell]:
    made = []
    for f in figures:
        for seed in seeds:
            for key in (0, 1):
                place = {"scenario": f.scenario, "seed": seed, "victim": "digits", "defense": f.defense, "key": key}
                place |= {"threat": f.threat, "attack": f.attack, "role": f.role, "merger": f.merger}
                if f.theft is None:
                    made.append(r.Cell(**place, status=f.status, reason=f.reason))
                    continue
                scores = {
                    "theft": f.theft.mean,
                    "protection": 1.0,
                    "recovery": None,
                    "residual": f.residual,
                    "seen": -0.2,
                    "fidelity": {"float32": 1.0, "float16": 0.99},
                }
                tasks = {"digits": 0.8, "letters": 0.85}
                cost = {"seconds": f.seconds, "labels": f.labels}
                made.append(r.Cell(**place, status="ok", scores=scores, tasks=tasks, cost=cost))
    return made


def controls(defenses: tuple[str, ...]) -> list[r.Control]:
    """Of every kind one that passed; of some one that did not, on the last defense."""
    return [
        r.Control(
            control=kind,
            scenario="digits",
            defense="" if kind in ("gain", "planted", "harmless") and passed else defenses[-1],
            attack="" if kind == "gain" else "procrustes",
            site="vo" if kind == "planted" else "",
            group="orthogonal" if kind == "planted" else "",
            passed=passed,
            partial=kind == "extent" and not passed,
            warning=kind == "monotone",
            limit=1.01,
            value=1.0,
            p=0.4 if kind in ("floor", "trivial") else None,
            explanation=f"what {kind} found is told here; at most 1.01",
        )
        for kind in get_args(r.ControlKind)
        for passed in (True, kind not in ("planted", "extent", "monotone"))
    ]


def make(
    *,
    seeds: int = 5,
    mergers: tuple[str, ...] = ("task-arithmetic", "ties"),
    defenses: tuple[str, ...] = tuple(RATES),
    scenarios: tuple[str, ...] = tuple(DRIFT),
    threats: tuple[str, ...] = ("weights-only", *LABELS),
    listed: int | None = None,
) -> r.Results:
    """Results of a made-up run; scenarios after the first have the first threat model alone.

    `listed`: of how many seeds the cells are listed, all by default.
    """
    figures = [
        figure(scenario, defense, threat, attack, merger, seeds)
        for scenario in scenarios
        for threat in (threats if scenario == scenarios[0] else threats[:1])
        for defense in (defenses if threat not in LABELS else [d for d in defenses if ":" not in d][:3])
        for attack in ATTACKS
        for merger in mergers
        if attack != "fine-tune" or threat in LABELS
    ]
    checks = controls(defenses)
    subjects = [subject(place, seeds) for place in dict.fromkeys(f.place for f in figures)]
    laid = cells(figures, range(seeds if listed is None else listed))
    count = {status: sum(cell.status == status for cell in laid) for status in ("ok", "error", "timeout", "skipped")}
    figures += choices(figures)
    grounds = [
        r.Ground(scenario=s, seed=k, merger=m, digest="4d7b926501d8a308" * 4, settings={"coefficient": 0.4},
                 experts={"digits": 0.94, "letters": 0.91}, base={"digits": 0.45, "letters": 0.78},
                 without={"digits": 0.4, "letters": 0.89}, reference={"digits": 0.8, "letters": 0.85}, gain=0.4)
        for s in scenarios for k in range(seeds) for m in mergers
    ]  # fmt: skip
    return r.Results(
        schema=2,
        plan={"name": "made-up", "scenarios": list(scenarios), "seeds": list(range(seeds)), "defenses": list(defenses),
              "keys": 2, "attacks": [a for a, role in ATTACKS.items() if role == "recovery"],
              "mergers": list(mergers), "threats": list(threats), "time_limit": 300.0},
        command="redteam run made-up.toml --seeds 5 --out 'runs/made up'",
        environment={"redteam": "0.1.0", "engine": "12c08c19fb4f178a" * 4, "python": "3.11.7", "torch": "2.9.0",
                     "system": "Linux", "machine": "x86_64", "device": "cpu", "threads": 1,
                     "date": "2026-11-27T00:10:00+00:00", "duration": 61.4, "commit": "0123456789abcdef" * 2},
        thresholds={"stolen": 0.5, "costly": 0.985, "digest": "df06e3c2da182093" * 4},
        grounds=tuple(grounds),
        cells=tuple(laid),
        figures=tuple(figures),
        controls=tuple(checks),
        subjects=tuple(subjects),
        computed={"computed": 120, "cached": 30},
        verdicts=tuple(verdict(figures, one, checks, seeds) for one in subjects),
        flags={
            "COSTLY": r.Flag(raised_if="the upper bound of fidelity is under 0.985 in the released dtype",
                             means="the owner pays with accuracy of their own model", do="try a milder setting"),
            "SOMETIMES": r.Flag(raised_if="it surely falls on some seeds and not on all of them",
                                means="an owner publishes one model, perhaps one that falls", do="treat it as broken"),
            "PRELIMINARY": r.Flag(raised_if="there are two to four seeds", means="the interval is no estimate yet",
                                  do="run at least five seeds"),
        },
        threats={"weights-only": "The attacker has the protected weights and the public base; no data of theirs.",
                 **{t: f"As weights-only, and {n:.0f} labelled samples of their task." for t, n in LABELS.items()}},
        about={"defense": dict.fromkeys(defenses, "What it does, in one line."),
               "attack": dict.fromkeys(ATTACKS, "What it does, in one line."),
               "scenario": dict.fromkeys(scenarios, "A small network and two experts: digits (the victim), letters.")},
        settings={"defense": {"mergelock": [{"scale": [0.01, 100.0]}]}, "scenario": {"digits": [{"growth": 1.0}]}},
        untested=("distillation from the protected model's answers", "threat models: outputs-only, no-base"),
        coverage=r.Coverage(planned=len(laid), judged=count["ok"], errors=count["error"], timeouts=count["timeout"],
                            skipped=count["skipped"]),
    )  # fmt: skip


@pytest.fixture(scope="session")
def full() -> r.Results:
    """A large run: 3 scenarios, 10 defenses, 9 attacks, 2 mergers, 6 threat models, 5 seeds, 2 keys."""
    return make()


@pytest.fixture(scope="session")
def made() -> Make:
    """Makes results of another size."""
    return make
