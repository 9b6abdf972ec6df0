"""Networks of open_clip, built from a checkpoint; a tower that would come from a server is refused."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from redteam.checkpoint.libraries import as_a_sentence, require_fit
from redteam.checkpoint.tensors import Tensors
from redteam.checkpoint.zero_shot import ZERO_SHOT, with_prompts
from redteam.errors import NotACheckpoint
from redteam.extras import require_extra

if TYPE_CHECKING:
    from torch import nn


def open_clip_network(checkpoint: Tensors, dtype: torch.dtype | None) -> nn.Module:
    """The network in evaluation mode, with these weights.

    Args:
        checkpoint: Config and weights.
        dtype: In which the weights are held; as stored by default.

    Raises:
        NotACheckpoint: If open_clip is not installed, a tower is missing or not built here, or the tensors do not fit.
    """
    made = _maker(checkpoint.config)
    shapes = {name: tuple(tensor.shape) for name, tensor in made("meta").state_dict().items()}
    here = set(checkpoint)
    scalars = {n for n in here & {"logit_scale", "logit_bias"} if math.prod(checkpoint.shape(n)) == 1}
    require_fit(
        "network of open_clip",
        {
            "missing_keys": shapes.keys() - here,
            "unexpected_keys": here - shapes.keys(),
            "mismatched_keys": {n for n in (here & shapes.keys()) - scalars if checkpoint.shape(n) != shapes[n]},
        },
    )
    network = made("cpu")  # only now, since a config that claims too much would have claimed memory, too
    network.load_state_dict(
        {name: tensor.reshape(shapes[name]).contiguous() for name, tensor in checkpoint.items()}, assign=True
    )
    return (network if dtype is None else network.to(dtype)).eval()  # type: ignore[no-any-return]


def initialised_open_clip(config: Mapping[str, Any], seed: int) -> nn.Module:
    """The network that a config describes, freshly initialised as open_clip does before training.

    Raises:
        NotACheckpoint: If open_clip is not installed, or a tower is missing or not built here.
    """
    made = _maker(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return made("cpu")  # type: ignore[no-any-return]


def _maker(config: Mapping[str, Any]) -> Callable[[str], Any]:
    """Makes the network that a config describes on a device, with whatever weights torch draws."""
    require_extra("open-clip", "A network of open_clip", NotACheckpoint)
    import open_clip

    settings = config.get("model_cfg")
    if not isinstance(settings, dict):
        raise NotACheckpoint("The config of this open_clip checkpoint has no model_cfg; restore open_clip_config.json.")
    for tower in (settings.get("vision_cfg"), settings.get("text_cfg")):
        if not isinstance(tower, dict) or "hf_model_name" in tower or ":" in str(tower.get("timm_model_name", "")):
            raise NotACheckpoint(
                "The model_cfg of this open_clip checkpoint lacks a tower or takes one from a server; expected towers "
                "of open_clip or timm."
            )

    def made(device: str) -> Any:
        with (
            tempfile.TemporaryDirectory() as folder,
            torch.random.fork_rng(devices=[]),
            torch.device(device),
            _quiet_root(),
            as_a_sentence("network of open_clip"),
        ):
            (Path(folder) / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}), encoding="utf-8")
            network = open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, pretrained_image=False, device=device
            )
            return with_prompts(network, config[ZERO_SHOT]) if ZERO_SHOT in config else network

    return made


class _quiet_root:
    """Silences the root logger, on which open_clip writes, and keeps `logging` from setting it up for that."""

    def __enter__(self) -> None:
        self._level, self._handler = logging.root.manager.disable, logging.NullHandler()
        logging.root.addHandler(self._handler)
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._level)
        logging.root.removeHandler(self._handler)
