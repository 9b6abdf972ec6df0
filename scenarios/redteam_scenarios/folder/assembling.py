"""From a scenario's file to the scenario."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.discover import OPEN_CLIP
from redteam.checkpoint.pooling import HEAD, POOLING
from redteam.errors import BadInput
from redteam.tasks import Scenario, Task
from redteam_scenarios.folder.files import state_of
from redteam_scenarios.folder.heads import fitted, with_head, without_head
from redteam_scenarios.folder.kinds import causal, encoders, options, perplexity, pictures, text, zero_shot
from redteam_scenarios.folder.lm_eval_tasks import settled
from redteam_scenarios.folder.models import class_names, data_located, located, opened, places
from redteam_scenarios.folder.prepared import Parts, prepared
from redteam_scenarios.folder.schema import FIT, Kind, Plan, TaskEntry
from redteam_scenarios.folder.source import Source
from redteam_scenarios.folder.trained import trained, untrained
from redteam_scenarios.turns import EACH


@dataclass(frozen=True)
class _Way:
    """How a kind of task is made: the network that it takes, data read, and a task made of them."""

    network: Callable[[Source], Checkpoint]
    read: Callable[[Source], Parts]
    task: Callable[[Source, Parts], Task]


def _classifier(source: Source) -> Checkpoint:
    entry = source.entry
    return with_head(source, _labels(entry, source.data) if entry.head == FIT else entry.labels)


def _regressor(source: Source) -> Checkpoint:
    found = with_head(source, _NUMBER)
    if (outputs := len(class_names(found.config))) != 1:
        raise BadInput(
            f"The head of the expert of {source.name!r} has {outputs} outputs; expected the one of a regression, or "
            f'head = "{FIT}".'
        )
    return found


def _encoder(source: Source) -> Checkpoint:
    return without_head(source, source.expert)


def _prompted(source: Source) -> Checkpoint:
    return zero_shot.prompted_with(source, _labels(source.entry, source.data))


def _as_it_is(source: Source) -> Checkpoint:
    return source.expert


_KINDS: dict[Kind, _Way] = {
    "text-classification": _Way(_classifier, text.classification, text.classified),
    "image-classification": _Way(_classifier, pictures.classification, text.classified),
    "regression": _Way(_regressor, encoders.numbers, encoders.regressed),
    "retrieval": _Way(_encoder, encoders.queries, encoders.retrieved),
    "zero-shot": _Way(_prompted, pictures.classification, text.classified),
    "multiple-choice": _Way(_as_it_is, options.choices, options.chosen),
    "generation": _Way(_as_it_is, causal.answers, causal.generated),
    "perplexity": _Way(_as_it_is, perplexity.documents, perplexity.scored),
}
_BY_HEAD: dict[str, Kind] = {
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "CLIPModel": "zero-shot",
    "SiglipModel": "zero-shot",
    "Siglip2Model": "zero-shot",
    options.HEAD: "multiple-choice",
    "ForCausalLM": "perplexity",
    "LMHeadModel": "perplexity",
}
"""End of an architecture's name → what it is for."""
_NUMBER = ["score"]
"""What the only output of a regression is called."""
_WITH_CLASSES = ("text-classification", "image-classification", "zero-shot")

_TOOLS = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "p*processor_config.json",
)


def assemble(plan: Plan, seed: int, *, shared: bool = False) -> Scenario:
    """The scenario that a file describes.

    Args:
        plan: The file.
        seed: Which of the victims, or of what is trained.
        shared: Whether models and data are kept in this process, for the same file with another victim.

    Raises:
        BadInput: With the first thing that is missing or does not belong together.
    """
    places(plan, seed)  # says it where there is no such seed
    once = shared and not plan.runs
    base, experts, tasks = _made_once(plan.file, state_of(plan), seed) if once else _made(plan, seed)
    return Scenario(plan.name, seed, base, experts, tasks, plan.victim, summary_of(plan, base))


Made = tuple[Checkpoint, dict[str, Checkpoint], dict[str, Task]]
"""The base, and by task the experts and the tasks."""


@lru_cache(maxsize=8)
def _made_once(file: Path, state: str, seed: int) -> Made:
    """What is the same whichever task is the victim, made once in a process.

    Args:
        file: The scenario's file.
        state: Changes whenever what it names does.
        seed: Of what is trained.
    """
    return _made(Plan.read(file).under(EACH), seed)


def _made(plan: Plan, seed: int) -> Made:
    base, experts = opened(plan, seed)
    home, homes = located(plan, plan.base, plan.revision), places(plan, seed)
    tasks: dict[str, Task] = {}
    for name, given in plan.tasks.items():
        data, others = data_of(plan, given), _others(plan, given)
        entry = settled(given, data)
        if not entry.train:
            source = Source(name, entry, data, experts[name], base, (homes[name], home), others)
            experts[name], tasks[name] = _ready(source)
            continue
        labels = _labels(entry, data) if entry.kind in _WITH_CLASSES else _NUMBER
        start = untrained(name, entry, entry.kind, base, labels, seed)
        source = Source(name, entry, data, start, base, (home,), others)
        experts[name], tasks[name] = _ready(source)
        experts[name] = trained(replace(source, expert=experts[name]), tasks[name], seed)
    in_order = {name: experts[name] for name in plan.tasks}
    base = base.only(name for name in base if all(_takes(expert, name) for expert in in_order.values()))
    return base, in_order, tasks


def kind_of(entry: TaskEntry, expert: Checkpoint, name: str) -> Kind:
    """What is scored: what the file says, else what the expert's architecture is for.

    Raises:
        BadInput: If neither tells.
    """
    if entry.kind:
        return entry.kind
    architecture = str((expert.config.get("architectures") or [""])[0])
    kind = next((kind for end, kind in _BY_HEAD.items() if architecture.endswith(end)), None)
    if expert.architecture == OPEN_CLIP:
        return "zero-shot"
    if kind == "text-classification" and len(class_names(expert.config)) == 1:
        return "regression"
    if kind is None:
        raise BadInput(
            f"The expert of {name!r} is a {architecture or 'network without a named architecture'}, which says nothing "
            f'of its task; add kind = "…" to tasks.{name}: {", ".join(_KINDS)}.'
        )
    return kind


def _takes(expert: Checkpoint, name: str) -> bool:
    """Whether a tensor of the base may be the expert's: a head that was put on is its own, and it has no other."""
    return POOLING not in expert.config or (name in expert and name not in HEAD)


def summary_of(plan: Plan, base: Checkpoint) -> str:
    """A sentence for reports."""
    others = ", ".join(name for name in plan.tasks if name != plan.victim)
    fits = ", ".join(name for name, entry in plan.tasks.items() if entry.head == FIT)
    heads = f" The heads of {fits} were fitted on the frozen states of their experts." if fits else ""
    return f"{plan.base} ({base.architecture}) fine-tuned for {plan.victim} (the victim) and for {others}.{heads}"


def _ready(source: Source) -> tuple[Checkpoint, Task]:
    """The expert as the network of its task, and the task."""
    kind = kind_of(source.entry, source.expert, source.name)
    way = _KINDS[kind]
    source = replace(source, expert=way.network(source))
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
    read = [*source.data, *(path for what, path in source.others.items() if what != "head")]
    files = [*tools, *(file for place in read for file in pictures.files_of(place))]
    parts = prepared(lambda: way.read(source), made_from=settings, files=files)
    if source.entry.head == FIT and POOLING in source.expert.config:
        source = replace(source, expert=fitted(source, parts, regression=kind == "regression"))
    return source.expert, way.task(source, parts)


def _labels(entry: TaskEntry, data: tuple[Path, ...]) -> list[str]:
    """The classes: those that the file names, else those in the data, in their order."""
    return list(entry.labels) or list(
        dict.fromkeys(label for place in data for label in pictures.labels_in(place, entry))
    )


def _others(plan: Plan, entry: TaskEntry) -> dict[str, Path]:
    named = {"corpus": entry.corpus, "head": "" if entry.head == FIT else entry.head}
    return {what: data_located(plan, entry, text, what) for what, text in named.items() if text}


def data_of(plan: Plan, entry: TaskEntry) -> tuple[Path, ...]:
    """Where a task's data are.

    Raises:
        BadInput: If they are not there.
    """
    named = (entry.data, entry.validation_data, entry.test_data)
    return tuple(data_located(plan, entry, text) for text in named if text)
