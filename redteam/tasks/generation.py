"""Generation: what a causal model writes behind a prompt, compared with the answer as text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from redteam.tasks.choices import IGNORED, continued
from redteam.tasks.samples import Samples
from redteam.tasks.task import Batch, Scores, Split, at_the_end, rows_at_once

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Generation(Samples):
    """Prompts behind which a causal language model writes the likeliest token after the other.

    Attributes:
        name: What the task is called.
        chance: The share of the commonest answer.
        inputs: Split → `input_ids` and `attention_mask` of the prompts, int64 `[n, tokens]`, padded behind.
        labels: Split → the answers' tokens, int64 `[n, tokens]`, padded behind with `IGNORED`.
        decoder: A tokenizer as its `tokenizer.json`, which makes text of tokens.
        tokens: How many are written at most.
        stops: Tokens that end what is written.
        pattern: A regular expression, whose first match in a text (its first group, if it has one) is compared; by
            default as many lines as the answer has, without the blanks around them.
    """

    decoder: str = field(default="", repr=False)
    tokens: int = 16
    stops: tuple[int, ...] = ()
    pattern: str = ""

    def scores(self, module: nn.Module, split: Split = "test") -> Scores:
        """Whether what is written is the answer, bool `[n]`."""
        made = written(module, self.inputs[split], self.tokens, self.stops)
        pairs = zip(self.texts(made), self.texts(self.labels[split]), strict=True)
        found: Scores = torch.tensor([agree(text, answer, self.pattern) for text, answer in pairs]).numpy()
        return found

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean cross-entropy of the answers' tokens, each with a stop behind it, given the prompts."""
        inputs, labels = batch
        given, targets = continued(inputs, self._stopped(labels))
        logits = module(**given).logits[:, :-1].float().transpose(1, 2)
        return torch.nn.functional.cross_entropy(logits, targets[:, 1:].to(logits.device), ignore_index=IGNORED)

    def texts(self, tokens: torch.Tensor) -> list[str]:
        """The texts of tokens `[n, tokens]`, up to their padding."""
        decoder = _tokenizer(self.decoder)
        return [str(decoder.decode([token for token in row if token != IGNORED])) for row in tokens.tolist()]

    def digest(self) -> str:
        """SHA-256 of the data and of how answers are compared, in hexadecimal."""
        rest = f"{super().digest()}\0{self.decoder}\0{self.tokens}\0{self.stops}\0{self.pattern}"
        return hashlib.sha256(rest.encode()).hexdigest()

    def _stopped(self, answers: torch.Tensor) -> torch.Tensor:
        if not self.stops:
            return answers
        room = torch.nn.functional.pad(answers, (0, 1), value=IGNORED)
        return room.scatter(1, (answers != IGNORED).sum(1, keepdim=True), self.stops[0])


def written(module: nn.Module, inputs: Mapping[str, torch.Tensor], count: int, stops: Sequence[int]) -> torch.Tensor:
    """What a network writes greedily, int64 `[n, count]`; `IGNORED` from a stop on, or a logit that is not finite.

    Every token is computed from the whole text before it, so that it depends neither on how prompts are padded nor on
    a cache.
    """
    prompts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    rows = rows_at_once(module, {"input_ids": torch.nn.functional.pad(prompts["input_ids"], (0, count))})
    starts = range(0, len(prompts["input_ids"]), rows)
    parts = ({name: held[start : start + rows] for name, held in prompts.items()} for start in starts)
    made = [_written(module, part, count, stops) for part in parts]
    return torch.cat(made)


def _written(module: nn.Module, inputs: Mapping[str, torch.Tensor], count: int, stops: Sequence[int]) -> torch.Tensor:
    made = inputs["input_ids"].new_full((len(inputs["input_ids"]), count), IGNORED)
    going = torch.arange(len(made), device=made.device)
    ends = torch.tensor(list(stops), dtype=torch.int64, device=made.device)
    with torch.inference_mode():
        for place in range(count):
            given, _ = continued({name: held[going] for name, held in inputs.items()}, made[going, :place])
            logits = at_the_end(module(**given).logits, given["attention_mask"])
            best, finite = logits.argmax(-1).to(made.device), logits.isfinite().all(-1).to(made.device)
            on = finite & ~torch.isin(best, ends)
            going = going[on]
            made[going, place] = best[on]
            if not len(going):
                break
    return made


def agree(text: str, answer: str, pattern: str = "") -> bool:
    """Whether a text says what an answer says.

    Args:
        text: What was written.
        answer: What should have been.
        pattern: As of `Generation`; an answer that it does not match is compared whole.
    """
    if not pattern:
        lines = answer.strip().splitlines()
        return [line.strip() for line in text.strip().splitlines()[: len(lines)]] == [line.strip() for line in lines]
    found, sought = re.search(pattern, text), re.search(pattern, answer)
    return found is not None and _matched(found) == (answer.strip() if sought is None else _matched(sought))


def _matched(match: re.Match[str]) -> str:
    return (match[1] if match.re.groups and match[1] is not None else match[0]).strip()


@lru_cache(maxsize=8)
def _tokenizer(text: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(text)
