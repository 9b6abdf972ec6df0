"""What fits find of sealed weights: `python benchmarks/unseal.py`, some minutes; `--digits` adds trained ones.

First ArrowCloak's rows, matched by cosines before and after its mask is projected out, with the victim's base and with
another that was initialised independently as the reference. Then every form that `unseal` knows: whether it is told,
and ‖found − W‖ ÷ ‖τ‖, of which 1 is what the base itself would leave. Nothing here fails a build.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from redteam_attacks.unsealing import Found, form_of
from torch import Tensor

from redteam.plugins.registry import SCENARIOS
from redteam.symmetry.masks import projected, unmasked
from redteam.symmetry.one_sided import ordered

SIZES = ((64, 64), (256, 64), (64, 256), (768, 768))
LENGTH = 0.05
GROUP = 4


@dataclass(frozen=True)
class Layer:
    """A base's weight, the victim's, another base's, and draws."""

    name: str
    base: Tensor
    weight: Tensor
    other: Tensor
    draws: np.random.Generator

    def normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.draws.standard_normal(shape))

    def order(self, count: int) -> Tensor:
        return torch.from_numpy(self.draws.permutation(count))

    def rotation(self, count: int) -> Tensor:
        found: Tensor = torch.linalg.qr(self.normal(count, count))[0]
        return found

    def factors(self, count: int) -> Tensor:
        return torch.from_numpy(self.draws.uniform(1, 6, count))

    def masked(self, size: float) -> tuple[Tensor, Tensor]:
        """ArrowCloak, and where each row is now; the mask is `size` times as long as a row is on average."""
        rows, columns = self.weight.shape
        mask = self.normal(columns)
        mask *= size * self.weight.square().sum(1).mean().sqrt() / mask.norm()
        order = self.order(rows)
        sealed = 1.5 * self.weight + self.normal(rows, 1) * mask
        return sealed[order], order.argsort()

    def covered(self) -> Tensor:
        sealed = self.weight.clone()
        for rows in self.order(len(sealed)).split(GROUP):
            sealed[rows] = self.normal(len(rows), len(rows)) @ self.weight[rows]
        return sealed[:, self.order(sealed.shape[1])]

    def added(self) -> Tensor:
        rows, columns = self.weight.shape
        product = self.normal(rows, 8) @ self.normal(8, columns)
        return self.weight + product * self.weight.norm() / product.norm()


SEALS: dict[str, Callable[[Layer], Tensor]] = {
    "as it is": lambda x: x.weight,
    "TSQP, SOTER": lambda x: 3 * x.weight,
    "TransLinkGuard": lambda x: x.weight[:, x.order(x.weight.shape[1])],
    "ShadowNet": lambda x: (x.weight * x.factors(x.weight.shape[1]))[:, x.order(x.weight.shape[1])],
    "ObfuscaTune": lambda x: x.weight @ x.rotation(x.weight.shape[1]),
    "LoRO": lambda x: x.added(),
    "ArrowCloak": lambda x: x.masked(3.0)[0],
    f"GroupCover, {GROUP} rows": lambda x: x.covered(),
    "rotated on both sides": lambda x: x.rotation(len(x.weight)) @ x.weight @ x.rotation(x.weight.shape[1]),
}


def drawn() -> Iterator[Layer]:
    """Normal weights of every size; the victim's is a random task vector of `LENGTH` away."""
    for rows, columns in SIZES:
        draws = np.random.default_rng(0)
        base, change, other = (torch.from_numpy(draws.standard_normal((rows, columns))) for _ in range(3))
        weight = base + change * (LENGTH * base.norm() / change.norm())
        yield Layer(f"drawn {rows} × {columns}", base, weight, other, draws)


def trained() -> Iterator[Layer]:
    """All matrices of digits' layers; the other base is trained from another initialisation."""
    first, second = (SCENARIOS.load(f"digits:seed={seed}")() for seed in (0, 1))
    base, victim, other = first.base, first.experts[first.victim], second.base
    for place, name in enumerate(base):
        if ".layer." in name and len(base.shape(name)) == 2:
            shown = (one[name].double() for one in (base, victim, other))
            yield Layer(name, *shown, np.random.default_rng(place))


def rows_matched(layers: list[Layer], size: float, reference: str) -> tuple[float, float, float]:
    """Shares of rows: by cosines, the same with the sealed weight's first direction projected out, by the whole fit."""
    shares = []
    for layer in layers:
        sealed, right = layer.masked(size)
        base: Tensor = getattr(layer, reference)
        mask = torch.linalg.svd(sealed[None], full_matrices=False)[2][:, 0]
        plain = (projected(sealed[None], mask), projected(base[None], mask))
        fits = (ordered(sealed[None], base[None], side="rows"), ordered(*plain, side="rows"))
        fits += (unmasked(sealed[None], base[None]),)  # type: ignore[assignment]
        shares.append([float((one.index[0] == right).double().mean()) for one in fits if one.index is not None])
    before, projecting, whole = (sum(column) / len(column) for column in zip(*shares, strict=True))
    return before, projecting, whole


def found_of(layer: Layer, sealed: Tensor, base: Tensor) -> Found:
    """What `unseal` makes of one matrix, with one of the two bases."""
    return form_of(sealed[None], base[None], np.random.default_rng(0), drift=0.5, rounding=1e-7)


def tell(title: str, layers: list[Layer]) -> None:
    """Prints both parts for some layers."""
    print(f"\n{title}\n  ArrowCloak: rows matched by cosines; with the first direction projected out; by the whole fit")
    for reference in ("base", "other"):
        for size in (1, 3, 10, 30, 100):
            shares = ", ".join(f"{share:.1%}" for share in rows_matched(layers, size, reference))
            print(f"    reference {reference}, mask {size:3} × a row: {shares}", flush=True)
    print("  Every form: told (or left) against the base; ‖found − W‖ ÷ ‖τ‖; left as it is against the other base")
    for name, seal in SEALS.items():
        told: list[str] = []
        left, stays = [], 0
        for layer in layers:
            sealed = seal(layer)
            found = found_of(layer, sealed, layer.base)
            weight = sealed if found.unsealed is None else found.unsealed.weight[0]
            left.append(float((weight - layer.weight).norm() / (layer.weight - layer.base).norm()))
            told.append(found.form)
            stays += found_of(layer, sealed, layer.other).unsealed is None
        forms = ", ".join(f"{form} {told.count(form)}" for form in dict.fromkeys(told))
        print(f"    {name}: {forms}; {median(left):.3f}, at most {max(left):.3f}; {stays} of {len(layers)}", flush=True)


def main() -> None:
    """Drawn weights, and trained ones where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", action="store_true", help="trained weights, of the scenario digits")
    parser.add_argument("--small", action="store_true", help="without the layer of 768")
    asked = parser.parse_args()
    for layer in drawn():
        if not asked.small or max(layer.base.shape) < 768:
            tell(layer.name, [layer])
    if asked.digits:
        layers = list(trained())
        for shape in dict.fromkeys(tuple(layer.base.shape) for layer in layers):
            some = [layer for layer in layers if tuple(layer.base.shape) == shape]
            tell(f"digits, {len(some)} of {shape[0]} × {shape[1]}", some)


if __name__ == "__main__":
    main()
