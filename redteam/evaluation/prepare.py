"""Scenarios made ready before anything is paired in them: several at a time, since each may have to be trained."""

from __future__ import annotations

from collections.abc import Callable

from redteam.errors import PluginFault, RedteamError
from redteam.evaluation.loaded import Loaded
from redteam.evaluation.pool import Pool
from redteam.evaluation.stages import load_scenario
from redteam.plugins.reference import Reference

Where = tuple[str, int]


def prepare(loaded: Loaded, *, workers: int, tell: Callable[[str, int], None]) -> dict[Where, str]:
    """Loads every scenario under every seed, which trains what isn't there yet.

    Args:
        loaded: The plan.
        workers: Processes for several of them; a single one is prepared in this process.
        tell: Told of each before it starts.

    Returns:
        (scenario, seed) → digest of its weights and data.

    Raises:
        RedteamError: With a scenario's own sentence, or one about how it failed.
    """
    references = {
        where: str(Reference(chain.how[0][0], {**chain.how[0][1], "seed": where[1]}))
        for where, chain in loaded.places.items()
    }
    if workers < 2 or len(references) < 2:
        found = {}
        for where, reference in references.items():
            tell(*where)
            found[where] = _accepted(where, digest(reference))
        return found
    by_job = {f"{name} seed {seed}": (name, seed) for name, seed in references}
    found = dict.fromkeys(references, "")
    with Pool(workers) as pool:
        for job, where in by_job.items():
            tell(*where)
            pool.start(job, digest, references[where], seconds=float("inf"))
        while pool.jobs:
            for ended in pool.wait():
                where = by_job[ended.job]
                died = ("", f"its process died (exit code {ended.exit_code})")
                found[where] = _accepted(where, ended.value if ended.how == "done" else died)
    return found


def digest(reference: str) -> tuple[str, str]:
    """The digest of a scenario, and an empty sentence; or nothing, and what went wrong."""
    try:
        return load_scenario(reference).digest(), ""
    except RedteamError as error:
        return "", str(error)
    except Exception as error:
        return "", f"{type(error).__name__}: {' '.join(str(error).split())}"


def _accepted(where: Where, answer: tuple[str, str]) -> str:
    found, wrong = answer
    if wrong:
        raise PluginFault(f"The scenario {where[0]} failed under seed {where[1]} ({wrong.rstrip('.')}).")
    return found
