"""What is measured of a checkpoint: how near, how changed, how well it survives storage, and at what cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.modules import build_streamed
from redteam.checkpoint.placed import device_of
from redteam.devices import CPU, peak_memory, settle
from redteam.errors import NotACheckpoint
from redteam.evaluation.packing import Packed
from redteam.symmetry.shelved import largest, largest_difference, shelved, squared_distance
from redteam.tasks import Scenario, Split, Task, batched, halves
from redteam.tasks import answers as answers_of
from redteam.tasks.task import rows_at_once

if TYPE_CHECKING:
    from torch import nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WHOLE = 2**27  # weights up to which a network is built whole in a wider dtype than it is stored in
_SEEN = 100  # of each own task, the inputs on which an attacker compares a merge with the protected model
_TIMED = 64  # inputs of a pass that is timed
_PAIRS = 9
PROBES = 22
"""Of each own task, the inputs on which the function is compared."""


def answers(scenario: Scenario, module: nn.Module) -> list[int]:
    """A network's answers on inputs of the attacker's own tasks: by these a merge is compared with the protected model.

    Args:
        scenario: Says whose inputs.
        module: Wears the victim's head.
    """
    return [int(answer) for inputs in _own_inputs(scenario, _SEEN) for answer in answers_of(module, inputs)]


def stored(
    task: Task,
    checkpoint: Checkpoint,
    split: Split = "test",
    *,
    opened: Callable[[Checkpoint], Checkpoint] = lambda released: released,
) -> dict[str, Packed]:
    """What is held of each sample after rounding the weights to each dtype; the network computes in float32.

    Dtypes that hold the weights as they are have their results in common.

    Args:
        task: Says what is held.
        checkpoint: As it is released.
        split: Whose samples.
        opened: What runs of the released weights, where they do not run alone.
    """
    found: dict[torch.dtype | None, Packed] = {}
    for dtype in DTYPES.values():
        if (to := _loses(checkpoint, dtype)) not in found:
            with computing(opened(_rounded(checkpoint, dtype)), torch.float32) as network:
                found[to] = Packed.of(task.held(network, split))
    return {name: found[_loses(checkpoint, dtype)] for name, dtype in DTYPES.items()}


def _loses(checkpoint: Checkpoint, dtype: torch.dtype) -> torch.dtype | None:
    """The dtype, where rounding to it can change a weight."""
    held = _floating(checkpoint)
    return None if all(torch.promote_types(one, dtype) == dtype for one in held) else dtype


def _floating(checkpoint: Checkpoint) -> set[torch.dtype]:
    """The floating-point dtypes of its tensors."""
    return {found for name in checkpoint if (found := checkpoint.dtype(name)).is_floating_point}


def _rounded(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """Every floating-point tensor rounded to a dtype, and held in float32; lazy."""
    outline = {
        name: (shape, torch.float32 if held.is_floating_point else held)
        for name, (shape, held) in checkpoint.outline().items()
    }

    def read(name: str) -> torch.Tensor:
        tensor = checkpoint[name]
        return tensor.to(dtype).to(torch.float32) if tensor.is_floating_point() else tensor

    return Checkpoint.computed(outline, read, checkpoint.config)


def residual(recovered: Checkpoint, victim: Checkpoint, base: Checkpoint, changed: list[str]) -> float | None:
    """‖recovered − victim‖ ÷ ‖victim − base‖ over the tensors that the defense changed.

    `None` if it changed none that the victim shares with the base, or some of them still have another shape.
    """
    far = near = 0.0
    for name in changed:
        if name in base and base.shape(name) == victim.shape(name):
            if name not in recovered or recovered.shape(name) != victim.shape(name):
                return None
            expert = victim[name]
            far += squared_distance(recovered[name], expert)
            near += squared_distance(expert, base[name])
    return (far / near) ** 0.5 if near else None


def length(expert: Checkpoint, base: Checkpoint) -> float:
    """‖expert − base‖ over the tensors that both share."""
    return float(sum(squared_distance(expert[name], base[name]) for name in shared_tensors(expert, base)) ** 0.5)


def change(before: Checkpoint, after: Checkpoint, scenario: Scenario) -> float | None:
    """max |Δ logits| ÷ max |logits| on inputs that the attacker owns, in float64; `None` where that is no number."""
    far = high = 0.0
    held = [shelved(logits) for logits in _exactly(before, scenario)]
    for old, new in zip(held, _exactly(after, scenario), strict=True):
        apart = largest_difference(new, old)
        far = max(far, np.inf if np.isnan(apart) else apart)
        high = max(high, largest(old))
    found = far / high if high else np.inf
    return found if np.isfinite(found) else None


def _exactly(checkpoint: Checkpoint, scenario: Scenario) -> Iterator[torch.Tensor]:
    """A network's logits in float64 on inputs that the attacker owns, some at a time."""
    with computing(checkpoint, torch.float64) as network:
        for inputs in _own_inputs(scenario, PROBES):
            double = {k: v.to(torch.float64) if v.is_floating_point() else v for k, v in inputs.items()}
            for part in batched(double, rows_at_once(network, double)):
                with torch.inference_mode():
                    logits: torch.Tensor = network(**part).logits
                yield logits.cpu()


@contextmanager
def computing(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[Any]:
    """A network in a dtype; a large one holds the weights of the block that runs alone, where it can be built so.

    On a GPU it is built whole.
    """
    streamed = None
    if checkpoint.weights > _WHOLE and _on_the_cpu(checkpoint):
        with suppress(NotACheckpoint):
            streamed = build_streamed(checkpoint, dtype)
    if streamed is None:
        yield checkpoint.module(None if _floating(checkpoint) == {dtype} else dtype)
        return
    with streamed.sliced():
        yield streamed.network


def _on_the_cpu(checkpoint: Checkpoint) -> bool:
    """Where its smallest tensor is, which is read for that."""
    smallest = min(checkpoint, key=lambda name: math.prod(checkpoint.shape(name)))
    return checkpoint[smallest].device.type == CPU


def slower(network: nn.Module, plain: nn.Module, inputs: Mapping[str, torch.Tensor]) -> float:
    """Time of a forward pass over that of another network on the same inputs, the median of a few pairs.

    It is CPU time on the CPU; on a GPU, which computes while the CPU waits or goes on, the time until that is done.
    """
    few = next(batched(inputs, min(_TIMED, rows_at_once(plain, inputs))))
    device = str(device_of(plain))

    def seconds(module: nn.Module) -> float:
        with Clock(device) as clock, torch.inference_mode():
            module(**few)
        return clock.seconds

    ratios = [seconds(network) / seconds(plain) for _ in range(_PAIRS + 1)]
    return float(np.median(ratios[1:]))  # the first pays for what is done once


class Clock:
    """Seconds of a block: of this process's CPU time, on which who else uses the machine has no bearing.

    Of a block on a GPU it is the time until the GPU is done.
    """

    seconds: float = 0.0

    def __init__(self, device: str = CPU) -> None:
        self._device, self._now = device, time.process_time if device == CPU else time.perf_counter

    def __enter__(self) -> Clock:
        settle(self._device)
        self._before = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        settle(self._device)
        self.seconds = self._now() - self._before


class Memory:
    """Peak memory of a block over what was held before, in MB, where the system can tell: resident, or on a GPU."""

    megabytes: float | None = None

    def __init__(self, device: str = CPU) -> None:
        self._device = device

    def __enter__(self) -> Memory:
        self._before = peak(self._device, reset=True)
        return self

    def __exit__(self, *_: object) -> None:
        after = peak(self._device, reset=False)
        if self._before is not None and after is not None:
            self.megabytes = max(0.0, after - self._before)


def _own_inputs(scenario: Scenario, count: int) -> list[dict[str, torch.Tensor]]:
    """Of each own task some inputs that no attack has been given."""
    return [
        {key: value[:count] for key, value in halves(scenario.tasks[name])[1].inputs_of("validation").items()}
        for name in scenario.companions
    ]


def peak(device: str = CPU, *, reset: bool = False) -> float | None:
    """Peak memory of this process in MB, resident or on a GPU, counted anew from here on where asked for.

    `None` if the system does not tell.
    """
    if device != CPU:
        return peak_memory(device, reset=reset) / 2**20
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        return None
    return None
