"""One result per sample, as text in a record."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from redteam.errors import PluginFault

Results = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Packed:
    """One bit per sample, or one number.

    Attributes:
        n: How many samples.
        bits: Right and wrong in hexadecimal, the first sample in the highest bit; empty where they are numbers.
        numbers: float32 in base64, little-endian; empty where they are right and wrong.
    """

    n: int
    bits: str = ""
    numbers: str = ""

    @classmethod
    def of(cls, scores: Results) -> Packed:
        """From bool or floating `[n]`.

        Raises:
            PluginFault: If a score is not a finite number.
        """
        if scores.dtype == np.bool_:
            return cls(len(scores), bits=np.packbits(scores).tobytes().hex())
        if not np.issubdtype(scores.dtype, np.floating) or not np.isfinite(scores).all():
            raise PluginFault(
                f"A task's scores are {scores.dtype} and not all finite; expected a truth value or a finite number for "
                "each sample"
            )
        return cls(len(scores), numbers=base64.b64encode(scores.astype("<f4").tobytes()).decode("ascii"))

    def unpack(self) -> Results:
        """Undoes `of`, bool `[n]` or float64 `[n]` as float32 holds it."""
        if self.numbers:
            return np.frombuffer(base64.b64decode(self.numbers), "<f4").astype(np.float64)
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.bits), np.uint8), count=self.n).astype(bool)

    def mean(self) -> float:
        """The mean score."""
        return float(self.unpack().mean())
