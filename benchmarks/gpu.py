"""A GPU against the CPU in one run: how much faster, and whether the figures agree. `make bench` runs it too.

Fits of every group, float64 on both; networks in float32 and bfloat16; a run of a plan. Where there is no GPU, that is
said, and the CPU takes its place, on less: times are then about 1 and every figure has to be the same. Exit code 1 if
figures do not agree.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bench import Line, ratio

if TYPE_CHECKING:
    from redteam.evaluation.results import Results

FITS = 1e-6  # ‖Δ‖ ÷ ‖moved stacks‖, float64
NETWORKS = {"float32": 1e-4, "bfloat16": 5e-2}  # ‖Δ logits‖ ÷ ‖logits‖
THEFT = 0.02  # a few test items
SHARE = 0.05  # ‖τ‖ ÷ ‖W‖


@dataclass(frozen=True)
class Size:
    """How large what is measured is.

    Attributes:
        heads, width, columns: Of the stacks that are fitted, `[heads, width, columns]`.
        network: Entries of a ViT's config.
        images: What the network is given.
        repeats: Pairs of times.
    """

    heads: int = 144
    width: int = 64
    columns: int = 769
    network: Mapping[str, int] | None = None
    images: int = 256
    repeats: int = 5


SMALL = Size(
    heads=8,
    width=16,
    columns=33,
    network={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    images=16,
    repeats=3,
)
VIT_B = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL_PLAN: Mapping[str, Any] = {"scenarios": ["digits"], "defenses": ["permutation"], "attacks": ["hungarian"]}
PLAN: Mapping[str, Any] = {"scenarios": ["digits"], "defenses": ["mergelock", "none"], "attacks": ["gauge-fit"]}


def fits(device: str, size: Size) -> Iterator[Line]:
    """The tied fit of every group, of stacks that were locked from it."""
    import numpy as np
    import torch

    from redteam.devices import settle
    from redteam.symmetry import GROUPS, Gauge, Stacks

    draws = np.random.default_rng(0)

    def normal(scale: float = 1.0) -> torch.Tensor:
        return scale * torch.from_numpy(draws.standard_normal((size.heads, size.width, size.columns)))

    anchor = Stacks(normal(), normal())
    victim = Stacks(anchor.left + normal(SHARE), anchor.right + normal(SHARE))
    case = f"{size.heads} heads of {size.width} × {size.columns}"
    for name, group in GROUPS.items():
        made: Any = group(turned=size.width // 2) if name == "partial-planar" else group()  # type: ignore[call-arg]
        locked = victim.moved(made.sample(size.heads, size.width, draws))

        def fit(where: str, made: Any = made, locked: Stacks = locked) -> tuple[Stacks, Gauge]:
            moving, target = (Stacks(x.left.to(where), x.right.to(where)) for x in (locked, anchor))
            found = made.fit(moving, target)
            settle(where)
            return moving, found

        (here, one), (there, other) = fit("cpu"), fit(device)
        ours, theirs = here.moved(one), there.moved(other)
        apart = _apart((ours.left, ours.right), (theirs.left, theirs.right))
        yield Line(f"fit of {name}, GPU ÷ CPU: figures apart, {case}", apart, limit=FITS)
        median, low, high = ratio(partial(fit, device), partial(fit, "cpu"), size.repeats)
        yield Line(f"fit of {name}, GPU ÷ CPU: time, copies among it, {case}", median, (low, high))


def networks(device: str, size: Size) -> Iterator[Line]:
    """A forward pass of a ViT, as scoring makes it."""
    import torch

    from redteam.checkpoint import Checkpoint
    from redteam.devices import reproducible
    from redteam.tasks.task import forward

    config = {"architectures": ["ViTForImageClassification"], "model_type": "vit", **(size.network or VIT_B)}
    drawn = Checkpoint.of({}, config).fresh(0)
    side = int(config.get("image_size", 224))
    pictures = torch.randn(
        size.images, int(config.get("num_channels", 3)), side, side, generator=torch.Generator().manual_seed(0)
    )
    for dtype, limit in NETWORKS.items():
        weights = drawn.to(getattr(torch, dtype))
        inputs = {"pixel_values": pictures.to(getattr(torch, dtype))}
        held = {where: weights.cast(device=where).module() for where in ("cpu", device)}

        def logits(where: str, held: Any = held, inputs: Any = inputs) -> torch.Tensor:
            with reproducible(where):
                found: torch.Tensor = forward(held[where], inputs, lambda _, logits, __: logits)
            return found

        case = f"{weights.weights / 1e6:.3g} million weights, {size.images} images"
        yield Line(
            f"network in {dtype}, GPU ÷ CPU: logits apart, {case}",
            _apart((logits("cpu"),), (logits(device),)),
            limit=limit,
        )
        median, low, high = ratio(partial(logits, device), partial(logits, "cpu"), size.repeats)
        yield Line(f"network in {dtype}, GPU ÷ CPU: time, {case}", median, (low, high))


def runs(device: str, plan: Mapping[str, Any], workers: int = 1) -> Iterator[Line]:
    """A plan, on one worker each."""
    import time

    from redteam.evaluation.run import run

    found: list[tuple[Results, float]] = []
    run(plan, out=_folder(), workers=workers)  # trains the scenario, which is kept
    for where in ("cpu", device):
        started = time.perf_counter()
        found.append((run({**plan, "device": where}, out=_folder(), workers=workers), time.perf_counter() - started))
    (here, slow), (there, fast) = found
    cells = {(one.defense, one.attack, one.role, one.merger): one.scores.get("theft") for one in there.cells}
    mine = {(one.defense, one.attack, one.role, one.merger): one.scores.get("theft") for one in here.cells}
    thefts = [(mine[key], cells.get(key)) for key in mine]
    apart = max(abs(a - b) if a is not None and b is not None else float(a is not b) for a, b in thefts)
    name = there.environment["device"]
    yield Line(f"plan, on {name} and on the CPU: theft apart, {len(mine)} cells", apart, limit=THEFT)
    words = [{v.place: v.verdict for v in one.verdicts} for one in (here, there)]
    other = sum(words[0][place] != words[1].get(place) for place in words[0])
    yield Line(f"plan, on both: verdicts that differ, of {len(words[0])}", float(other), limit=0.0)
    yield Line("plan, GPU ÷ CPU: time, one worker each", fast / slow)


def _apart(ours: Any, theirs: Any) -> float:
    """‖Δ‖ ÷ ‖ours‖ over some tensors."""
    pairs = [(one.double(), other.to(one.device).double()) for one, other in zip(ours, theirs, strict=True)]
    far = sum(float((one - other).square().sum()) for one, other in pairs)
    return float((far / sum(float(one.square().sum()) for one, _ in pairs)) ** 0.5)


def _folder() -> str:
    return tempfile.mkdtemp(prefix="redteam-bench-")


def usable() -> tuple[str, str]:
    """The device to measure, and a sentence on it."""
    from redteam.devices import CPU, CUDA, model_of, require_device
    from redteam.errors import BadInput

    try:
        require_device(CUDA)
    except BadInput as error:
        why = str(error).partition(";")[0]
        return CPU, f"{why}, so that the CPU is measured against itself: nothing here says how fast a GPU is."
    return CUDA, f"{model_of(CUDA)} against one thread of the CPU; median [least, greatest]"


def main() -> int:
    """Prints every line as soon as it is known; 1 if figures do not agree, else 0."""
    import torch

    from redteam.devices import CPU

    device, told = usable()
    size, plan = (SMALL, SMALL_PLAN) if device == CPU else (Size(), PLAN)
    print(told, flush=True)
    torch.set_num_threads(1)
    agree = True
    for part in (fits(device, size), networks(device, size), runs(device, plan)):
        for line in part:
            print(line, flush=True)
            agree &= line.limit is None or line.figure <= line.limit
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
