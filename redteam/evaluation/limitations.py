"""What a plan leaves open, in sentences: a reader would otherwise take the absence of a figure for safety."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from redteam.evaluation.resolve import Resolved
from redteam.memory import shown
from redteam.plugins.reference import Reference
from redteam.plugins.registry import ATTACKS, MERGERS
from redteam.threat import THREAT_MODELS

_ENOUGH = 5  # seeds


def limitations(resolved: Resolved) -> Iterator[str]:
    """One sentence for each thing that a reader could believe was tried and was not."""
    yield f"Scenarios other than {_listed(resolved.pipelines('scenarios'))}: verdicts speak of these alone."
    yield f"Mergers other than {_listed(resolved.pipelines('mergers'))}{_left(resolved, 'mergers', MERGERS.names)}."
    specs = {name: ATTACKS.load(name).spec for name in ATTACKS.names}
    installed = [name for name, spec in specs.items() if spec.role == "recovery" and not spec.factors]
    absent = _left(resolved, "attacks", installed)
    yield (
        f"Attacks that are installed and not in the plan{absent}." if absent else "Attacks that nobody has written yet."
    )
    models = [name for name in THREAT_MODELS if name not in {Reference.parse(t).name for t in resolved.threats}]
    if models:
        yield f"The threat models {_listed(models)}."
    seeds = min(len(part.seeds) for part in resolved.parts)
    if seeds < _ENOUGH:
        yield f"The spread over retrained bases and experts: some of it ran on {seeds} of {_ENOUGH} seeds."
    if not any(merger.whole for merger in resolved.pipelines("mergers").values()):
        yield "Mergers that keep every expert whole (masks, routing)."
    yield "Imitation from inputs of the victim's own task."


def unfitting(skipped: Mapping[str, int], memory: str | None) -> Iterator[str]:
    """A sentence on what was skipped for want of memory.

    Args:
        skipped: What it was → bytes with which the run could compute it.
        memory: What the run was given.
    """
    if skipped:
        most = shown(max(skipped.values())).replace(" ", "")
        yield f"What does not fit into --memory {memory}: {_listed(skipped)}; with {most} the same command computes it."


def _left(resolved: Resolved, kind: str, installed: Iterable[str]) -> str:
    used = {link.spec.name for chain in resolved.pipelines(kind).values() for link in chain.links}
    left = [name for name in installed if name not in used]
    return f" (installed: {_listed(left)})" if left else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
