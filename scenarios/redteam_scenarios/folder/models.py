"""The models that a scenario names, opened under names that agree, and what they bring along to read data with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from redteam.anatomy.alike import named_alike, require_related
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.configs import disagreements
from redteam.checkpoint.discover import OPEN_CLIP
from redteam.checkpoint.parts import in_place, part_names, settings_of
from redteam.errors import BadInput
from redteam_scenarios.folder.schema import LM_EVAL, Plan, TaskEntry
from redteam_scenarios.folder.tables import ENDINGS


def located(plan: Plan, name: str, revision: str | None) -> Path:
    """Where a model is on the disk: a path that the file names, else a model of the hub, fetched into its cache.

    Raises:
        BadInput: If there is neither.
    """
    path = plan.path(name)
    if path.exists():
        return path
    if name.count("/") == 1 and name[0] not in "./~" and not path.parent.exists():
        from redteam.hub import fetched

        return fetched(name, revision)
    raise BadInput(f"There is no {path}; {plan.file} names it as a model.")


def data_located(plan: Plan, entry: TaskEntry, name: str, what: str = "data") -> Path:
    """Where data are on the disk: a path that the file names, else what is fetched by a name.

    That is a dataset of the hub, in its cache, or what lm-evaluation-harness has for a task.

    Args:
        plan: The scenario's file.
        entry: The task.
        name: As it stands there.
        what: What it is; heads are never fetched.

    Raises:
        BadInput: If there is neither.
    """
    path = plan.path(name)
    if path.exists():
        return path
    if name.startswith(LM_EVAL) and what == "data":
        from redteam_scenarios.folder.lm_eval_tasks import written

        return written(name)
    called, _, part = name.partition(":")
    known = path.suffix.lower() in ENDINGS or path.parent.exists()
    if what != "head" and name[0] not in "./~" and not known:
        from redteam.hub import fetched_dataset, is_hub_name

        if is_hub_name(called):
            return fetched_dataset(called, entry.data_revision, part)
    raise BadInput(f"There is no {path}; {plan.file} names it as {what}.")


def opened(plan: Plan, seed: int) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """The base, and the expert of each task but for those that are to be trained, in the base's dtype.

    Args:
        plan: The scenario's file.
        seed: Which of the victims.

    Raises:
        BadInput: If there are fewer victims, something cannot be opened, or two do not belong together.
    """
    base = Checkpoint.open(located(plan, plan.base, plan.revision))
    found = {task: opened_at(place, base, f"The expert of {task!r}") for task, place in places(plan, seed).items()}
    anchor, *experts = named_alike(base, *found.values())
    alike = dict(zip(found, experts, strict=True))
    for task, expert in alike.items():
        require_related(expert, anchor, f"The expert of {task!r}")
    return anchor, {task: expert.stored_as(anchor) for task, expert in alike.items()}


def opened_at(place: Path, base: Checkpoint, what: str) -> Checkpoint:
    """An expert: a model of its own, an adapter merged into the base, or a tower in the base that it is a part of.

    Args:
        place: Its folder or file.
        base: The base.
        what: What it is called in errors.

    Raises:
        BadInput: If it cannot be opened, or is a part that computes something else than the base's would.
    """
    found = Checkpoint.open(place, base=base)
    if not part_names(found, base):
        return found
    if different := disagreements(found.config, settings_of(base.config, found.architecture)):
        told = "; ".join(f"{key} is {mine!r}, the base's {theirs!r}" for key, (mine, theirs) in different.items())
        raise BadInput(
            f"{what} is a part of the base and computes something else with its weights ({told}); name one with the "
            "same settings, or correct its config.json."
        )
    return base.replace(in_place(found, base))


def places(plan: Plan, seed: int) -> dict[str, Path]:
    """Where each task's expert is, but for those that are to be trained.

    Raises:
        BadInput: If there are fewer victims than that, or one of them is not there.
    """
    names = {task: (entry.model, entry.revision) for task, entry in plan.tasks.items() if not entry.train}
    if not plan.turns and not plan.tasks[plan.victim].train and seed >= len(plan.experts):
        many = f"{len(plan.experts)} victims" if len(plan.experts) > 1 else "one victim"
        raise BadInput(
            f"{plan.file} names {many}, so that there is no seed {seed}; fine-tune further ones by the same recipe and "
            f'list them as victims = ["run1", "run2"] beside victim = "{plan.victim}", or ask for fewer seeds.'
        )
    if plan.runs:
        names[plan.victim] = (plan.runs[seed], plan.tasks[plan.victim].revision)
    return {task: located(plan, name, revision) for task, (name, revision) in names.items()}


def beside(*models: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of the first model that has one of these files."""
    folders = [model if model.is_dir() else model.parent for model in models]
    return next((folder for folder in folders if any((folder / name).is_file() for name in names)), None)


def tokenizer_of(*models: Path) -> Any:
    """The tokenizer of the first model that brings one; no code that came along is run.

    Raises:
        BadInput: If none does, or it cannot be read.
    """
    folder = beside(*models, names=("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model"))
    if folder is None:
        raise BadInput(f"Neither {' nor '.join(map(str, models))} has a tokenizer; copy its files there.")
    from transformers import AutoTokenizer

    return _loaded(AutoTokenizer, folder, "tokenizer")


def image_processor_of(*models: Path) -> Any:
    """What makes pixels of pictures, of the first model that brings it; no code that came along is run.

    Raises:
        BadInput: If none does, or it cannot be read.
    """
    folder = beside(*models, names=("preprocessor_config.json", "processor_config.json"))
    if folder is None:
        raise BadInput(
            f"Neither {' nor '.join(map(str, models))} has a preprocessor_config.json, which says how pictures are "
            "read; copy it there."
        )
    from transformers import AutoImageProcessor

    return _loaded(AutoImageProcessor, folder, "image processor")


def pixels_by(expert: Checkpoint, *models: Path) -> Callable[[Sequence[Any]], torch.Tensor]:
    """What makes pixels `[n, channels, height, width]` of pictures, as an expert was trained on them.

    Raises:
        BadInput: If no model brings it, or it cannot be read.
    """
    if expert.architecture == OPEN_CLIP:
        from redteam_scenarios.folder.of_open_clip import transform_of

        transform = transform_of(expert)
        return lambda images: torch.stack([transform(image) for image in images])
    processor = image_processor_of(*models)
    return lambda images: processor(images=list(images), return_tensors="pt")["pixel_values"]


def _loaded(cls: Any, folder: Path, what: str) -> Any:
    from redteam.checkpoint.libraries import quiet_transformers

    try:
        with quiet_transformers():
            return cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise BadInput(f"The {what} in {folder} cannot be read ({' '.join(str(error).split())[:200]}).") from None


def class_names(config: Mapping[str, Any]) -> list[str]:
    """What a head calls its outputs, in their order."""
    named = config.get("id2label") or {}
    return [str(named[key]) for key in sorted(named, key=int)]
