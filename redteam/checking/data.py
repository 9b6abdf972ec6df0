"""What is said of a scenario's data: how many there are, whether splits share any, and how labels are spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import torch

from redteam.plugins.remarks import Remark
from redteam.tasks import Scenario, Split, Task

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ONE_SIDED = 0.9
"""Share of the commonest label from which on a score tells little."""


def splits(scenario: Scenario) -> Iterator[Remark]:
    """Sizes, inputs that are in two splits, and the spread of labels, a task at a time."""
    for name, task in scenario.tasks.items():
        inputs = {split: task.inputs_of(split) for split in SPLITS}
        sizes = ", ".join(f"{_count(held)} {split}" for split, held in inputs.items())
        yield Remark("ok", "data", f"{name!r}: {sizes}")
        seen = {split: _rows(held) for split, held in inputs.items()}
        for other in ("train", "validation"):
            shared = sum(row in seen[other] for row in seen["test"].elements())
            if shared:
                told = f"{shared} test items of {name!r} look to the network like {other} items"
                yield Remark("WRONG", "data", f"{told}; leave them out of one split")
        yield from _labels(name, task)


def _labels(name: str, task: Task) -> Iterator[Remark]:
    labels = getattr(task, "labels", {}).get("test")
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.ndim != 1:
        return
    counts = Counter(labels.tolist())
    label, most = counts.most_common(1)[0]
    if most > ONE_SIDED * len(labels):
        yield Remark(
            "note",
            "data",
            f"{most} of {len(labels)} test items of {name!r} have the label {label}; accuracy says little there",
        )


def _count(inputs: Mapping[str, torch.Tensor]) -> int:
    return len(next(iter(inputs.values())))


def _rows(inputs: Mapping[str, torch.Tensor]) -> Counter[bytes]:
    """Each sample as bytes; padding, which depends on the split, is left out where a mask tells it."""
    mask = inputs.get("attention_mask")
    if mask is not None and "input_ids" in inputs and mask.shape == inputs["input_ids"].shape:
        tokens = inputs["input_ids"]
        return Counter(row[held != 0].numpy().tobytes() for row, held in zip(tokens, mask, strict=True))
    rows = range(_count(inputs))
    parts = [value.contiguous().numpy() for _, value in sorted(inputs.items())]
    return Counter(b"".join(part[row].tobytes() for part in parts) for row in rows)
