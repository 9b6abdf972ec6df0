"""A folder as it is published: shards, an index, and what lies beside them."""

import json
from pathlib import Path

import torch

from redteam.checkpoint.sources import Memory

CONFIG = {"model_type": "toy", "dtype": "bfloat16", "text_config": {"torch_dtype": "bfloat16"}, "z": 1, "a": [0.5]}


def tensors(count: int = 6, size: int = 32) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return {f"layer.{i}.w": torch.randn(size, size, generator=draws).bfloat16() for i in range(count)}


def sharded(tmp_path: Path) -> Path:
    """Three shards whose tensors are not in alphabetical order, with what a published folder has beside them."""
    from safetensors.torch import save_file

    folder = tmp_path / "source"
    folder.mkdir()
    weights, weight_map = tensors(), {}
    for index, names in enumerate(
        (("layer.3.w", "layer.0.w"), ("layer.1.w",), ("layer.5.w", "layer.2.w", "layer.4.w"))
    ):
        file = f"model-0000{index + 1}-of-00003.safetensors"
        save_file(
            {name: weights[name] for name in names}, folder / file, metadata={"format": "pt", "shard": str(index)}
        )
        weight_map.update(dict.fromkeys(names, file))
    index_text = {"metadata": {"total_size": 12288, "made": "by hand"}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_text, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    (folder / "LICENSE").write_text("Do what you like.")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n\nText.\n")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Failing(Memory):
    """Fails at its last tensor."""

    def __init__(self, tensors: dict[str, torch.Tensor], error: BaseException) -> None:
        super().__init__(tensors)
        self.error, self.left = error, len(tensors)

    def load(self, name: str) -> torch.Tensor:
        self.left -= 1
        if not self.left:
            raise self.error
        return super().load(name)
