"""Another process, in which plugins are imported by name as workers import them; started once, ended with this one."""

from __future__ import annotations

import atexit
import math
import os
import pickle
import queue
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from redteam.plugins.reference import Reference
from redteam.plugins.registry import LoadedPlugin
from redteam.testing.clock import Clock, OutOfTime, current


@dataclass(frozen=True)
class There:
    """What came of the plugin's ordinary call in the other process.

    Attributes:
        digest: The bits that it returned.
        error: What went wrong instead, in words.
        seconds: CPU seconds that it took, imports left out.
        late: Whether it was stopped because they were too many.
    """

    digest: str = ""
    error: str = ""
    seconds: float = 0.0
    late: bool = False


def start() -> None:
    """Starts the process, so that it is ready when it is asked."""
    global _process
    if _process is None or _process.poll() is not None:
        _process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as m; m.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(_stop, _process)


def digest(plugin: LoadedPlugin[Any]) -> There:
    """Makes the plugin's ordinary call there, after loading it by name with the same settings.

    Raises:
        OutOfTime: If the clock that is running here has too little left for it.
    """
    clock = current()
    start()
    assert _process is not None
    assert _process.stdin is not None
    assert _process.stdout is not None
    name = f"{plugin.origin}@{plugin.spec.name}" if plugin.reference.file else plugin.name
    try:
        limit = clock.left if clock is not None else None
        pickle.dump((sys.path, plugin.spec.kind, name, dict(plugin.settings), limit), _process.stdin)
        _process.stdin.flush()
        answer: There = pickle.load(_process.stdout)
    except (OSError, EOFError):
        return There(error=f"it ended the process (exit code {_process.wait()})")
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        return There(error=f"its settings cannot be sent ({error}); they must be plain values")
    except OutOfTime:
        _stop(_process)  # its answer would be taken for that to the next question
        raise
    if clock is not None:
        clock.used += answer.seconds
    if answer.late:
        raise OutOfTime
    return answer


def serve() -> None:
    """Answers until the other side is gone, also if that happens during a call."""
    import torch

    from redteam.plugins.registry import REGISTRIES
    from redteam.testing.suite import subject_of
    from redteam.testing.trial import told

    torch.set_num_threads(1)
    private = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a plugin prints is no answer
    requests: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        path, kind, name, settings, limit = requests.get()
        sys.path[:] = path
        clock = Clock(limit if limit is not None else math.inf)
        try:
            subject = subject_of(REGISTRIES[kind].load(Reference(name, settings)))
            subject.prepare()
            with clock.running() if limit is not None else nullcontext():
                trial = subject.main
            answer = (
                There(trial.digest, seconds=clock.used)
                if trial.error is None
                else There(error=f"it raised {told(trial.error)}", seconds=clock.used)
            )
        except OutOfTime:
            answer = There(late=True, seconds=clock.used)
        except Exception as error:
            answer = There(error=told(error))
        pickle.dump(answer, private)
        private.flush()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _read(requests: queue.Queue[Any]) -> None:
    while True:
        try:
            requests.put(pickle.load(sys.stdin.buffer))
        except (EOFError, OSError):
            os._exit(0)


_process: subprocess.Popen[bytes] | None = None
