"""Draws docs/pictures/: what the groups of `redteam.symmetry` do to one head, and what a fit to the base takes back.

python tools/pictures.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Stacks
from redteam.symmetry import GROUPS

HOME = Path(__file__).resolve().parents[1] / "docs" / "pictures"
DRAWN = (
    "permutation",
    "signed-permutation",
    "positive-scaling",
    "scaling",
    "scaled-permutation",
    "plane-signs",
    "plane-scaling",
    "planar",
    "orthogonal",
    "general-linear",
)
WIDTH, COLUMNS = 8, 14
TRAINED = 0.15  # how far the victim's weights lie from the base's, beside a deviation of 1
CELL, GAP, HEAD, FOOT = 11, 26, 22, 26
LEVELS = 6  # of each colour


def main() -> None:
    """Writes every picture, and says which."""
    HOME.mkdir(exist_ok=True)
    for name in DRAWN:
        (HOME / f"{name}.svg").write_text(picture(name), encoding="utf-8")
        sys.stdout.write(f"docs/pictures/{name}.svg\n")


def picture(name: str) -> str:
    """The base's head, the lock, the victim's head under it, and that after the fit; left stacks alone, as SVG."""
    group, draws = GROUPS[name](), np.random.default_rng(7)
    base = Stacks(*(_normal(draws) for _ in range(2)))
    victim = Stacks(base.left + TRAINED * _normal(draws), base.right + TRAINED * _normal(draws))
    lock = group.sample(1, WIDTH, draws)
    locked = Stacks(lock.left(victim.left), lock.right(victim.right))
    fit = group.fit(locked, base)
    fitted = Stacks(fit.left(locked.left), fit.right(locked.right))
    far, near = (_distance(one, base) / _distance(victim, base) for one in (locked, fitted))
    matrix = lock.left(torch.eye(WIDTH, dtype=torch.float64)[None])
    panels = {"base": base.left, "lock": matrix, "locked victim": locked.left, "after the fit": fitted.left}
    told = f"From the base, in task vectors: unlocked 1, locked {far:.1f}, after the fit {near:.2f}"
    return _drawn({title: panel[0] for title, panel in panels.items()}, told)


def _normal(draws: np.random.Generator) -> Tensor:
    return torch.from_numpy(draws.standard_normal((1, WIDTH, COLUMNS)))


def _distance(one: Stacks, other: Stacks) -> float:
    return float(((one.left - other.left).square().sum() + (one.right - other.right).square().sum()).sqrt())


def _drawn(panels: dict[str, Tensor], told: str) -> str:
    wide = sum(panel.shape[1] * CELL + GAP for panel in panels.values()) - GAP
    high = HEAD + WIDTH * CELL + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        f'role="img" font-family="sans-serif" font-size="12"><title>{told}</title>'
        f'<rect width="{wide}" height="{high}" fill="#fff"/>'
    ]
    left = 0
    for title, panel in panels.items():
        parts.append(f'<text x="{left}" y="14">{title}</text>')
        parts += _cells(panel, left)
        left += panel.shape[1] * CELL + GAP
    parts.append(f'<text x="0" y="{high - 8}">{told}</text></svg>\n')
    return "\n".join(parts)


def _cells(panel: Tensor, left: int) -> Iterator[str]:
    """A square for each weight: blue below 0, red above, white at 0, full at 2 and beyond; a path for each colour."""
    squares: dict[str, list[str]] = {}
    for row, weights in enumerate(panel.tolist()):
        for column, weight in enumerate(weights):
            level = round(min(abs(weight) / 2, 1) * LEVELS)
            pale = 255 - round(level * 190 / LEVELS)
            colour = f"#{pale:02x}{pale:02x}ff" if weight < 0 else f"#ff{pale:02x}{pale:02x}"
            place = f"M{left + column * CELL} {HEAD + row * CELL}h{CELL}v{CELL}h-{CELL}z"
            if level:
                squares.setdefault(colour, []).append(place)
    for colour, places in squares.items():
        yield f'<path fill="{colour}" d="{"".join(places)}"/>'


if __name__ == "__main__":
    main()
