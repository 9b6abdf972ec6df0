"""Markdown: verdicts first, then the evidence behind them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from redteam import answer
from redteam.evaluation import gate
from redteam.evaluation.results import Control, Results, Verdict
from redteam.files import write_atomically
from redteam_reports import by_merger, heatmap, leaderboard, wording
from redteam_reports.tables import markdown_table
from redteam_reports.templating import without_tags


def write(results: Results, path: Path) -> None:
    """Writes the report.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, without_tags("\n\n".join(part for part in _parts(results) if part) + "\n"))


def _parts(results: Results) -> Iterable[str]:
    yield f"**{answer.BOUND}**"
    yield f"# Robustness against model merging: plan `{results.plan['name']}`"
    yield f"{gate.told(results.gate)} Exit code {results.exit_code}."
    yield _list(f"{line}." for line in results.unevaluated)
    yield "## Verdicts"
    yield leaderboard.differing(results)
    for (family, threat), over in leaderboard.over_victims(results).items():
        yield f"**{family}, {threat}: the worst of all victims**"
        yield _list(answer.over_victims(row, results.about.get("defense")) for row in over if row.gated)
        yield leaderboard.victims_table(over)
    boards = leaderboard.rows(results)
    for (scenario, threat), rows in boards.items():
        yield f"**{scenario}, {threat}**" if len(boards) > 1 else ""
        yield _list(answer.sentence(row.verdict, results.about.get("defense")) for row in rows)
        yield leaderboard.table(rows)
    yield wording.THEFT
    yield "## What was tested"
    yield _list(f"{fact.label}: {fact.text}" for fact in wording.tested(results))
    yield "## What was not tested"
    yield _list(wording.untested(results))
    yield "## Why"
    for verdict in results.verdicts:
        yield _verdict(results, verdict)
        if verdict.defense in results.claims:
            yield f"Its source reports, of other models: {results.claims[verdict.defense]}"
    yield from _flags(results)
    yield from _threats(results)
    yield "## Theft by attack and defense"
    yield (
        "Mean over seeds with its interval, over keys the worst; *n* counts (seed, key) pairs. **Worst**: the worst "
        "case over all attacks and mergers on most seeds, which the verdict speaks of. **Seen**: what an attacker "
        "would choose by what they can see."
    )
    for name, members in results.gauntlets.items():
        told = ", ".join(f"`{member}`" for member in members)
        yield f"`{name}` runs {told}, later ones on what is still locked (*n = 2 of 5*)."
    yield from _heatmaps(results)
    yield from _by_merger(results)
    yield from _whole(results)
    yield from _beside(results)
    yield "## What everything is measured against"
    yield _grounds(results)
    yield "## Controls"
    yield _summary(results)
    yield _controls([control for control in results.controls if not control.passed])
    passed = [control for control in results.controls if control.passed]
    yield _folded(f"The {len(passed)} controls that passed", _controls(passed))
    yield "## Cells"
    yield _folded(f"All {len(results.cells)} cells", _cells(results))
    yield "## How to repeat it"
    yield _repeat(results)


def _verdict(results: Results, verdict: Verdict) -> str:
    flags = f" · {', '.join(verdict.flags)}" if verdict.flags else ""
    facts = [f"{fact.label}: {fact.text}" for fact in wording.facts(verdict)]
    seeds = wording.by_seed(results, verdict)
    facts += [f"Seed by seed: {seeds}"] if seeds else []
    facts += [
        f"Control {control.control} of {wording.about(control)} {wording.outcome(control)}: {control.explanation}"
        for control in wording.doubts(results, verdict)
    ]
    return "\n\n".join(
        [
            f"### `{verdict.defense}` on {verdict.scenario}, {verdict.threat}: {verdict.verdict}{flags}",
            f"{verdict.verdict} means: {wording.MEANING[verdict.verdict]}. Here: {verdict.reason}.",
            _list(facts),
        ]
    )


def _flags(results: Results) -> Iterable[str]:
    if results.flags:
        yield "### What the flags say"
        rows = [[name, flag.raised_if, flag.means, flag.do] for name, flag in results.flags.items()]
        yield markdown_table(["flag", "raised if", "what it means", "what to do"], rows)


def _threats(results: Results) -> Iterable[str]:
    if results.threats:
        yield "### Threat models"
        yield _list(f"{name}: {text}" for name, text in results.threats.items())


def _heatmaps(results: Results) -> Iterable[str]:
    for block in heatmap.blocks(results):
        for table in block.tables:
            rows = [[f"`{row.attack}`", *map(_square, row.squares)] for row in table.rows]
            uncounted = ", which no verdict counts" if table.whole else ""
            yield f"{block.scenario}, {block.threat}, merged with `{table.merger}`{uncounted}:"
            yield markdown_table(["attack", *(f"`{d}`" for d in table.defenses)], rows)
            yield _list(wording.unlucky(table.figures))


def _by_merger(results: Results) -> Iterable[str]:
    matrices = by_merger.matrices(results)
    if matrices:
        yield "## Theft by merger"
        yield by_merger.TOLD
    for name, members in results.merger_gauntlets.items():
        told = ", ".join(f"`{member}`" for member in members)
        yield f"`{name}` merges with {told}, with the second and later ones what is still locked."
    for matrix in matrices:
        rows = [[f"`{defense}`", *(square.text for square in squares)] for defense, squares in matrix.rows.items()]
        yield f"{matrix.scenario}, {matrix.threat}:"
        yield markdown_table(["defense", *(f"`{m}`" for m in matrix.mergers)], [["*gain*", *matrix.gains], *rows])


def _whole(results: Results) -> Iterable[str]:
    if results.whole:
        yield "## Mergers that keep every expert whole"
        yield wording.WHOLE
    for title, rows in wording.whole(results):
        yield f"{title}:"
        heads = ["merger", "defense", "theft without attack", "after attacks", "by", "stored", "inference"]
        table = [
            [
                f"`{row.merger}`",
                f"`{row.defense}`",
                wording.interval(row.theft),
                wording.interval(row.attacked),
                f"`{row.attack}`" if row.attack else row.reason or "–",
                wording.times(row.stored),
                wording.times(row.inference),
            ]
            for row in rows
        ]
        yield markdown_table(heads, table)


def _square(square: heatmap.Square) -> str:
    figure, counted = square.figure, square.counted
    if figure is None or counted is None:
        return "–" if figure is None else figure.status
    text = f"{wording.interval(figure.theft)} n={figure.cells}"
    if figure.spared:
        text += f" of {figure.cells + figure.spared}"
    if counted != figure.theft:
        text += f", counted {wording.interval(counted)}"
    marks = [name for name, marked in (("worst", square.worst), ("seen", square.seen)) if marked]
    return f"**{text}, {', '.join(marks)}**" if marks else text


def _beside(results: Results) -> Iterable[str]:
    for scenario, names in wording.counted_beside(results).items():
        rows = [row for row in results.beside if row.scenario == scenario]
        yield f"## What {scenario} counts beside theft"
        yield markdown_table(
            ["of", *names],
            [[wording.beside(row), *(wording.interval(row.figures.get(name)) for name in names)] for row in rows],
        )


def _grounds(results: Results) -> str:
    rows = []
    for ground in results.grounds:
        setting = ", ".join(f"{key} {value}" for key, value in ground.settings.items()) or "–"
        rows.append(
            [
                ground.scenario,
                str(ground.seed),
                f"`{ground.merger}` ({setting})",
                wording.many(ground.experts),
                wording.many(ground.base),
                wording.many(ground.without),
                wording.many(ground.reference),
                wording.number(ground.gain),
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
    return f"{told}\n\n{markdown_table(heads, rows)}"


def _summary(results: Results) -> str:
    rows = []
    for kind, shows in wording.SHOWS.items():
        mine = [control for control in results.controls if control.control == kind]
        passed = sum(control.passed for control in mine)
        if mine:
            told = f"{passed} of {len(mine)}"
            rows.append([kind, told if passed == len(mine) else f"**{told}**", shows])
    return markdown_table(["control", "passed", "what it shows"], rows)


def _controls(controls: Sequence[Control]) -> str:
    rows = [
        [
            control.control,
            wording.about(control),
            f"`{control.defense}`" if control.defense else "–",
            wording.outcome(control) if control.passed else f"**{wording.outcome(control)}**",
            control.explanation,
        ]
        for control in controls
    ]
    return markdown_table(["control", "of", "defense", "outcome", "what was found"], rows)


def _cells(results: Results) -> str:
    rows = []
    for cell in results.cells:
        where = [
            cell.scenario,
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
        names = (("theft", 2), ("protection", 2), ("recovery", 2), ("residual", 3), ("seen", 2))
        figures = [wording.number(cell.scores.get(name), digits) for name, digits in names]
        rows.append([*where, *figures, wording.number(cell.cost.get("seconds")), wording.many(cell.tasks)])
    heads = ["scenario", "defense", "attack", "merger", "threat", "seed", "key"]
    heads += ["theft", "protection", "recovery", "residual", "seen", "CPU seconds", "n by task"]
    told = (
        "*Recovery* compares mean scores and rewards throwing the victim away; verdicts do not use it. *Residual* is "
        "‖recovered − victim‖ ÷ ‖victim − base‖ over the tensors that the defense changed. *Seen* is what the attacker "
        "chooses by: the share of the protected model's answers that came over, on inputs of the attacker's own tasks, "
        "and by how much the own tasks changed."
    )
    return f"{told}\n\n{markdown_table(heads, rows)}"


def _repeat(results: Results) -> str:
    digests = {(g.scenario, g.seed): g.digest for g in results.grounds}
    rows = [[scenario, str(seed), f"`{digest}`"] for (scenario, seed), digest in digests.items()]
    environments = [one.environment for one in results.runs] or [results.environment]
    facts = "; ".join(", ".join(f"{key} {value}" for key, value in e.items() if key != "engine") for e in environments)
    engines = ", ".join(f"`{str(e.get('engine', '–'))[:16]}`" for e in environments)
    return "\n\n".join(
        [
            f"```\n{results.command or 'redteam.run(plan)'}\n```",
            f"{facts}; engine {engines}, "
            f"thresholds `{str(results.thresholds.get('digest', '–'))[:16]}` (fixed before any attack ran).",
            markdown_table(["scenario", "seed", "weights and data, SHA-256"], rows),
        ]
    )


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
