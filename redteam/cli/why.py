"""The way from a verdict back to the merges, in one screen: rule, figures, controls, and what each merge can do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from redteam.answer import named, once
from redteam.errors import UnknownName
from redteam.evaluation.results import Control, Figure, Ground, Results, SeedFigure, Verdict

_ATTACKS, _SEEDS, _CONTROLS, _TASKS = 3, 3, 6, 5  # rows of each part that fit one screen

RULES = {
    "UNSCORABLE": "the victim adds less than {gain} to the merge, or only mergers that keep too little of the "
    "companions gain from it, or an attacker who uses nothing of it steals more than {trivial}",
    "INEFFECTIVE": "theft without any attack is at least {stolen}, lower bound",
    "BROKEN": "on one seed or more an attack steals at least {stolen}, lower bound corrected for the choice among "
    "attacks, and takes nothing where nothing is",
    "INVALID": "nothing shows that an attack would have succeeded had there been something to steal",
    "HOLDS-SO-FAR": "every seed's upper bound stays under {stolen}, and an attack made for this defense breaks its "
    "weakened variant and planted locks of its extent",
    "INCONCLUSIVE": "theft is neither surely at least {stolen} nor surely under it, or what did not run, or did not "
    "prove itself, could have stolen more",
}
"""Verdict → what has to be so for it. The first rule that applies decides, in the order of `docs/verdicts.md`."""


def why(results: Results, defense: str, *, width: int = 80) -> str:
    """Why the verdicts on a defense are what they are, one block for each scenario and threat model.

    Args:
        results: Of a run.
        defense: As it is written in them.
        width: Columns that the text may take.

    Raises:
        UnknownName: If there is no verdict on it.
    """
    found = [verdict for verdict in results.verdicts if verdict.defense == defense]
    if not found:
        raise UnknownName.among("defense in this run", defense, {verdict.defense for verdict in results.verdicts})
    return "\n\n".join("\n".join(_block(results, verdict, width)) for verdict in found)


def _block(results: Results, verdict: Verdict, width: int) -> Iterator[str]:
    flags = f" ({', '.join(verdict.flags)})" if verdict.flags else ""
    name = named(verdict.defense, results.about.get("defense", {}))
    yield from textwrap.wrap(f"{verdict.verdict}{flags}: {name} on {verdict.scenario} under {verdict.threat}", width)
    yield from textwrap.wrap(f"Because {once(verdict.reason)}.", width)
    rule = RULES.get(verdict.verdict, "")
    limits = {key: value for key, value in results.thresholds.items() if isinstance(value, (int, float))}
    try:
        yield from textwrap.wrap(f"Rule: {rule.format(**limits)}.", width)
    except KeyError:  # limits of another version
        yield from textwrap.wrap(f"Rule: {rule}.", width)
    figures = [figure for figure in results.figures if figure.place == verdict.place and not figure.whole]
    yield from _figures(figures, width)
    yield from _controls([results.controls[index] for index in verdict.rests_on], width)
    worst = next((figure for figure in figures if figure.choice == "worst" and figure.per_seed), None)
    if worst is not None:
        yield from _merges(results, verdict, worst.per_seed[0], width)


def _figures(figures: Sequence[Figure], width: int) -> Iterator[str]:
    """What was stolen: the choices that verdicts speak of, seed by seed, then the attacks that stole most."""
    names = {"naive": "no attack", "worst": "worst case", "seen": "attacker's choice"}
    yield ""
    yield "Theft [95 % interval], the share of what the victim adds:"
    for choice, name in names.items():
        for figure in (figure for figure in figures if figure.choice == choice and figure.counted is not None):
            yield _cut(f"  {name:<18} {figure.counted}  {figure.attack} with {figure.merger}", width)
            if choice == "worst" and len(figure.per_seed) > 1:
                yield from (_cut(line, width) for line in _seeds(figure.per_seed))
    single = [figure for figure in figures if figure.choice == "attack" and figure.role in ("recovery", "guess")]
    tried = [figure for figure in single if figure.counted is not None]
    best = sorted(tried, key=lambda figure: -(figure.counted.mean if figure.counted else 0.0))
    for figure in best[:_ATTACKS]:
        yield _cut(f"  {figure.attack:<18} {figure.counted}  with {figure.merger}", width)
    rest = [f"{len(best) - _ATTACKS} attacks that stole less"] if len(best) > _ATTACKS else []
    rest += [f"{len(single) - len(tried)} without a result"] if len(single) > len(tried) else []
    if rest:
        yield f"  and {', '.join(rest)}"


def _seeds(figures: Sequence[SeedFigure]) -> Iterator[str]:
    for one in sorted(figures, key=lambda one: -one.counted)[:_SEEDS]:
        interval = f"{one.counted:.2f} [{one.low:.2f}, {one.high:.2f}]"
        yield f"    seed {one.seed}, key {one.key:<5}  {interval}  {one.attack} with {one.merger}"
    if len(figures) > _SEEDS:
        yield f"    and {len(figures) - _SEEDS} seeds with less"


def _controls(controls: Sequence[Control], width: int) -> Iterator[str]:
    """The controls that the word rests on, failed ones first."""
    yield ""
    failed = sum(not control.passed for control in controls)
    count = "one control" if len(controls) == 1 else f"{len(controls)} controls"
    yield f"Rests on {count}, {failed or 'none'} of which failed{':' if controls else '.'}"
    ordered = sorted(controls, key=lambda control: control.passed)
    for control in ordered[:_CONTROLS]:
        word = "ok" if control.passed else "part" if control.partial else "FAILED"
        yield _cut(f"  {word:<6} {control.control:<8} {control.explanation}", width)
    if len(ordered) > _CONTROLS:
        yield f"  and {len(ordered) - _CONTROLS} more that passed" if failed <= _CONTROLS else "  and more"


def _merges(results: Results, verdict: Verdict, seed: SeedFigure, width: int) -> Iterator[str]:
    """What theft is computed from: the scores of the four merges on every task."""
    ground = _ground(results, verdict, seed)
    if ground is None:
        return
    cells = [cell for cell in results.cells if cell.place == verdict.place and cell.status == "ok"]
    cells = [c for c in cells if (c.seed, c.key, c.merger) == (seed.seed, seed.key, seed.merger)]
    # A naive merge at another length of the task vector has that length in its name.
    locked = next((cell for cell in cells if cell.role == "naive" and "×" not in cell.attack), None)
    attacked = next((cell for cell in cells if cell.attack == seed.attack), None)
    rows = {
        "base": ground.base,
        "without victim": ground.without,
        "reference": ground.reference,
        "locked": locked.tasks if locked else {},
        "attacked": attacked.tasks if attacked else {},
    }
    tasks = list(ground.experts)[:_TASKS]
    yield ""
    setting = "".join(f", {name} {value:g}" for name, value in ground.settings.items() if isinstance(value, float))
    yield _cut(f"Merges with {seed.merger}{setting}, seed {seed.seed}, key {seed.key}", width)
    yield "(0: chance, 1: the task's own expert; the victim's task first):"
    victim = attacked.victim if attacked else ""
    tasks.sort(key=lambda task: task != victim)
    yield _cut(f"  {'':<15}" + "".join(f"{task[:11]:>12}" for task in tasks), width)
    yield _cut(f"  {'expert, alone':<15}" + "".join(f"{ground.experts[t]:>12.3f}" for t in tasks) + " accuracy", width)
    for name, scores in rows.items():
        if scores:
            yield _cut(f"  {name:<15}" + "".join(f"{scores.get(task, float('nan')):>12.3f}" for task in tasks), width)
    # What follows a training in a chain is measured against the trained victim, whose merge has no row.
    if attacked and victim in attacked.tasks and victim in ground.reference and "+" not in verdict.defense:
        got, start, full = attacked.tasks[victim], ground.without[victim], ground.reference[victim]
        if full > start:
            charge = (got - start) / (full - start) - seed.theft
            lost = f" − {charge:.2f} that other tasks lost" if charge > 0.005 and 0 < seed.theft < 1 else ""
            share = f"({got:.3f} − {start:.3f}) ÷ ({full:.3f} − {start:.3f})"
            cut = ", cut to" if seed.theft in (0.0, 1.0) else " ="
            yield _cut(f"  theft = {share}{lost}{cut} {seed.theft:.2f}", width)


def _ground(results: Results, verdict: Verdict, seed: SeedFigure) -> Ground | None:
    where = (verdict.scenario, seed.seed, seed.merger)
    return next((one for one in results.grounds if (one.scenario, one.seed, one.merger) == where), None)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
