"""`redteam check NAME`: holds a plugin to the contract of its kind."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from redteam.cli import completion
from redteam.cli.printing import Json, Quiet, print_json
from redteam.terminal import mention

if TYPE_CHECKING:
    from redteam.plugins.reference import Reference

_SHORT = {"passed": "passed", "failed": "FAILED", "not applicable": "n/a", "not done": "NOT DONE"}


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            autocompletion=completion.WITH_CONTRACT,
            help="A plugin, path/to/file.py@name, or a scenario's file.toml.",
        ),
    ],
    time_limit: Annotated[
        float,
        typer.Option(
            min=1.0,
            help="Seconds of CPU time that the plugin may use; imports and waiting for a busy machine don't count.",
        ),
    ] = 60.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hold a plugin to the contract of its kind, or look whether a scenario's file is fit for a verdict.

    Attacks, defenses, mergers and scenarios have a contract, tried on small random models. Each check prints a line:
    passed, failed, not applicable or not done within the time limit, and why. Exit code 1 if a check fails, 2 if none
    does but some are not done. Of a file every model, table and figure that a verdict rests on gets a line: ok, note or
    WRONG. Exit code 1 if something is wrong, 2 if it could not be looked at.
    """
    from redteam.plugins.reference import Reference
    from redteam.plugins.registry import REGISTRIES, kinds_of

    reference = Reference.parse(name)
    for kind in kinds_of(reference.name) if not reference.file else ("scenario",):
        REGISTRIES[kind].require(reference)  # a slip in a name is said before torch is imported
    if reference.is_data or _looks_at_files(reference):
        _fit(reference, as_json=as_json)
    tell: Callable[[str], None] = _nothing if as_json else typer.echo
    tell(f"Loading {name} and what it is tried on.")
    from redteam.testing import Clock, Outcome, checks_for, plugins, prepare

    started, clock, total = time.perf_counter(), Clock(time_limit), Counter[str]()
    tried: list[dict[str, Any]] = []
    for plugin in plugins(name):
        checks = checks_for(plugin)
        prepare(plugin)
        tell(f"{plugin.spec.kind} {plugin.canonical}")
        outcomes: list[dict[str, str]] = []
        tried.append({"kind": plugin.spec.kind, "name": plugin.canonical, "checks": outcomes})
        for index, one in enumerate(checks):
            outcome = one.run(clock)
            total[outcome.status] += 1
            outcomes.append(asdict(outcome))
            tell(f"  {_SHORT[outcome.status]:<8} {outcome.check:<36} {outcome.reason}")
            if outcome.status == "not done":
                left = [later.name for later in checks[index + 1 :]]
                total["not done"] += len(left)
                outcomes += [asdict(Outcome(later, "not done", outcome.reason)) for later in left]
                if left:
                    tell(f"  {_SHORT['not done']:<8} what comes after it: {', '.join(left)}")
                break
    counts = ", ".join(f"{total[status]} {status}" for status in _SHORT)
    tell(f"{counts}; {clock.used:.1f} s of CPU time, {time.perf_counter() - started:.1f} s in all")
    if total["not done"]:
        tell("What is not done has neither passed nor failed; give it more time with --time-limit.")
    if as_json:
        print_json({"plugins": tried, "remarks": []})
    raise typer.Exit(1 if total["failed"] else 2 if total["not done"] else 0)


def _looks_at_files(reference: Reference) -> bool:
    """Whether it is an installed scenario that can say something of the models and data that it names."""
    from redteam.plugins.reference import Reference
    from redteam.plugins.registry import SCENARIOS

    return reference.name in SCENARIOS and SCENARIOS.find(Reference(reference.name)).spec.check is not None


def _nothing(_: str) -> None:
    """Prints nothing."""


def _fit(reference: Reference, *, as_json: bool) -> NoReturn:
    """Says whether a scenario of models and data is fit for a verdict, and leaves."""
    from redteam.cores import cores
    from redteam.plugins.registry import SCENARIOS

    SCENARIOS.require(reference)  # what is wrong with the file itself is said before torch is imported
    mention(f"Looking at {reference}")
    from redteam.checking import looked_at

    counts, remarks = Counter[str](), list[dict[str, str]]()
    for remark in looked_at(str(reference.absolute()), workers=cores(), tell=mention):
        counts[remark.state] += 1
        remarks.append(asdict(remark))
        if not as_json:
            typer.echo(remark.line)
    if as_json:
        print_json({"plugins": [], "remarks": remarks})
        raise typer.Exit(1 if counts["WRONG"] else 0)
    if counts["WRONG"]:
        wrong = "One thing is" if counts["WRONG"] == 1 else f"{counts['WRONG']} things are"
        typer.echo(f"{wrong} wrong; a verdict would say nothing, so mend that before the run.")
        raise typer.Exit(1)
    typer.echo(f"Nothing is wrong. Next: redteam run --scenario {shlex.quote(str(reference))}")
    raise typer.Exit(0)
