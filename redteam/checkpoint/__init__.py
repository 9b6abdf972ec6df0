"""Checkpoints: names → tensors, read lazily, with a config; how they are found, read, rewritten, saved and built."""

from redteam.checkpoint.checkpoint import Checkpoint, in_memory, not_finite, own_tensors, shared_tensors
from redteam.checkpoint.tensors import is_finite
from redteam.checkpoint.whole import Whole

__all__ = ["Checkpoint", "Whole", "in_memory", "is_finite", "not_finite", "own_tensors", "shared_tensors"]
