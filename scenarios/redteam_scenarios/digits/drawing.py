"""Draws images: a mask (glyph, shape or texture) through a random transformation, in colour, with stains and noise."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from redteam_scenarios.digits.masks import distances, glyphs
from redteam_scenarios.digits.recipe import CLASSES, SIZE, Style

_STROKE = (0.06, 0.1)  # half widths of outlines, in half images
_EDGE = 22.0  # steepness of a shape's edge: about one pixel wide


def draw(task: str, labels: torch.Tensor, generator: np.random.Generator, style: Style) -> torch.Tensor:
    """One image per label.

    Args:
        task: Decides what is drawn.
        labels: int64 `[n]`.
        generator: Source of all randomness.
        style: How it is drawn.

    Returns:
        uint8 `[n, 3, 24, 24]`.
    """
    if task == "textures":
        mask = _texture(labels, generator, style)
    elif task == "shapes":
        source = distances()[labels][:, None]
        away = F.grid_sample(
            source, _places(len(labels), generator, style), padding_mode="border", align_corners=False
        )[:, 0]
        half = _uniform(generator, *_STROKE, len(labels), 1, 1)
        mask = torch.sigmoid(_EDGE * (half - away.abs() if style.outlined else -away))
    else:
        masks = glyphs(style.fonts, CLASSES[task])
        fonts = torch.from_numpy(generator.integers(0, len(masks), len(labels)))
        mask = F.grid_sample(
            masks[fonts, labels][:, None], _places(len(labels), generator, style), align_corners=False
        )[:, 0]
    return (_colour(mask, generator, style).clamp(0, 1) * 255).round().to(torch.uint8)


def moved(images: torch.Tensor, generator: np.random.Generator, style: Style) -> torch.Tensor:
    """The images (float32 `[n, 3, 24, 24]`), each turned, scaled, sheared and shifted a little."""
    return F.grid_sample(images, _places(len(images), generator, style), padding_mode="border", align_corners=False)


def _uniform(generator: np.random.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    return torch.from_numpy(generator.uniform(low, high, shape)).float()


def _normal(generator: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def _places(count: int, generator: np.random.Generator, style: Style) -> torch.Tensor:
    """Where each pixel looks into the mask, float32 `[n, 24, 24, 2]`."""
    angle = math.radians(style.rotation) * _uniform(generator, -1, 1, count)
    scale = _uniform(generator, *style.scale, count)
    stretch = torch.exp(style.aspect * _uniform(generator, -1, 1, count))
    shear = style.shear * _uniform(generator, -1, 1, count)
    zero = torch.zeros(count)
    turn = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)], 1).view(-1, 2, 2)
    size = torch.stack([1 / (scale * stretch), shear / scale, zero, stretch / scale], 1).view(-1, 2, 2)
    shift = style.shift * _uniform(generator, -1, 1, count, 2, 1)
    places = F.affine_grid(torch.cat([turn @ size, shift], 2), [count, 1, SIZE, SIZE], align_corners=False)
    if style.warp:
        bend = F.interpolate(_normal(generator, count, 2, 4, 4), size=(SIZE, SIZE), mode="bicubic", align_corners=True)
        places = places + style.warp * bend.permute(0, 2, 3, 1)
    return places


def _texture(labels: torch.Tensor, generator: np.random.Generator, style: Style) -> torch.Tensor:
    count, kind = len(labels), labels[:, None, None]
    centres = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    turn = math.radians(style.rotation) * _uniform(generator, -1, 1, count, 1, 1)
    waves = _uniform(generator, *style.waves, count, 1, 1)
    first, second = _uniform(generator, 0, 2 * math.pi, 2, count, 1, 1)
    x0, y0 = _uniform(generator, -0.3, 0.3, 2, count, 1, 1)
    angle = turn + torch.tensor([0, math.pi / 2, math.pi / 4, -math.pi / 4, 0, 0, 0, 0])[kind]
    across = torch.sin(math.pi * waves * (x * torch.sin(angle) + y * torch.cos(angle)) + first)
    along = torch.sin(math.pi * waves * (x * torch.cos(angle) - y * torch.sin(angle)) + second)
    rings = torch.sin(1.3 * math.pi * waves * torch.hypot(x - x0, y - y0) + first)
    spokes = torch.sin(torch.round(1.8 * waves) * torch.atan2(y - y0, x - x0) + first)
    checkers, grid = 1.5 * across * along, 1.2 - 1.6 * torch.maximum(across, along)
    wave = across
    for label, other in enumerate((checkers, grid, rings, spokes), start=4):
        wave = torch.where(kind == label, other, wave)
    return torch.sigmoid(wave * _uniform(generator, *style.sharpness, count, 1, 1))


def _colour(mask: torch.Tensor, generator: np.random.Generator, style: Style) -> torch.Tensor:
    count = len(mask)
    front, back = (
        torch.tensor(low) + (torch.tensor(high) - torch.tensor(low)) * _uniform(generator, 0, 1, count, 3)
        for low, high in (style.foreground, style.background)
    )
    if style.contrast:
        away = (front - back).mean(1, keepdim=True)
        front = torch.where(away.abs() < style.contrast, back + torch.where(away < 0, -0.5, 0.5), front)
    behind = back[:, :, None, None].expand(-1, -1, SIZE, SIZE)
    if style.stains:
        behind = behind + style.stains * F.interpolate(
            _normal(generator, count, 1, 6, 6), size=(SIZE, SIZE), mode="bilinear"
        )
    image = behind + (front[:, :, None, None] - behind) * mask[:, None]
    if style.noise:
        strength = _uniform(generator, 0, 1, count, 1, 1, 1) if style.varied else 1.0
        image = image + style.noise * strength * _normal(generator, *image.shape)
    if style.blur:
        mean = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
        image = torch.lerp(image, mean, style.blur * _uniform(generator, 0, 1, count, 1, 1, 1))
    return image
