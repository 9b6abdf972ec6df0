"""What a team with an open_clip model has, small: a base, two fine-tunes that open_clip saved, pictures in folders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
TASKS = {"flowers": ("daisy", "poppy", "rose", "tulip"), "signs": ("exit", "parking", "stop", "yield")}
_SIZE, _COARSE = 16, 4
_CONTRAST, _NOISE = 34.0, 60.0  # grey levels: of the pattern that tells a class, and of what covers it
Pictures = tuple[torch.Tensor, torch.Tensor]


def examples(task: str, classes: int, count: int, seed: int) -> Pictures:
    """Pictures uint8 `[n, 16, 16, 3]`, a coarse pattern of the class under noise, and their classes."""
    draws = np.random.default_rng([seed, *task.encode()])
    labels = draws.integers(classes, size=count)
    patterns = np.random.default_rng([*task.encode()]).choice([-1.0, 1.0], (classes, _COARSE, _COARSE, 3))
    patterns = patterns.repeat(_SIZE // _COARSE, 1).repeat(_SIZE // _COARSE, 2)
    pixels = 128 + _CONTRAST * patterns[labels] + _NOISE * draws.standard_normal((count, _SIZE, _SIZE, 3))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)), torch.from_numpy(labels)


def make(folder: Path, *, count: int = 900) -> Path:
    """`clip`, an expert and pictures for each task.

    Returns:
        The folder.
    """
    import open_clip
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.model import set_model_preprocess_cfg

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = open_clip.CLIP(**copy.deepcopy(CONFIG))
    set_model_preprocess_cfg(base, {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD})
    # It has seen all classes in other pictures, as a public model has.
    seen = mixed([examples(task, len(names), count, 1) for task, names in TASKS.items()])
    _fit(base, seen, [name for names in TASKS.values() for name in names], steps=40, rate=1e-3)
    _save(base, folder / "clip")
    for task, names in TASKS.items():
        pictures = examples(task, len(names), count, 0)
        _write(folder / f"{task}-pictures", pictures, names)
        expert = copy.deepcopy(base)
        _fit(expert, pictures, names, steps=120, rate=5e-4)
        _save(expert, folder / task)
    return folder


def _write(folder: Path, pictures: Pictures, names: Sequence[str]) -> None:
    from PIL import Image

    for number, (pixels, label) in enumerate(zip(*pictures, strict=True)):
        path = folder / names[int(label)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)


def _save(network: nn.Module, folder: Path) -> None:
    """The two files that open_clip itself writes."""
    from open_clip.push_to_hf_hub import save_config_for_hf
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_config_for_hf(network, folder / "open_clip_config.json", CONFIG)
    save_file(dict(network.state_dict()), folder / "open_clip_model.safetensors")


def _fit(network: Any, pictures: Pictures, names: Sequence[str], *, steps: int, rate: float) -> None:
    """Fine-tunes both towers; the classifier is what the text tower makes of the classes' names."""
    import open_clip

    tokens = open_clip.SimpleTokenizer(context_length=12)([f"a photo of a {name}." for name in names])
    mean, std = (torch.tensor(getattr(network.visual, f"image_{what}")) for what in ("mean", "std"))
    pixels = ((pictures[0] / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    fit(
        list(network.parameters()),
        lambda chosen: network.get_logits(pixels[chosen], tokens)[0],
        pictures[1],
        steps=steps,
        rate=rate,
    )


def mixed(parts: Sequence[Pictures]) -> Pictures:
    """Pictures of several tasks, their classes counted on."""
    starts = np.cumsum([0, *(int(labels.max()) + 1 for _, labels in parts)])
    moved = [labels + int(start) for (_, labels), start in zip(parts, starts, strict=False)]
    return torch.cat([pixels for pixels, _ in parts]), torch.cat(moved)


def fit(
    learned: Sequence[nn.Parameter],
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    *,
    steps: int,
    rate: float,
) -> None:
    """Minimises cross-entropy by AdamW on random rows.

    Args:
        learned: What is trained.
        logits_of: Places of rows → their logits.
        labels: Of all rows.
        steps: Steps of 64 rows.
        rate: The learning rate, behind a short rise.
    """
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0)
    draws = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 10)
        chosen = torch.randint(len(labels), (64,), generator=draws)
        optimizer.zero_grad()
        F.cross_entropy(logits_of(chosen), labels[chosen]).backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
