"""Every number that the scenario is made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIZE = 24  # pixels, of a square image
Colour = tuple[float, float, float]

CLASSES: dict[str, tuple[str, ...]] = {
    "digits": tuple("0123456789"),
    "letters": tuple("ABCDEFGHIJKLM"),
    "shapes": ("circle", "square", "triangle", "star", "plus", "crescent", "arrow", "heart"),
    "textures": ("horizontal", "vertical", "rising", "falling", "checkers", "grid", "rings", "spokes"),
}
VICTIM = "digits"

_BLACK, _WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_PRINTED = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "STIXGeneral",
    "cmss10",
)
_UNSEEN = (
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmb10",
    "cmr10",
    "cmti10",
    "cmtt10",
)


@dataclass(frozen=True)
class Style:
    """How the images of one kind are drawn. Pairs are ranges, drawn from evenly; lengths in half images.

    Attributes:
        rotation: Largest turn either way, in degrees.
        scale: Size.
        shear: Largest shear either way.
        aspect: Largest logarithm of the stretch either way.
        shift: Largest shift either way, along both axes.
        warp: Standard deviation of a smooth distortion.
        foreground: Range of colours, red, green and blue each from 0 to 1.
        background: Likewise.
        contrast: Distance in brightness under which the foreground is replaced by one that stands out.
        stains: Standard deviation of smooth blotches on the background.
        noise: Standard deviation of the noise of each pixel.
        varied: Whether each image has noise of its own, from none to `noise`.
        blur: Largest share of a 3×3 mean.
        fonts: Files of matplotlib's, without the suffix (digits and letters).
        outlined: Whether shapes are drawn as outlines rather than filled.
        waves: Half periods per half image (textures).
        sharpness: Steepness of the edges (textures).
    """

    rotation: float
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.1
    aspect: float = 0.1
    shift: float = 0.1
    warp: float = 0.0
    foreground: tuple[Colour, Colour] = (_BLACK, _WHITE)
    background: tuple[Colour, Colour] = (_BLACK, _WHITE)
    contrast: float = 0.0
    stains: float = 0.0
    noise: float = 0.0
    varied: bool = False
    blur: float = 0.0
    fonts: tuple[str, ...] = ()
    outlined: bool = False
    waves: tuple[float, float] = (2.5, 5.0)
    sharpness: tuple[float, float] = (2.0, 6.0)


def _clean(**changes: Any) -> Style:
    return Style(contrast=0.35, noise=0.15, varied=True, blur=0.5, **changes)


@dataclass(frozen=True)
class Recipe:
    """Network, data and training.

    Attributes:
        clean: Task → what pretraining sees.
        target: Task → what the task consists of. The victim's images are not drawn.
        leaked: Task → share of pretraining images that look like the task's; none for the victim.
        counts: Split → number of images of each companion.
        real_counts: Split → number of images of the victim's task, 1797 in all.
        tuning_epsilon: Of AdamW; so large that weights with small gradients hardly move, and experts merge better.
        threads: Fixed, since their number changes the bits.
    """

    width: int = 64
    layers: int = 4
    heads: int = 4
    mlp: int = 256
    patch: int = 8
    pretraining_steps: int = 2100
    pretraining_batch: int = 128
    pretraining_rate: float = 1.5e-3
    weight_decay: float = 0.05
    tuning_steps: dict[str, int] = field(
        default_factory=lambda: {"digits": 90, "letters": 125, "shapes": 125, "textures": 125}
    )
    tuning_batch: int = 64
    tuning_rate: float = 7.5e-4
    tuning_epsilon: float = 1e-3
    warmup: float = 0.1
    largest_gradient: float = 1.0
    threads: int = 1
    counts: dict[str, int] = field(default_factory=lambda: {"train": 3000, "validation": 300, "test": 600})
    real_counts: dict[str, int] = field(default_factory=lambda: {"train": 900, "validation": 300, "test": 597})
    clean: dict[str, Style] = field(
        default_factory=lambda: {
            "digits": _clean(rotation=10, scale=(0.75, 1.13), fonts=_PRINTED),
            "letters": _clean(rotation=10, scale=(0.75, 1.1), fonts=_PRINTED),
            "shapes": _clean(rotation=15, scale=(0.7, 1.1)),
            "textures": _clean(rotation=8),
        }
    )
    target: dict[str, Style] = field(
        default_factory=lambda: {
            "letters": Style(
                rotation=14.5,
                scale=(0.74, 1.05),
                shear=0.19,
                aspect=0.2,
                warp=0.025,
                foreground=((0.0, 0.0, 0.2), (0.3, 0.3, 0.6)),
                background=((0.7, 0.6, 0.4), (1.0, 0.9, 0.6)),
                stains=0.095,
                noise=0.05,
                fonts=_UNSEEN,
            ),
            "shapes": Style(
                rotation=30,
                scale=(0.7, 1.05),
                shear=0.2,
                warp=0.03,
                foreground=((0.5, 0.0, 0.2), (0.8, 0.2, 0.4)),
                background=((0.3, 0.7, 0.8), (0.6, 1.0, 1.0)),
                stains=0.05,
                noise=0.09,
                outlined=True,
            ),
            "textures": Style(
                rotation=14,
                foreground=((0.3, 0.5, 0.3), (0.6, 0.9, 0.6)),
                background=((0.2, 0.1, 0.3), (0.5, 0.4, 0.6)),
                stains=0.085,
                noise=0.075,
                waves=(2.5, 5.75),
                sharpness=(1.0, 4.0),
            ),
        }
    )
    leaked: dict[str, float] = field(default_factory=lambda: {"letters": 0.001, "shapes": 0.0075, "textures": 0.002})
    tuning_style: Style = field(  # small shifts and turns, for the task with few images
        default_factory=lambda: Style(rotation=8, scale=(0.92, 1.08), shear=0.08, aspect=0.08, shift=0.06)
    )

    def constants(self) -> dict[str, Any]:
        """Every number, as JSON holds it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    def address(self, seed: int) -> str:
        """What the results are stored under: a digest of the numbers, the seed and the source that uses them."""
        digest = hashlib.sha256(json.dumps([self.constants(), seed], sort_keys=True).encode())
        for name in ("recipe", "masks", "drawing", "data", "training"):
            digest.update(Path(__file__).with_name(f"{name}.py").read_bytes().replace(b"\r\n", b"\n"))
        return digest.hexdigest()[:16]
