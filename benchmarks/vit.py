"""The whole gauge fit of a ViT-B/32 against the published procedure, transcribed: `make bench` runs it too.

The published one (AGA and PGA, arXiv 2606.30360, and its release) solves query, key, value and output of every head
alone by least squares, and matches the neurons of every layer by the cosines of their weights with the Hungarian
method. Both get weights that MergeLock and a permutation of the neurons were put on, and write all of them anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from bench import Line, ratio

LAYERS, WIDTH, HEADS, NEURONS = 12, 768, 12, 3072
ROLES = ("query", "key", "value", "output")
_ATTENTION = "vit.encoder.layer.{}.attention."
NAMES = {role: f"{_ATTENTION}attention.{role}" for role in ROLES[:3]} | {"output": f"{_ATTENTION}output.dense"}
UP, DOWN = "vit.encoder.layer.{}.intermediate.dense", "vit.encoder.layer.{}.output.dense"
CONFIG = {
    "model_type": "vit",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": NEURONS,
    "hidden_act": "gelu",
}


def lines() -> Iterator[Line]:
    """Time of both, and how close they come."""
    import numpy as np
    import torch

    from redteam import DefenderView, Key
    from redteam.checkpoint import Checkpoint
    from redteam.symmetry import GeneralLinear, Permutation
    from redteam.symmetry.fit_all import fit_all

    torch.set_num_threads(1)
    draws = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draws.standard_normal(shape)).float()

    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        maps = dict.fromkeys(NAMES.values(), (WIDTH, WIDTH)) | {UP: (NEURONS, WIDTH), DOWN: (WIDTH, NEURONS)}
        for stem, shape in maps.items():
            shapes |= {f"{stem.format(layer)}.weight": shape, f"{stem.format(layer)}.bias": shape[:1]}
        for place in ("before", "after"):
            stem = f"vit.encoder.layer.{layer}.layernorm_{place}"
            shapes |= {f"{stem}.weight": (WIDTH,), f"{stem}.bias": (WIDTH,)}
    base = Checkpoint.of(
        {
            n: (1 + 0.1 * normal(*s) if "norm" in n and n.endswith("weight") else 0.03 * normal(*s))
            for n, s in shapes.items()
        },
        CONFIG,
    )
    victim = Checkpoint.of(
        {n: t + (0 if "norm" in n else 0.05 * t.std() * normal(*t.shape)) for n, t in base.items()}, CONFIG
    )
    view = DefenderView(victim, base, Key(bytes(32)))
    locked = view.lock(("mlp",), Permutation(), checkpoint=view.lock(("qk", "vo"), GeneralLinear()))
    locked = Checkpoint.of(dict(locked), CONFIG)

    def ours() -> dict[str, torch.Tensor]:
        return dict(fit_all(locked, base, ("qk", "vo", "mlp")))

    def published() -> dict[str, torch.Tensor]:
        return dict(locked) | _published(locked, base)

    median, low, high = ratio(ours, published, 3)
    yield Line("ViT-B/32, qk, vo and mlp: our fit ÷ the published procedure: time", median, (low, high), 1.3)
    for who, found in (("ours", ours()), ("published", published())):
        names = [n for n in victim if "norm" not in n and n.endswith("weight")]
        far = sum(float((found[n] - victim[n]).square().sum()) for n in names)
        near = sum(float((victim[n] - base[n]).square().sum()) for n in names)
        yield Line(f"ViT-B/32, {who}: ‖recovered − victim‖ ÷ ‖τ‖", (far / near) ** 0.5)


def _published(locked: dict[str, object], base: dict[str, object]) -> dict[str, object]:
    """Head by head and layer by layer, in float32 as the release does."""
    import torch
    from scipy.optimize import linear_sum_assignment

    found: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        for role, template in NAMES.items():
            name = template.format(layer)
            ours, theirs = locked[f"{name}.weight"], base[f"{name}.weight"]
            bias = None if role == "output" else locked[f"{name}.bias"]
            if role == "output":
                ours, theirs = ours.T, theirs.T
            rows, biases = [], []
            n = WIDTH // HEADS
            for head in range(HEADS):
                part = slice(head * n, (head + 1) * n)
                factor = theirs[part] @ torch.linalg.pinv(ours[part])
                rows.append(factor @ ours[part])
                if bias is not None:
                    biases.append(factor @ bias[part])
            weight = torch.cat(rows)
            found[f"{name}.weight"] = weight.T.contiguous() if role == "output" else weight
            if bias is not None:
                found[f"{name}.bias"] = torch.cat(biases)
        up, down = UP.format(layer), DOWN.format(layer)
        unit = torch.nn.functional.normalize
        here, there = (
            unit(torch.cat([unit(x[f"{up}.weight"]), unit(x[f"{down}.weight"].T)], 1)) for x in (locked, base)
        )
        _, order = linear_sum_assignment((there @ here.T).numpy(), maximize=True)
        found[f"{up}.weight"], found[f"{up}.bias"] = locked[f"{up}.weight"][order], locked[f"{up}.bias"][order]
        found[f"{down}.weight"] = locked[f"{down}.weight"][:, order]
    return found


def main() -> None:
    """Prints every line as soon as it is known."""
    for line in lines():
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
