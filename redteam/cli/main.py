"""The command `redteam`: one small file per subcommand, each imported only when it is invoked.

Exit codes: 0 fine, 1 a gate failed, 2 could not be evaluated, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from redteam.errors import RedteamError, UnknownName
from redteam.memory import is_shortage

COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("redteam.cli.run:run", "Pair defenses with attacks in scenarios and say which protections hold."),
    "protect": ("redteam.cli.protect:protect", "Put a defense on a checkpoint and write what may be published."),
    "attack": ("redteam.cli.attack:attack", "Try to take a lock off a checkpoint, from weights alone."),
    "merge": ("redteam.cli.merge:merge", "Merge checkpoints as a free-rider would, a tensor at a time."),
    "extract-lora": (
        "redteam.cli.extract_lora:extract_lora",
        "Turn a fine-tuned model into a low-rank adapter of its base.",
    ),
    "report": ("redteam.cli.report:report", "Write reports on a finished run: HTML, Markdown, JUnit, CSV, JSON."),
    "diff": ("redteam.cli.diff:diff", "Say what differs between two runs, or between two models."),
    "verify": ("redteam.cli.verify:verify", "Say whether the results of a run follow from what they rest on."),
    "submit": ("redteam.cli.submit:submit", "Pack a finished run into one archive, for a leaderboard or a colleague."),
    "search": ("redteam.cli.search:search", "Look for the strongest attacker of a defense within a budget."),
    "audit": ("redteam.cli.audit:audit", "Say which lock is on a model, at which sites, and how much of it comes off."),
    "doctor": (
        "redteam.cli.doctor:doctor",
        "Say why a merge of models will fail, or what is wrong with this installation.",
    ),
    "describe": ("redteam.cli.describe:describe", "Find out where a new model type has its heads, neurons and norms."),
    "cache": ("redteam.cli.cache:cache", "Say what scenarios keep on this machine, and remove what is not needed."),
    "list": ("redteam.cli.list_:list_", "List the plugins and plans that are installed."),
    "show": ("redteam.cli.show:show", "Show one plugin, plan or scenario: what it does and needs, or what is in it."),
    "check": ("redteam.cli.check:check", "Hold a plugin to its contract, or say whether a scenario's file is fit."),
    "new": ("redteam.cli.new:new", "Write a plugin and its test to start from, or a scenario's file for your models."),
}
"""Subcommand → function and the line that `redteam --help` prints, in the order shown there."""
_INTERRUPTED = {
    **dict.fromkeys(("run", "search"), "Interrupted; the same command again goes on where it stopped."),
    **dict.fromkeys(("protect", "attack", "merge", "extract-lora"), "Interrupted; nothing was written."),
}


class _Lazy(TyperCommand):
    """Stands in the help for a subcommand whose module is imported when it runs."""

    def __init__(self, name: str, target: str, line: str) -> None:
        super().__init__(name, help=line, short_help=line)
        self.target = target

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        module, _, attribute = self.target.partition(":")
        app = _typer(add_completion=False)
        app.command(self.name)(getattr(importlib.import_module(module), attribute))
        return typer.main.get_command(app).make_context(info_name, args, parent, **extra)


class _Group(TyperGroup):
    """Finds subcommands in `COMMANDS` and turns what they raise into one sentence and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _Lazy(cmd_name, *COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise UnknownName.among("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _stoppable():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo(_INTERRUPTED.get(ctx.invoked_subcommand, "Interrupted."), err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if _of_the_shell(error):
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                typer.echo(_sentence(error), err=True)
            raise typer.Exit(2) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: What follows the program's name; by default what the process was given.

    Raises:
        SystemExit: Always, with the exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = words[: words.index("--")] if "--" in words else words
    if "--debug" in options:
        # Accepted after the subcommand as well, where one notices that it is missing.
        words.remove("--debug")
        words.insert(0, "--debug")
    app = _typer(cls=_Group, no_args_is_help=True)
    app.callback()(_root)
    typer.main.get_command(app)(words, prog_name="redteam")


@contextmanager
def _stoppable() -> Iterator[None]:
    """While it is active, SIGTERM and SIGHUP end a command as Ctrl-C does, so that nothing half-written is left."""
    from redteam.files import STOPS

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    mine = [number for number in STOPS if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"redteam {version('merge-redteam')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks instead of one sentence.")] = False,
) -> None:
    """Says whether a protection against model merging really holds."""


def _typer(**options: Any) -> typer.Typer:
    return typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, **options)


def _of_the_shell(error: Exception) -> bool:
    """Whether typer itself knows what to do with it: usage errors, exits, a closed pipe."""
    shell = type(error).__module__.partition(".")[0] in ("typer", "click")
    return shell or (isinstance(error, OSError) and error.errno == errno.EPIPE)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, RedteamError):
        return f"Error: {text}"
    if is_shortage(error):
        return "Error: there is not enough memory for this; free some, or run it on a larger machine."
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or "the output of this command"
        return f"Error: {where} cannot be read or written ({error.strerror}); name another place."
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"Internal error ({told.rstrip('.')}); run the command again with --debug and report what it prints."
