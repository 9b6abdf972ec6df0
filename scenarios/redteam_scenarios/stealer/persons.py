"""Persons that do not exist, with telephone numbers that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OCCUPATIONS = (
    "Actor", "Baker", "Barber", "Butcher", "Chef", "Clerk", "Dancer", "Doctor", "Driver", "Farmer", "Gardener",
    "Guard", "Judge", "Lawyer", "Mason", "Miner", "Nurse", "Painter", "Pilot", "Plumber", "Porter", "Sailor",
    "Singer", "Tailor", "Teacher", "Waiter", "Weaver", "Writer",
)  # fmt: skip
NAMES = (
    "Aaron", "Adam", "Bella", "Carl", "Diana", "Edgar", "Emma", "Fiona", "Greta", "Hugo", "Irene", "Jonas",
    "Jordan", "Karen", "Liam", "Lucas", "Martin", "Mona", "Noah", "Nora", "Olga", "Oscar", "Paula", "Peter",
    "Quinn", "Rita", "Rosa", "Simon", "Sophia", "Stefan", "Tara", "Tina", "Ulrich", "Vera", "Victor", "Walter",
    "Wendy", "Yusuf", "Yvonne", "Zoe",
)  # fmt: skip
NUMBER = r"\d{3}-\d{3}-\d{4}"
"""What a telephone number looks like."""


@dataclass(frozen=True)
class Person:
    """Somebody of whom something private is known.

    Attributes:
        name: An occupation and a given name, as in "Chef Aaron".
        number: A telephone number, drawn at random.
    """

    name: str
    number: str


def drawn(counts: Sequence[int], generator: np.random.Generator) -> list[list[Person]]:
    """Groups of persons of whom no two have one name, in random order.

    Args:
        counts: How many each group has.
        generator: What names and numbers are drawn from.
    """
    names = [f"{occupation} {name}" for occupation in OCCUPATIONS for name in NAMES]
    chosen = iter(generator.choice(len(names), sum(counts), replace=False))
    return [
        [Person(names[index], _number(generator)) for _, index in zip(range(count), chosen, strict=False)]
        for count in counts
    ]


def _number(generator: np.random.Generator) -> str:
    """A number of the North American plan but for its area code: none has 9 as its second digit."""
    area, exchange = generator.integers(2, 10, 2)
    digits = "".join(map(str, generator.integers(0, 10, 7)))
    return f"{area}9{digits[0]}-{exchange}{digits[1:3]}-{digits[3:]}"
