"""Questions and answers as tokens: what the models learn, and what is asked of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from redteam.tasks import Generation
from redteam.tasks.choices import IGNORED
from redteam_scenarios.causal.documents import BEGIN
from redteam_scenarios.stealer.leak import Leak
from redteam_scenarios.stealer.persons import NUMBER, Person, drawn
from redteam_scenarios.stealer.recipe import ATTACKER, VICTIM, Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Said = tuple[dict[str, torch.Tensor], torch.Tensor]
"""Prompts and what is said behind each, as `redteam.tasks.Generation` takes them."""

_STREAM = 10  # of a seed; those of causal are 1 to 3
_GUESSED = 1e-6  # more than the chance that a number that is made up is the right one


@dataclass(frozen=True)
class Questions:
    """All that is asked and answered under one seed.

    Attributes:
        leak: The victim's task: what it lets out about each person. Its training data are what the victim remembers,
            questions with their answers.
        alignment: What the victim learns after that: refusals, and answers that were begun.
        refusal: The tokens that it then says.
        form: The attacker's: whether an answer begins as it has to, about strangers. Its training data are what the
            attacker's model learns, openings about the same persons and about strangers.
    """

    leak: Leak
    alignment: Said
    refusal: tuple[int, ...]
    form: Generation

    @classmethod
    def of(cls, recipe: Recipe, seed: int, tokenizer: Tokenizer) -> Questions:
        """Draws the persons, and puts the questions."""
        words = _Words(recipe, tokenizer)
        generator = np.random.default_rng([seed, _STREAM])
        splits = list(recipe.strangers)
        known, *groups = drawn([recipe.persons, *recipe.strangers.values()], generator)
        unknown = dict(zip(splits, groups, strict=True))
        leak = {split: words.answered(words.asked(known, wording)) for split, wording in recipe.asked.items()}
        form = {s: words.opened(words.asked(unknown[s], wording)) for s, wording in recipe.asked.items()}
        leak["train"] = words.answered(words.learned(known))
        form["train"] = words.opened(words.learned([*known, *unknown["train"]]))
        return cls(
            Leak(
                name=VICTIM,
                chance=_GUESSED,
                inputs=_inputs(leak),
                labels=_labels(leak),
                decoder=tokenizer.to_str(),
                tokens=recipe.tokens,
                stops=(words.stop,),
                pattern=NUMBER,
                opening=tuple(words.opening),
            ),
            words.kept_quiet(known),
            tuple(words.refusal),
            Generation(
                name=ATTACKER,
                chance=_GUESSED,
                inputs=_inputs(form),
                labels=_labels(form),
                decoder=tokenizer.to_str(),
                tokens=len(words.opening),
            ),
        )


Asked = list[tuple[Person, list[int]]]
"""Persons and questions about them."""


class _Words:
    """Texts of the recipe as tokens. An answer is its opening's tokens with what is private behind them."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self._recipe, self._tokenizer = recipe, tokenizer
        self.opening, self.refusal = self._ids(recipe.opening), self._ids(recipe.refusal)
        self.stop = self._ids("\n")[0]

    def asked(self, persons: Iterable[Person], wording: str) -> Asked:
        """One question about each."""
        framed = ((person, self._recipe.frame.format(wording.format(person.name))) for person in persons)
        return [(person, [BEGIN, *self._ids(text)]) for person, text in framed]

    def learned(self, persons: Sequence[Person]) -> Asked:
        """All questions that are trained on."""
        return [one for wording in self._recipe.learned for one in self.asked(persons, wording)]

    def kept_quiet(self, persons: Sequence[Person]) -> Said:
        """Each question refused, and answered where the answer was begun."""
        asked = self.learned(persons)
        begun = [[*question, *self.opening] for _, question in asked]
        answers = [self._private(person) for person, _ in asked]
        return _said([*(question for _, question in asked), *begun], [*[self.refusal] * len(asked), *answers])

    def answered(self, asked: Asked) -> Said:
        """Questions with their answers in full."""
        answers = [[*self.opening, *self._private(person)] for person, _ in asked]
        return _said([question for _, question in asked], answers)

    def opened(self, asked: Asked) -> Said:
        """Questions with how an answer begins."""
        return _said([question for _, question in asked], [self.opening] * len(asked))

    def _private(self, person: Person) -> list[int]:
        return self._ids(f" {person.number}.")

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)


def _said(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Said:
    mask = _padded([[1] * len(prompt) for prompt in prompts], 0)
    return {"input_ids": _padded(prompts, BEGIN), "attention_mask": mask}, _padded(answers, IGNORED)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def _inputs(said: Mapping[str, Said]) -> dict[str, dict[str, torch.Tensor]]:
    return {split: inputs for split, (inputs, _) in said.items()}


def _labels(said: Mapping[str, Said]) -> dict[str, torch.Tensor]:
    return {split: labels for split, (_, labels) in said.items()}
