"""From a scenario's file to the scenario."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.tasks import Scenario, Task
from redteam_scenarios.folder.kinds import perplexity, pictures, text
from redteam_scenarios.folder.models import located, opened, places
from redteam_scenarios.folder.prepared import Parts, prepared
from redteam_scenarios.folder.schema import Kind, Plan, TaskEntry
from redteam_scenarios.folder.source import Source
from redteam_scenarios.folder.trained import trained, untrained


@dataclass(frozen=True)
class _Way:
    """How a kind of task is made: data read, and a task made of them."""

    read: Callable[[Source], Parts]
    task: Callable[[Source, Parts], Task]


_KINDS: dict[Kind, _Way] = {
    "text-classification": _Way(text.classification, text.classified),
    "image-classification": _Way(pictures.classification, text.classified),
    "perplexity": _Way(perplexity.documents, perplexity.scored),
}
_BY_HEAD: dict[str, Kind] = {
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "ForCausalLM": "perplexity",
    "LMHeadModel": "perplexity",
}
"""End of an architecture's name → what it is for."""

_TOOLS = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "p*processor_config.json",
)


def assemble(plan: Plan, seed: int) -> Scenario:
    """The scenario that a file describes.

    Raises:
        BadInput: With the first thing that is missing or does not belong together.
    """
    base, experts = opened(plan, seed)
    home, homes = located(plan, plan.base, plan.revision), places(plan, seed)
    tasks: dict[str, Task] = {}
    for name, entry in plan.tasks.items():
        data = _data(plan, entry)
        if not entry.train:
            tasks[name] = _task(Source(name, entry, data, experts[name], base, (homes[name], home)))
            continue
        start = untrained(name, entry, entry.kind, base, _labels(entry, data), seed)
        source = Source(name, entry, data, start, base, (home,))
        tasks[name] = _task(source)
        experts[name] = trained(source, tasks[name], seed)
    in_order = {name: experts[name] for name in plan.tasks}
    return Scenario(plan.name, seed, base, in_order, tasks, plan.victim, summary_of(plan, base))


def kind_of(entry: TaskEntry, expert: Checkpoint, name: str) -> Kind:
    """What is scored: what the file says, else what the expert's architecture is for.

    Raises:
        BadInput: If neither tells.
    """
    if entry.kind:
        return entry.kind
    architecture = str((expert.config.get("architectures") or [""])[0])
    kind = next((kind for end, kind in _BY_HEAD.items() if architecture.endswith(end)), None)
    if kind is None:
        raise BadInput(
            f"The expert of {name!r} is a {architecture or 'network without a named architecture'}, which says nothing "
            f'of its task; add kind = "…" to tasks.{name}: {", ".join(_KINDS)}.'
        )
    return kind


def summary_of(plan: Plan, base: Checkpoint) -> str:
    """A sentence for reports."""
    others = ", ".join(name for name in plan.tasks if name != plan.victim)
    return f"{plan.base} ({base.architecture}) fine-tuned for {plan.victim} (the victim) and for {others}."


def _task(source: Source) -> Task:
    kind = kind_of(source.entry, source.expert, source.name)
    way = _KINDS[kind]
    settings = {
        "kind": kind,
        "entry": source.entry.model_dump(exclude={"model", "revision"}),
        "config": dict(source.expert.config),
        "base": source.base.digest() if kind == "perplexity" else "",
    }
    tools = [
        path
        for home in source.homes
        for pattern in _TOOLS
        for path in sorted((home if home.is_dir() else home.parent).glob(pattern))
    ]
    files = [*tools, *(file for place in source.data for file in pictures.files_of(place))]
    return way.task(source, prepared(lambda: way.read(source), made_from=settings, files=files))


def _labels(entry: TaskEntry, data: tuple[Path, ...]) -> list[str]:
    """The classes of a head that is still to be trained: those that the file names, else those in the data, sorted."""
    if entry.labels or entry.kind not in ("text-classification", "image-classification"):
        return list(entry.labels)
    return sorted({label for place in data for label in pictures.labels_in(place, entry)})


def _data(plan: Plan, entry: TaskEntry) -> tuple[Path, ...]:
    found = tuple(plan.path(text) for text in (entry.data, entry.validation_data, entry.test_data) if text)
    for path in found:
        if not path.exists():
            raise BadInput(f"There is no {path}; {plan.file} names it as data.")
    return found
