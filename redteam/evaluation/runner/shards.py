"""Runs of one plan in one folder at a time, each in a process of its own, as an array of jobs starts them.

All read the same records, so all decide alike what is needed next. Each computes its own share first, then whatever
nobody has claimed. A claim only saves work: a step that is computed twice gives the same record, and the first is kept.
So a claim may be taken away from whoever seems dead, on any file system, and nothing waits for a lock.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from redteam.errors import BadInput
from redteam.evaluation.steps import Outcome
from redteam.files import write_atomically

if TYPE_CHECKING:
    from filelock import BaseFileLock

_BEAT = 5.0  # seconds between signs of life
_DEAD = 120.0  # seconds without one; network file systems show a file's time as it was up to a minute ago


class Shard:
    """One of several processes that share a folder.

    Args:
        root: The folder.
        index: Which it is, from 1 on.
        count: How many there are meant to be; fewer come to the same end.
        plan: The plan, in any text that is the same for all of them.
    """

    def __init__(self, root: Path, index: int, count: int, plan: str) -> None:
        self.root, self.index, self.count, self.plan = root, index, count, plan
        self._folder, self._claims = root / "shards", root / "shards" / "claims"
        self._name = f"{index}-of-{count}-{secrets.token_hex(4)}"
        self._left = threading.Event()
        self._lock: BaseFileLock | None = None
        self.first = False

    @staticmethod
    def parse(text: str) -> tuple[int, int]:
        """Which of how many, of a text such as `"2/3"`.

        Raises:
            BadInput: If it is no such text.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        index, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= index <= count:
            raise BadInput(f"--shard {text} cannot be used; expected I/N with I from 1 to N, as in 2/3.")
        return index, count

    def mine(self, step: str) -> bool:
        """Whether a step belongs to this one's share."""
        return int(step[:8], 16) % self.count == self.index - 1

    def take(self, step: str) -> bool:
        """Claims a step, unless another process that lives has it."""
        claim = self._claims / step
        for _ in range(2):
            try:
                with claim.open("x", encoding="utf-8") as file:
                    file.write(json.dumps({"by": self._name}))
                return True
            except FileExistsError:
                by = _read(claim).get("by", "")
                if by == self._name:
                    return True
                if self._lives(by) if by else self._age(claim) < _DEAD:
                    return False
                claim.unlink(missing_ok=True)
            except FileNotFoundError:  # whoever came last has swept
                self._claims.mkdir(parents=True, exist_ok=True)
        return False

    def give_back(self, step: str) -> None:
        """What was claimed is done, or is not going to be."""
        (self._claims / step).unlink(missing_ok=True)

    def fail(self, step: str, outcome: Outcome) -> None:
        """Lets the others know that a step failed; it is tried again once all of them have ended."""
        self._claims.mkdir(parents=True, exist_ok=True)
        failed = {"by": self._name, "failed": asdict(outcome)}
        write_atomically(self._claims / step, json.dumps(failed))

    def failed(self, step: str) -> Outcome | None:
        """How a step failed in one of the processes; `None` if it did not."""
        held = _read(self._claims / step).get("failed")
        return None if held is None else Outcome(**held)

    def leave(self) -> bool:
        """Ends this one's part; whether it was the last one."""
        self._left.set()
        (self._folder / self._name).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()
            (self._folder / f"{self._name}.lock").unlink(missing_ok=True)
            self._lock = None
        return not self._others()

    def __enter__(self) -> Shard:
        from filelock import FileLock, Timeout

        self._claims.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / f"{self._name}.lock")
        self._lock.acquire()
        about = {"host": platform.node(), "plan": self.plan}
        write_atomically(self._folder / self._name, json.dumps(about))
        try:
            with FileLock(self.root / ".lock", timeout=_BEAT):  # who runs alone has it, and looks for us once he has
                others = self._others()
        except Timeout:
            self.leave()
            raise BadInput(
                f"A run without --shard is writing to {self.root}; wait for it, or name another folder with --out."
            ) from None
        if any(_read(self._folder / other).get("plan", self.plan) != self.plan for other in others):
            self.leave()
            raise BadInput(f"Shards of another plan are writing to {self.root}; name another folder with --out.")
        self.first = not others
        if self.first:  # nobody lives who could hold a claim, and what failed is tried again
            for claim in self._claims.iterdir():  # the folder stays, which another one may just be looking for
                claim.unlink(missing_ok=True)
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def _beat(self) -> None:
        while not self._left.wait(_BEAT):
            with suppress(OSError):
                os.utime(self._folder / self._name)

    def _others(self) -> list[str]:
        return [name for name in _names(self._folder) if name != self._name and self._lives(name)]

    def _lives(self, name: str) -> bool:
        return _lives(self._folder, name, self._age(self._folder / name))

    def _age(self, path: Path) -> float:
        """Seconds since a file was touched, by the clock of the file system, whatever the clocks of machines say."""
        try:
            probe = self._folder / self._name
            now = probe if probe.exists() else self._folder
            return now.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return float("inf")


def living_shards(root: Path) -> bool:
    """Whether some process shares a folder with others that may come."""
    folder = root / "shards"
    if not folder.is_dir():
        return False
    probe = folder / f".{secrets.token_hex(4)}"
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink()
    ages = {name: now - (folder / name).stat().st_mtime for name in _names(folder)}
    return any(_lives(folder, name, age) for name, age in ages.items())


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*-of-*") if path.suffix != ".lock"]


def _lives(folder: Path, name: str, age: float) -> bool:
    from filelock import FileLock, Timeout

    if not name or age > _DEAD:
        return False
    if _read(folder / name).get("host") != platform.node():
        return True
    try:
        with FileLock(folder / f"{name}.lock", timeout=0):  # on one machine the system tells at once
            return False
    except Timeout:
        return True


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except (FileNotFoundError, ValueError):  # gone, or not written to the end
        return {}
