"""Markdown: verdicts first, then the evidence behind them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from redteam.evaluation.results import Cell, Results, Verdict
from redteam.evaluation.store import write_atomically
from redteam.threat import THREAT_MODELS

_MEANING = {
    "UNSCORABLE": "the scores of this scenario cannot be trusted for it",
    "INEFFECTIVE": "it does not stop a merge that uses no attack at all",
    "BROKEN": "an attack gets back half or more of what the victim adds",
    "INVALID": "there is no evidence that the attacks behind it work",
    "HOLDS-SO-FAR": "no attack that was tried gets half, and those attacks were shown to work",
    "INCONCLUSIVE": "the figures decide neither way",
}

_SHOWS = {
    "gain": "the victim adds something to the merge that could be stolen",
    "trivial": "an attacker who uses nothing of the victim, or guesses the key, steals nothing",
    "floor": "nothing is stolen from a victim that has nothing",
    "ceiling": "the score can be reached: the key's holder reaches it",
    "planted": "an attack undoes the locks that it claims to undo, planted one by one",
    "weakened": "an attack made for a defense breaks a weaker variant of it",
    "harmless": "an attack spoils no model that was not locked",
}


def write(results: Results, path: Path) -> None:
    """Writes the report.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, "\n\n".join(part for part in _parts(results) if part) + "\n")


def _parts(results: Results) -> Iterable[str]:
    yield f"# Robustness against model merging: plan `{results.plan['name']}`"
    yield "**Robustness figures are upper bounds:** a stronger attack can only lower them."
    yield "## Verdicts"
    yield from (_verdict(verdict, results) for verdict in results.verdicts)
    yield "## Theft by attack and defense"
    yield (
        "The share of what the victim adds to the merge that the attacker gets: 0 none, 1 all. Mean over seeds, over "
        "keys the worst; *n* counts (seed, key) pairs. **Bold**: what an attacker would choose by what they can see."
    )
    yield from _heat(results)
    yield "## What everything is measured against"
    yield _grounds(results)
    yield "## Controls"
    yield _summary(results)
    yield _controls(results)
    yield "## Cells"
    yield _cells(results)
    yield "## What was not tested"
    yield _untested(results)
    yield "## How to repeat it"
    yield _repeat(results)


def _verdict(verdict: Verdict, results: Results) -> str:
    flags = f" · {', '.join(verdict.flags)}" if verdict.flags else ""
    lines = [
        f"### `{verdict.defense}` on {verdict.scenario}, {verdict.threat}: {verdict.verdict}{flags}",
        f"{verdict.verdict} means: {_MEANING[verdict.verdict]}. Here: {verdict.reason}.",
    ]
    facts = []
    if verdict.theft is not None:
        cost = f" in {verdict.cost['seconds']:.2g} s" if verdict.cost.get("seconds") is not None else ""
        facts.append(
            f"theft {verdict.theft} by `{verdict.attack}` with `{verdict.merger}`{cost}, "
            f"interval over {verdict.theft.over}"
        )
    if verdict.oracle is not None:
        facts.append(f"the best on the scoring data: `{verdict.oracle.attack}`, {verdict.oracle.theft}")
    if verdict.protection is not None:
        facts.append(f"protection from a merge without attack {verdict.protection}")
    if verdict.fidelity:
        told = ", ".join(
            f"{dtype} {estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
            for dtype, estimate in verdict.fidelity.items()
        )
        facts.append(f"fidelity of the protected model alone: {told}")
    lines.append("\n".join(f"- {fact}" for fact in facts))
    if verdict.threat in results.threats:
        lines.append(f"*{results.threats[verdict.threat]}*")
    return "\n\n".join(line for line in lines if line)


def _heat(results: Results) -> Iterable[str]:
    chosen = {(v.scenario, v.threat, v.defense): (v.attack, v.merger) for v in results.verdicts}
    for scenario, threat, merger in dict.fromkeys((c.scenario, c.threat, c.merger) for c in results.cells if c.merger):
        here = [c for c in results.cells if (c.scenario, c.threat, c.merger) == (scenario, threat, merger)]
        defenses = list(dict.fromkeys(c.defense for c in here))
        rows = []
        for attack in dict.fromkeys(c.attack for c in here):
            row = [f"`{attack}`"]
            for defense in defenses:
                cells = [c for c in here if (c.attack, c.defense) == (attack, defense)]
                text = _theft(cells)
                row.append(f"**{text}**" if chosen.get((scenario, threat, defense)) == (attack, merger) else text)
            rows.append(row)
        yield f"{scenario}, {threat}, merged with `{merger}`:"
        yield _table(["attack", *(f"`{d}`" for d in defenses)], rows)


def _theft(cells: Sequence[Cell]) -> str:
    if not cells:
        return "–"
    failed = [c.status for c in cells if c.status != "ok"]
    if failed:
        return failed[0]
    by_seed: dict[int, float] = {}
    for cell in cells:
        by_seed[cell.seed] = max(by_seed.get(cell.seed, 0.0), float(cell.scores["theft"]))
    return f"{sum(by_seed.values()) / len(by_seed):.2f} (n={len(cells)})"


def _grounds(results: Results) -> str:
    rows = []
    for ground in results.grounds:
        setting = ", ".join(f"{key} {value:g}" for key, value in ground.settings.items()) or "–"
        rows.append(
            [
                ground.scenario,
                str(ground.seed),
                f"`{ground.merger}` ({setting})",
                _many(ground.experts),
                _many(ground.base),
                _many(ground.without),
                _many(ground.reference),
                f"{ground.gain:.2f}",
            ]
        )
    heads = [
        "scenario",
        "seed",
        "merger",
        "experts alone (accuracy)",
        "base (n)",
        "companions only (n)",
        "all unlocked (n)",
        "victim's gain",
    ]
    told = (
        "n = (accuracy − chance) ÷ (accuracy of the task's own expert − chance). The merger's setting is chosen once "
        "per seed, on the companions-only merge, with the attacker's own validation data, and used in every merge."
    )
    return f"{told}\n\n{_table(heads, rows)}"


def _summary(results: Results) -> str:
    rows = []
    for kind, shows in _SHOWS.items():
        mine = [control for control in results.controls if control.control == kind]
        if mine:
            passed = sum(control.passed for control in mine)
            rows.append(
                [kind, f"{passed} of {len(mine)}" if passed == len(mine) else f"**{passed} of {len(mine)}**", shows]
            )
    return _table(["control", "passed", "what it shows"], rows)


def _controls(results: Results) -> str:
    rows = [
        [
            control.control,
            " ".join(
                part for part in (f"`{control.attack}`" if control.attack else "", control.group, control.site) if part
            )
            or "–",
            f"`{control.defense}`" if control.defense else "–",
            ("passed" if control.passed else "**failed**") if control.status == "ok" else f"**{control.status}**",
            control.explanation,
        ]
        for control in results.controls
    ]
    return _table(["control", "of", "defense", "outcome", "what was found"], rows)


def _cells(results: Results) -> str:
    rows = []
    for cell in results.cells:
        where = [
            f"`{cell.defense}`",
            f"`{cell.attack}`",
            f"`{cell.merger}`" if cell.merger else "–",
            cell.threat,
            str(cell.seed),
            str(cell.key),
        ]
        if cell.status != "ok":
            rows.append([*where, cell.status, "", "", "", "", "", cell.reason])
            continue
        s = cell.scores
        figures = [
            _number(s["theft"]),
            _number(s["protection"]),
            _number(s["recovery"]),
            _number(s["residual"], 3),
            _number(s["seen"]),
            _number(cell.cost["seconds"]),
        ]
        rows.append([*where, *figures, _many(cell.tasks)])
    heads = [
        "defense",
        "attack",
        "merger",
        "threat",
        "seed",
        "key",
        "theft",
        "protection",
        "recovery",
        "residual",
        "seen",
        "seconds",
        "n by task",
    ]
    told = (
        "*Recovery* compares mean scores and rewards throwing the victim away; verdicts do not use it. *Residual* is "
        "‖recovered − victim‖ ÷ ‖victim − base‖ over the tensors that the defense changed. *Seen* is what the attacker "
        "chooses by: the share of the protected model's answers that came over, on inputs of the attacker's own tasks, "
        "and by how much the own tasks changed."
    )
    return f"{told}\n\n{_table(heads, rows)}"


def _untested(results: Results) -> str:
    plan = results.plan
    absent = [name for name in THREAT_MODELS if name not in plan["threats"]]
    lines = [
        f"- scenarios other than {', '.join(plan['scenarios'])}; mergers other than {', '.join(plan['mergers'])}",
        "- attacks with the victim's data, distillation, and attacks that need more than the threat models grant",
    ]
    if absent:
        lines.append(f"- threat models: {', '.join(absent)}")
    if len(plan["seeds"]) < 5:
        lines.append(f"- the spread over retrained bases and experts: {len(plan['seeds'])} of at least 5 seeds")
    return "\n".join(lines)


def _repeat(results: Results) -> str:
    digests = [
        [g.scenario, str(g.seed), f"`{g.digest[:16]}`"]
        for g in {(g.scenario, g.seed): g for g in results.grounds}.values()
    ]
    facts = ", ".join(f"{key} {value}" for key, value in results.environment.items() if key != "engine")
    return "\n\n".join(
        [
            f"```\n{results.command or 'redteam.run(plan)'}\n```",
            f"{facts}; engine `{results.environment['engine'][:16]}`, thresholds `{results.thresholds['digest'][:16]}` "
            "(fixed before any attack ran).",
            _table(["scenario", "seed", "weights and data, SHA-256"], digests),
        ]
    )


def _many(values: dict[str, float]) -> str:
    return " ".join(f"{task} {value:.2f}" for task, value in values.items())


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}g}" if abs(value) >= 100 else f"{value:.{digits}f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
