"""The architectures that are known, by `model_type` of the config."""

from __future__ import annotations

from redteam.anatomy.architecture import PRE_NORM, Anatomy, Architecture
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput

ARCHITECTURES: dict[str, Architecture] = {
    "vit": Architecture(
        query="encoder.layer.{layer}.attention.attention.query",
        key="encoder.layer.{layer}.attention.attention.key",
        value="encoder.layer.{layer}.attention.attention.value",
        output="encoder.layer.{layer}.attention.output.dense",
        up="encoder.layer.{layer}.intermediate.dense",
        down="encoder.layer.{layer}.output.dense",
        attention_norm="encoder.layer.{layer}.layernorm_before",
        mlp_norm="encoder.layer.{layer}.layernorm_after",
        prefixes=("vit.", ""),
    ),
    "bert": Architecture(
        query="encoder.layer.{layer}.attention.self.query",
        key="encoder.layer.{layer}.attention.self.key",
        value="encoder.layer.{layer}.attention.self.value",
        output="encoder.layer.{layer}.attention.output.dense",
        up="encoder.layer.{layer}.intermediate.dense",
        down="encoder.layer.{layer}.output.dense",
        attention_norm="encoder.layer.{previous}.output.LayerNorm",
        first_norm="embeddings.LayerNorm",
        mlp_norm="encoder.layer.{layer}.attention.output.LayerNorm",
        prefixes=("bert.", ""),
        fixed_head_width=True,
        legal={kind: group for kind, group in PRE_NORM.items() if kind != "norm"},
    ),
}
"""Hugging Face names, as they are saved. A further architecture is an entry here."""


def anatomy_of(checkpoint: Checkpoint) -> Anatomy:
    """Where the heads, neurons and norms of a checkpoint are; no tensor is read.

    Raises:
        BadInput: If the model type is not known, or the tensors don't match it.
    """
    architecture = ARCHITECTURES.get(checkpoint.architecture)
    if architecture is None:
        found = (
            f"model_type = {checkpoint.architecture!r}" if checkpoint.architecture else "no config with a model_type"
        )
        raise BadInput(f"The checkpoint has {found}; expected one of: {', '.join(sorted(ARCHITECTURES))}.")
    return architecture.anatomy(checkpoint)
