"""One result per sample, as text in a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Bits = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Packed:
    """One bit per sample.

    Attributes:
        n: How many samples.
        bits: Their bits in hexadecimal, the first sample in the highest bit.
    """

    n: int
    bits: str

    @classmethod
    def of(cls, correct: Bits) -> Packed:
        """From bool `[n]`."""
        return cls(len(correct), np.packbits(correct).tobytes().hex())

    def unpack(self) -> Bits:
        """Undoes `of`, bool `[n]`."""
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.bits), np.uint8), count=self.n).astype(bool)
