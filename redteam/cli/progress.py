"""Progress of everything that takes long: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from redteam.events import reporting_to
from redteam.terminal import Lines, Loudness, loudness, mention

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from redteam.evaluation.plan import Plan
    from redteam.evaluation.results import Results, Verdict
    from redteam.search.space import Space

_REFRESHED = 4  # times a second: enough for the eye, and little work beside computations that use every core
_LOST = ("error", "timeout")


class Progress(Lines):
    """Shows on standard error what is being done.

    As a context manager it is also the observer of work that has none of its own, such as a scenario's training.

    Args:
        console: Where bars are drawn; standard error by default. There are none where that is no terminal, and none in
            a worker, whose bars would overwrite each other, nor with --quiet.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        shown = loudness()
        self._every = shown == Loudness.verbose
        drawn = shown > Loudness.quiet and (console is not None or _on_terminal())
        self._bars = _Bars(console) if drawn else None
        self._failures: Counter[str] = Counter()
        self._context = ExitStack()

    def __enter__(self) -> Progress:
        self._context.enter_context(reporting_to(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.close()
        if self._bars is not None:
            self._bars.stop()

    def started(self, plan: Plan, folder: Path) -> None:
        self._failures.clear()
        self._say(f"Plan {plan.name}: results go to {folder}")

    def preparing(self, scenario: str, seed: int) -> None:
        self._say(f"Scenario {scenario}, seed {seed}")

    def planned(self, added: int, total: int, cached: int, why: str) -> None:
        if added == total:
            self._say(f"{total} computations, {cached} of them cached")
        elif added:
            self._say(f"{added} further computations{f' ({why})' if why else ''}, {total} in all")
        if self._bars is not None:
            self._bars.show("steps", cached if added == total else None, total)

    def estimated(self, sentence: str) -> None:
        self._say(sentence)

    def settled(self, label: str, status: str, reason: str, done: int, total: int) -> None:
        # One cause often fails step after step; its sentence is worth reading once.
        first = not self._failures[reason]
        self._failures[reason] += status != "ok"
        outcome = label if status == "ok" else f"{label}: {status}, {reason if first else 'as above'}"
        if self._bars is None or self._every:
            self._say(f"[{done}/{total}] {outcome}")
        if self._bars is None:
            return
        self._bars.show("steps", done, total, label)
        if status in _LOST and first and not self._every:
            self._say(outcome)

    def decided(self, verdict: Verdict) -> None:
        from redteam.answer import sentence

        self._say(sentence(verdict))

    def finished(self, results: Results | None) -> None:
        if self._bars is not None:
            self._bars.remove("steps")

    def searching(self, space: Space, naive: float, done: int, total: int) -> None:
        names = ", ".join(option.name for option in space.options)
        self._say(f"Pipelines of up to {space.steps} of {len(space.options)} attacks: {names}")
        self._say(f"Theft without any attack: {naive:.2f}. {total} trials, {min(done, total)} of them done")
        if self._bars is not None and done < total:
            self._bars.show("trials", done, total)

    def defending(self, space: Space, line: float | None, done: int, total: int) -> None:
        names = ", ".join(option.name for option in space.options)
        self._say(f"Chains of up to {space.steps} of {len(space.options)} defenses: {names}")
        imitated = f"Theft by imitation, the weights unseen: {line:.2f}. " if line is not None else ""
        self._say(f"{imitated}{total} trials, {min(done, total)} of them done")
        if self._bars is not None and done < total:
            self._bars.show("trials", done, total)

    def tried(self, pipeline: str, outcome: str, best: str, done: int, total: int) -> None:
        leads = f"best {best}" if best else "nothing so far"
        if self._bars is None or self._every:
            self._say(f"[{done}/{total}] {pipeline}: {outcome} ({leads})")
        if self._bars is not None:
            self._bars.show("trials", done, total, leads)

    def scoring(self, pipeline: str) -> None:
        if self._bars is not None:
            self._bars.remove("trials")
        self._say(f"Scoring {pipeline} on the scoring data, with the controls that belong to it")

    def advanced(self, done: int, total: int, what: str) -> None:
        if self._every:
            self._say(f"[{done}/{total}] {what}")
        elif self._bars is None:
            super().advanced(done, total, what)
        if self._bars is None:
            return
        if done < total:
            self._bars.show("work", done, total, what)
        else:
            self._bars.remove("work")

    def _say(self, text: str) -> None:
        if self._bars is None:
            mention(text)
        else:
            self._bars.print(text)


class _Bars:
    """One line for each kind of work that is going on, which fills the width of the terminal and no more."""

    def __init__(self, console: Console | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self._progress = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=console or Console(stderr=True),
            transient=True,
            expand=True,
            refresh_per_second=_REFRESHED,
        )
        self._tasks: dict[str, TaskID] = {}

    def show(self, kind: str, done: int | None, total: int, text: str | None = None) -> None:
        """Draws a line, or changes it; what is `None` stays as it is."""
        begins = kind not in self._tasks
        if begins:
            self._tasks[kind] = self._progress.add_task("", total=total)
            self._progress.start()
        # What is new is drawn at once; between two steps there is time.
        self._progress.update(
            self._tasks[kind], total=total, completed=done, description=text, refresh=begins or done is None
        )

    def remove(self, kind: str) -> None:
        """Takes a line away, if it is there."""
        if kind in self._tasks:
            self._progress.remove_task(self._tasks.pop(kind))
        if not self._tasks:
            self._progress.stop()

    def print(self, text: str) -> None:
        """Prints a line above the bars, which stays."""
        self._progress.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """Takes all lines away."""
        for kind in tuple(self._tasks):
            self.remove(kind)


def _on_terminal() -> bool:
    return sys.stderr.isatty() and multiprocessing.parent_process() is None
