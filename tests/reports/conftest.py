"""Results as a large run would leave them: every verdict word, every status, budgets, a sweep and drift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    "fresh-weights": ("UNSCORABLE", "the victim adds too little to the merge to be stolen: its gain is 0.01", ()),
}
ATTACKS = {
    "none": "naive",
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


def rate(scenario: str, defense: str, attack: str, threat: str) -> float:
    role = ATTACKS[attack]
    if defense == "none" and role != "trivial":
        return 1.0
    if role != "recovery":
        return {"naive": 0.0, "trivial": 0.0, "ceiling": 1.0}[role]
    if attack == "fine-tune":
        return round(1.0 - 0.9 * 0.75 ** (LABELS[threat] / 60), 4)
    return max(RATES[defense].get(attack, 0.0) - DRIFT[scenario], 0.0)


def figure(scenario: str, defense: str, threat: str, attack: str, merger: str, seeds: int) -> r.Figure:
    given: dict[str, Any] = {"scenario": scenario, "defense": defense, "threat": threat, "attack": attack}
    given |= {"merger": merger, "role": ATTACKS[attack]}
    if defense == "split-neurons" and attack in ("hungarian", "procrustes", "gauge-fit"):
        status = {"hungarian": "error", "procrustes": "timeout", "gauge-fit": "skipped"}[attack]
        return r.Figure(**given, status=status, reason='shapes <differ> & "more"')  # type: ignore[arg-type]
    mean = rate(scenario, defense, attack, threat) * (1.0 if merger == "task-arithmetic" else 0.96)
    theft = around(mean, seeds=seeds)
    with_data = attack == "fine-tune"
    return r.Figure(
        **given,
        status="ok",
        theft=theft,
        counted=around(mean * 0.15, seeds=seeds) if with_data else theft,
        advantage=around(mean * 0.15, seeds=seeds) if with_data else None,
        residual=None if defense == "none" else 0.136 + 408 * (1 - mean) ** 2,
        seen=mean,
        labels=LABELS.get(threat, 0.0) if with_data else 0.0,
        key_spread=None if defense == "none" else 4e-9,
        steps=300.0 if with_data else 0.0,
        seconds=0.11 if not with_data else 20.0,
        cells=2 * seeds,
    )


def verdict(figures: list[r.Figure], defense: str, scenario: str, threat: str, seeds: int) -> r.Verdict:
    word, reason, flags = WORDS.get(defense, ("BROKEN", "gauge-fit with task-arithmetic steals 0.99 [0.95, 1.00]", ()))
    here = [f for f in figures if (f.scenario, f.defense, f.threat) == (scenario, defense, threat) and f.theft]
    judged = [f for f in here if f.role in ("naive", "recovery")]
    best = max(judged, key=lambda f: f.counted.mean if f.counted else 0.0)
    theft = best.theft
    assert theft is not None
    stolen = theft.mean >= 0.9
    shape = {"float32": 1.0, "bfloat16": 0.998, "float16": 0.9 if "100" in defense else 0.999}
    return r.Verdict(
        scenario=scenario,
        defense=defense,
        threat=threat,
        verdict=word,
        reason=reason,
        flags=flags if seeds >= 5 else (*flags, "PRELIMINARY"),
        attack=best.attack,
        merger=best.merger,
        theft=None if word == "UNSCORABLE" else theft,
        counted=None if word == "UNSCORABLE" else best.counted,
        advantage=best.advantage,
        protection=Interval(0.0, 0.0, 0.0, seeds, "seeds") if defense == "none" else around(1.0, 0.01, seeds),
        fidelity={dtype: around(value * (0.97 if defense == "gaussian-noise" else 1.0), 0.004, seeds)
                  for dtype, value in shape.items()},
        oracle=r.Oracle(attack=best.attack, merger=best.merger, theft=theft),
        broke_first=best.attack if theft.low >= 0.5 else "",
        cost={"seconds": 0.11, "labels": best.labels, "megabytes": 3.6},
        price=r.Price(censored=True)
        if not stolen
        else r.Price(
            censored=False,
            attack=best.attack,
            merger=best.merger,
            ratio={"seconds": 0.0034, "labels": 0.0, "steps": None},
            paid={"seconds": 0.11, "labels": 0.0, "steps": None},
            anew={"seconds": 32.0, "labels": 1203.0, "steps": 600.0},
        ),
        keys=2,
        gated=defense != "none",
    )  # fmt: skip


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


def controls() -> list[r.Control]:
    kinds = ("gain", "trivial", "planted", "harmless", "floor", "ceiling", "weakened", "monotone")
    return [
        r.Control(
            control=kind,  # type: ignore[arg-type]
            scenario="digits",
            attack="" if kind == "gain" else "procrustes",
            site="vo" if kind == "planted" else "",
            group="orthogonal" if kind == "planted" else "",
            passed=passed,
            warning=kind == "monotone",
            limit=1.01,
            value=1.0,
            explanation=f"what {kind} found is told here; at most 1.01",
        )
        for kind in kinds
        for passed in (True, kind not in ("planted", "monotone"))
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
    places = dict.fromkeys((f.scenario, f.defense, f.threat) for f in figures)
    laid = cells(figures, range(seeds if listed is None else listed))
    count = {status: sum(cell.status == status for cell in laid) for status in ("ok", "error", "timeout", "skipped")}
    grounds = [
        r.Ground(scenario=s, seed=k, merger=m, digest="4d7b926501d8a308" * 4, settings={"coefficient": 0.4},
                 experts={"digits": 0.94, "letters": 0.91}, base={"digits": 0.45, "letters": 0.78},
                 without={"digits": 0.4, "letters": 0.89}, reference={"digits": 0.8, "letters": 0.85}, gain=0.4)
        for s in scenarios for k in range(seeds) for m in mergers
    ]  # fmt: skip
    return r.Results(
        schema=1,
        plan={"name": "made-up", "scenarios": list(scenarios), "seeds": list(range(seeds)), "defenses": list(defenses),
              "keys": 2, "attacks": [a for a, role in ATTACKS.items() if role == "recovery"],
              "mergers": list(mergers), "threats": list(threats), "time_limit": 300.0},
        command="redteam run made-up.toml --seeds 5 --out 'runs/made up'",
        environment={"redteam": "0.1.0", "engine": "12c08c19fb4f178a" * 4, "python": "3.11.7", "torch": "2.9.0",
                     "system": "Linux", "machine": "x86_64", "device": "cpu", "threads": 1},
        thresholds={"stolen": 0.5, "costly": 0.985, "digest": "df06e3c2da182093" * 4},
        grounds=tuple(grounds),
        cells=tuple(laid),
        figures=tuple(figures),
        controls=tuple(controls()),
        verdicts=tuple(verdict(figures, d, s, t, seeds) for s, d, t in places),
        flags={
            "COSTLY": r.Flag(raised_if="the upper bound of fidelity is under 0.985 in the released dtype",
                             means="the owner pays with accuracy of their own model", do="try a milder setting"),
            "PRELIMINARY": r.Flag(raised_if="there are two to four seeds", means="the interval is no estimate yet",
                                  do="run at least five seeds"),
        },
        threats={"weights-only": "The attacker has the protected weights and the public base; no data of theirs.",
                 **{t: f"As weights-only, and {n:.0f} labelled samples of their task." for t, n in LABELS.items()}},
        about={"defense": dict.fromkeys(defenses, "What it does, in one line."),
               "attack": dict.fromkeys(ATTACKS, "What it does, in one line.")},
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
