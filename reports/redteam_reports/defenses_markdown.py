"""Markdown: what a search for a defense found, as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from redteam.files import write_atomically
from redteam.search.defenders.results import Defenses, Trial
from redteam_reports.tables import markdown_table

_HEADS = ("defense", "theft", "by", "fidelity", "price", "the owner pays", "verdict")


def write(found: Defenses, path: Path) -> None:
    """Writes it whole or not at all.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, "\n\n".join(part for part in _parts(found) if part) + "\n")


def _parts(found: Defenses) -> Iterator[str]:
    yield "# Defenses that no other beats"
    yield (
        f"Scenario `{found.scenario}`, seed {found.seed}, merger `{found.merger}`, threat model `{found.threat}`, "
        f"against {', '.join(f'`{name}`' for name in found.attacks)}. {len(found.trials)} trials, "
        f"on the {found.split} data."
    )
    yield "\n".join(f"- {sentence}" for sentence in found.sentences)
    yield "## The front"
    yield markdown_table(_HEADS, map(_cells, (found.naive, *found.on_front)))
    yield f"Repeat it on seeds that were not searched on: `{found.repeat}`" if found.repeat else ""
    yield "## Every other trial"
    yield markdown_table(_HEADS, (_cells(trial) for trial in found.trials if trial.number not in found.front))


def _cells(trial: Trial) -> tuple[str, ...]:
    theft = f"{trial.theft}{' or more' if trial.spared else ''}" if trial.theft is not None else "–"
    return (
        f"`{trial.pipeline}`",
        theft,
        trial.attack or "–",
        f"{trial.fidelity.mean:.3f}" if trial.fidelity is not None else "–",
        f"{trial.price.total:.2f}" if trial.price is not None else "–",
        str(trial.price) if trial.price is not None else "–",
        trial.verdict or f"{trial.status}: {trial.reason}",
    )
