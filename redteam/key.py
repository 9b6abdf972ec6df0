"""A defender's secret, and the random streams that follow from it."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Key:
    """32 secret bytes. Every site draws its own stream, so neither their order nor the device matters.

    Raises:
        ValueError: If the secret is not 32 bytes long.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != 32:
            raise ValueError(f"a key has 32 bytes, this one {len(self.secret)}")

    @classmethod
    def generate(cls) -> Key:
        """A new key from the operating system's randomness."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def derive(cls, *, seed: int, index: int, name: str) -> Key:
        """The key of an evaluation: repeatable, so never fit to protect a real release.

        Args:
            seed: The scenario's seed.
            index: Which of the keys under this seed.
            name: Whose key it is, for example the defense's name.
        """
        return cls(hashlib.sha256(f"redteam key\0{seed}\0{index}\0{name}".encode()).digest())

    def child(self, name: str) -> Key:
        """The key of a part, for example of one defense in a chain."""
        return Key(hashlib.sha256(b"redteam child\0" + self.secret + name.encode()).digest())

    def generator(self, tag: str) -> np.random.Generator:
        """The stream that belongs to `tag`; two tags, or two keys, give unrelated streams."""
        digest = hashlib.sha256(self.secret + tag.encode()).digest()
        sequence = np.random.SeedSequence(int.from_bytes(digest, "big"), pool_size=8)
        return np.random.Generator(np.random.PCG64(sequence))
