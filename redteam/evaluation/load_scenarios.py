"""Scenarios made ready before anything is paired in them: several at a time, since each may have to be trained."""

from __future__ import annotations

from collections.abc import Callable

import torch

from redteam.errors import PluginFault, RedteamError
from redteam.evaluation.computations import load_scenario, scenario_reference
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.runner.pool import Pool
from redteam.tasks import Scenario

Where = tuple[str, int]


def load_scenarios(
    resolved: Resolved, *, pool: Pool | None, tell: Callable[[str, int], None] = lambda *_: None
) -> dict[Where, str]:
    """Loads every scenario under every seed, which trains what isn't there yet.

    Args:
        resolved: The plan.
        pool: Processes that load them; without one this process does.
        tell: Told of each before it starts.

    Returns:
        (scenario, seed) → digest of its weights and data.

    Raises:
        RedteamError: With a scenario's own sentence, or one about how it failed.
    """
    references = {where: scenario_reference(pipeline.how[0], where[1]) for where, pipeline in resolved.places.items()}
    found = dict.fromkeys(references, "")
    if pool is None:
        for where, reference in references.items():
            tell(*where)
            found[where] = _accepted(where, digest(reference))
        return found
    by_job = {f"{name} seed {seed}": (name, seed) for name, seed in references}
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
    """The digest of a scenario that was tried on one batch, and an empty sentence; or nothing, and what went wrong."""
    try:
        scenario = load_scenario(reference)
        try_out(scenario)
        return scenario.digest(), ""
    except RedteamError as error:
        return "", str(error)
    except Exception as error:
        return "", f"{type(error).__name__}: {' '.join(str(error).split())}"


def try_out(scenario: Scenario) -> None:
    """Runs one batch through every network, so that what can't work is said before anything is planned.

    Raises:
        PluginFault: With the clause of the contract that is not kept.
    """
    for name, task in scenario.tasks.items():
        if name not in scenario.experts:
            raise PluginFault(f"There is no expert for the task {name!r}; a scenario has one for each of its tasks")
        inputs = {key: value[:2] for key, value in task.inputs_of("validation").items()}
        for what, checkpoint in (("expert", scenario.experts[name]), ("base", scenario.dressed(scenario.base, name))):
            with torch.inference_mode():
                output = checkpoint.module()(**inputs)
            logits = getattr(output, "logits", None)
            if (
                not isinstance(logits, torch.Tensor)
                or logits.ndim < 2
                or len(logits) != len(next(iter(inputs.values())))
            ):
                found = "none" if logits is None else f"one of shape {list(getattr(logits, 'shape', ()))}"
                raise PluginFault(
                    f"The network of the {what} for the task {name!r} gives a {type(output).__name__}; expected an "
                    f"output with a tensor .logits [samples, classes], found {found}"
                )


def _accepted(where: Where, answer: tuple[str, str]) -> str:
    found, wrong = answer
    if wrong:
        raise PluginFault(f"The scenario {where[0]} failed under seed {where[1]} ({wrong.rstrip('.')}).")
    return found
