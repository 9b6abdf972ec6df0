"""One result per sample, as text in a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Bits = np.ndarray[Any, np.dtype[np.bool_]]


def pack(correct: Bits) -> dict[str, Any]:
    """The number of samples and their bits in hexadecimal, from bool `[n]`."""
    return {"n": len(correct), "bits": np.packbits(correct).tobytes().hex()}


def unpack(packed: Mapping[str, Any]) -> Bits:
    """Undoes `pack`, bool `[n]`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(packed["bits"]), np.uint8), count=packed["n"]).astype(bool)
