"""What is measured of a checkpoint: how near, how changed, how well it survives storage, and at what cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.evaluation.packing import Packed
from redteam.tasks import Scenario, Split, Task, halves
from redteam.tasks import answers as answers_of

if TYPE_CHECKING:
    from torch import nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SEEN = 100  # of each own task, the inputs on which an attacker compares a merge with the protected model
_PROBES = 22  # of each own task, the inputs on which the function is compared


def answers(scenario: Scenario, module: nn.Module) -> list[int]:
    """A network's answers on inputs of the attacker's own tasks: by these a merge is compared with the protected model.

    Args:
        scenario: Says whose inputs.
        module: Wears the victim's head.
    """
    return [int(answer) for inputs in _own_inputs(scenario, _SEEN) for answer in answers_of(module, inputs)]


def stored(task: Task, checkpoint: Checkpoint, split: Split = "test") -> dict[str, Packed]:
    """One result per sample after rounding the weights to each dtype; the network computes in float32."""
    return {
        name: Packed.of(task.scores(checkpoint.to(dtype).to(torch.float32).module(), split))
        for name, dtype in DTYPES.items()
    }


def residual(recovered: Checkpoint, victim: Checkpoint, base: Checkpoint, changed: list[str]) -> float | None:
    """‖recovered − victim‖ ÷ ‖victim − base‖ over the tensors that the defense changed.

    `None` if it changed none that the victim shares with the base, or some of them still have another shape.
    """
    far = near = 0.0
    for name in changed:
        if name in base and base.shape(name) == victim.shape(name):
            if name not in recovered or recovered.shape(name) != victim.shape(name):
                return None
            expert = victim[name].to(torch.float64)
            far += float((recovered[name].to(torch.float64) - expert).square().sum())
            near += float((expert - base[name].to(torch.float64)).square().sum())
    return (far / near) ** 0.5 if near else None


def length(expert: Checkpoint, base: Checkpoint) -> float:
    """‖expert − base‖ over the tensors that both share."""
    return float(
        sum(
            (expert[name].to(torch.float64) - base[name].to(torch.float64)).square().sum()
            for name in shared_tensors(expert, base)
        )
        ** 0.5
    )


def change(before: Checkpoint, after: Checkpoint, scenario: Scenario) -> float | None:
    """max |Δ logits| ÷ max |logits| on inputs that the attacker owns, in float64; `None` where that is no number."""
    far = high = 0.0
    with torch.inference_mode():
        old, new = (checkpoint.module(torch.float64) for checkpoint in (before, after))
        for inputs in _own_inputs(scenario, _PROBES):
            double = {k: v.to(torch.float64) if v.is_floating_point() else v for k, v in inputs.items()}
            logits = old(**double).logits
            far = max(far, float((new(**double).logits - logits).abs().nan_to_num(nan=torch.inf).max()))
            high = max(high, float(logits.abs().max()))
    found = far / high if high else np.inf
    return found if np.isfinite(found) else None


class Clock:
    """CPU seconds of this process during a block: what does not depend on who else uses the machine."""

    seconds: float = 0.0

    def __enter__(self) -> Clock:
        self._before = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._before


class Memory:
    """Peak resident memory of a block over what was resident before, in MB, where the system can tell."""

    megabytes: float | None = None

    def __enter__(self) -> Memory:
        self._before = peak(reset=True)
        return self

    def __exit__(self, *_: object) -> None:
        after = peak(reset=False)
        if self._before is not None and after is not None:
            self.megabytes = max(0.0, after - self._before)


def _own_inputs(scenario: Scenario, count: int) -> list[dict[str, torch.Tensor]]:
    """Of each own task some inputs that no attack has been given."""
    return [
        {key: value[:count] for key, value in halves(scenario.tasks[name])[1].inputs_of("validation").items()}
        for name in scenario.companions
    ]


def peak(*, reset: bool = False) -> float | None:
    """Peak resident memory of this process in MB, counted anew from here on where asked for; `None` if not told."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        return None
    return None
