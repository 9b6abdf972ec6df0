"""Glyphs of matplotlib's fonts, and geometric shapes as signed distances."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

Points = np.ndarray[tuple[int, int], np.dtype[np.float64]]
_SIDE = 40  # pixels of a mask; larger than an image, which samples it
_DRAWN = 64  # point size at which glyphs are drawn before they are reduced


@lru_cache(maxsize=8)
def glyphs(fonts: tuple[str, ...], characters: tuple[str, ...]) -> torch.Tensor:
    """Coverage (0 to 1) of each character in each font, centred: float32 `[fonts, characters, 40, 40]`."""
    from pathlib import Path

    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    masks = np.zeros((len(fonts), len(characters), _SIDE, _SIDE), np.float32)
    for row, name in zip(masks, fonts, strict=True):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), size=_DRAWN)
        for mask, character in zip(row, characters, strict=True):
            left, top, right, bottom = (int(edge) for edge in font.getbbox(character))
            image = Image.new("L", (right - left, bottom - top))
            ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font)
            reduction = 0.8 * _SIDE / max(image.size)
            width, height = (max(1, round(side * reduction)) for side in image.size)
            x, y = (_SIDE - width) // 2, (_SIDE - height) // 2
            mask[y : y + height, x : x + width] = np.asarray(image.resize((width, height), Image.Resampling.BOX)) / 255
    return torch.from_numpy(masks)


@lru_cache(maxsize=1)
def distances() -> torch.Tensor:
    """Signed distance to the outline of each shape, negative inside, float32 `[8, 40, 40]`, in half images."""
    around = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    heart = np.stack(
        [
            16 * np.sin(around) ** 3,
            5 * np.cos(2 * around) + 2 * np.cos(3 * around) + np.cos(4 * around) - 13 * np.cos(around),
        ],
        1,
    )
    arc = np.linspace(-2.2, 2.2, 40)
    crescent = np.concatenate(
        [
            np.stack([-0.75 * np.cos(arc), 0.75 * np.sin(arc)], 1),
            np.stack([0.25 - 0.6 * np.cos(arc), 0.6 * np.sin(arc)], 1)[::-1],
        ]
    )
    thin, long = 0.25, 0.75
    quarter = np.array([(-thin, -thin), (-thin, -long), (thin, -long)])  # the others follow by turning it
    turn = np.array([(0.0, 1.0), (-1.0, 0.0)])
    plus = np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])
    arrow = np.array([(-0.75, -0.2), (0.1, -0.2), (0.1, -0.6), (0.75, 0), (0.1, 0.6), (0.1, 0.2), (-0.75, 0.2)])
    outlines = [
        _star(40, 0.68),
        _star(4, 0.85, turn=np.pi / 4),
        _star(3, 0.8),
        _star(5, 0.85, inner=0.36),
        plus,
        crescent,
        arrow,
        heart / 21,
    ]
    return torch.from_numpy(np.stack([_distance(points) for points in outlines])).float()


def _star(corners: int, radius: float, *, inner: float | None = None, turn: float = 0.0) -> Points:
    """A regular polygon, or a star where `inner` gives the radius of the corners between."""
    count = corners if inner is None else 2 * corners
    angle = turn - np.pi / 2 + 2 * np.pi * np.arange(count) / count
    length = np.where(np.arange(count) % 2, radius if inner is None else inner, radius)
    return np.stack([length * np.cos(angle), length * np.sin(angle)], 1)


def _distance(points: Points) -> Points:
    centres = (np.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
    x, y = np.meshgrid(centres, centres)
    nearest, inside = np.full(x.shape, np.inf), np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x0 - along * dx, y - y0 - along * dy))
        if dy:
            inside ^= ((y0 > y) != (y1 > y)) & (x < dx * (y - y0) / dy + x0)
    return np.where(inside, -nearest, nearest)
