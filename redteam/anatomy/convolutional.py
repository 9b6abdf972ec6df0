"""Networks without attention: residual networks of convolutions, whose channels are their neurons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from redteam.anatomy.architecture import Anatomy, Shaped
from redteam.anatomy.legality import subgroups
from redteam.anatomy.linear import Linear
from redteam.anatomy.mlps import DEGREES
from redteam.anatomy.site import Side, Site
from redteam.errors import BadInput

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Convolutional:
    """Stages of layers of convolutions, each followed by a batch norm and, inside a layer, by an activation.

    The channels between two convolutions of a layer are a site of the kind mlp: left = the batch norm's gain and shift,
    right = the columns of the convolution that reads them; carried = the rows of the one that writes them, and the
    batch norm's statistics. So the order of channels is free, and behind a ReLU their scale.

    Attributes:
        convolution, norm: Templates that take `{stage}`, `{layer}` and `{place}`.
        prefixes: What may stand before every template.
        depths: Key of the config: layers of each stage.
        activation: Key of the config.
    """

    convolution: str
    norm: str
    prefixes: tuple[str, ...] = ("",)
    depths: str = "depths"
    activation: str = "hidden_act"

    def anatomy(self, checkpoint: Shaped) -> Anatomy:
        """Finds the sites of a checkpoint.

        Raises:
            BadInput: If the config lacks its depths, or a tensor is missing.
        """
        depths = checkpoint.config.get(self.depths)
        if not isinstance(depths, list) or not all(isinstance(depth, int) and depth > 0 for depth in depths):
            raise BadInput(f"The config has {self.depths} = {depths!r}; expected the number of layers of each stage.")
        return Anatomy(
            tuple(site for stage, depth in enumerate(depths) for site in self._stage(stage, depth, checkpoint))
        )

    def recognises(self, checkpoint: Shaped) -> int:
        """1 if the checkpoint has the first convolution, else 0."""
        return int(self._prefix(checkpoint) is not None)

    def _prefix(self, checkpoint: Shaped) -> str | None:
        first = self.convolution.format(stage=0, layer=0, place=0) + ".weight"
        return next((prefix for prefix in self.prefixes if prefix + first in checkpoint), None)

    def _stage(self, stage: int, depth: int, checkpoint: Shaped) -> Iterator[Site]:
        prefix = self._prefix(checkpoint)
        if prefix is None:
            raise BadInput("The checkpoint lacks its first convolution; expected the names of its model type.")
        degree = DEGREES.get(str(checkpoint.config.get(self.activation, "relu")))
        legal = subgroups("permutation" if degree is None else "positive-scaled-permutation")
        for layer in range(depth):
            place = 0
            while (weight := self._weight(prefix, stage, layer, place + 1)) in checkpoint:
                norm = prefix + self.norm.format(stage=stage, layer=layer, place=place)
                before = self._weight(prefix, stage, layer, place)
                for name in (before, *(f"{norm}.{which}" for which in ("weight", "bias", *_STATISTICS))):
                    if name not in checkpoint:
                        raise BadInput(f"The checkpoint has no tensor {name!r}; expected the names of its model type.")
                inner = self._weight(prefix, stage, layer, place + 2) in checkpoint  # the next site moves its rows
                height, width = (*checkpoint.shape(weight), 1, 1)[2:4]
                yield Site(
                    "mlp",
                    layer,
                    1,
                    checkpoint.shape(before)[0],
                    Side(Linear(f"{norm}.weight", f"{norm}.bias")),
                    Side(Linear(weight, None), columns=True, unit=height * width, shared=inner),
                    legal,
                    carried=(Side(Linear(before, None)), *(Side(Linear(f"{norm}.{x}", None)) for x in _STATISTICS)),
                    power=degree or 1,
                    part=f"stage-{stage}/{place}",
                )
                place += 1

    def _weight(self, prefix: str, stage: int, layer: int, place: int) -> str:
        return prefix + self.convolution.format(stage=stage, layer=layer, place=place) + ".weight"


RESNET = Convolutional(
    convolution="encoder.stages.{stage}.layers.{layer}.layer.{place}.convolution",
    norm="encoder.stages.{stage}.layers.{layer}.layer.{place}.normalization",
    prefixes=("resnet.", ""),
)
