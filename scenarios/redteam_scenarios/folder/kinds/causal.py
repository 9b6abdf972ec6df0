"""Multiple choice and generation: prompts for a causal language model, as tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from redteam.errors import BadInput
from redteam.tasks import Generation, MultipleChoice
from redteam.tasks.choices import IGNORED, MISSING, RIGHT, WRONG
from redteam_scenarios.folder.kinds.text import require_known, room_for
from redteam_scenarios.folder.models import tokenizer_of
from redteam_scenarios.folder.prepared import Parts
from redteam_scenarios.folder.source import Source
from redteam_scenarios.folder.tables import Row

_SHORTEST = 8  # tokens of a prompt that must be left where answers are long


def choices(source: Source) -> Parts:
    """Tokens of prompts, and of the choices behind each."""
    entry = source.entry
    named = (entry.choices,) if isinstance(entry.choices, str) else entry.choices
    rows = source.rows((entry.prompt, *named), (entry.answer,))
    writer, parts = _Writer(source), Parts()
    for split, held in rows.items():
        found = [told(source, row) for row in held]
        prompts = [str(row[entry.prompt]) for row in held]
        made = [[writer.behind(p, text) for text in texts] for p, (texts, _) in zip(prompts, found, strict=True)]
        width, most = max(len(ids) for row in made for ids in row), max(map(len, made))
        labels = torch.full((len(held), most, 1 + width), IGNORED)
        labels[..., 0] = MISSING
        for place, (ids, (_, right)) in enumerate(zip(made, found, strict=True)):
            for number, tokens in enumerate(ids):
                labels[place, number, 0] = RIGHT if number == right else WRONG
                labels[place, number, 1 : 1 + len(tokens)] = torch.tensor(tokens)
        parts[split] = (writer.prompts(prompts, width), labels)
    require_known(source, [labels[..., 1:] for _, labels in parts.values()])
    return parts


def chosen(source: Source, parts: Parts) -> MultipleChoice:
    """The task; guessing takes each choice as often as any other."""
    counts = (parts["test"][1][..., 0] != MISSING).sum(1)
    return MultipleChoice(
        source.name,
        float((1 / counts.double()).mean()),
        {split: inputs for split, (inputs, _) in parts.items()},
        {split: labels for split, (_, labels) in parts.items()},
    )


def answers(source: Source) -> Parts:
    """Tokens of prompts, and of the answer behind each."""
    entry = source.entry
    rows = source.rows((entry.prompt,), (entry.answer,))
    writer, parts = _Writer(source), Parts()
    for split, held in rows.items():
        made = [writer.behind(str(row[entry.prompt]), str(row[entry.answer])) for row in held]
        width = max(map(len, made))
        labels = torch.tensor([[*tokens, *[IGNORED] * (width - len(tokens))] for tokens in made])
        parts[split] = (writer.prompts([str(row[entry.prompt]) for row in held], max(width, entry.tokens or 0)), labels)
    require_known(source, [labels for _, labels in parts.values()])
    return parts


def generated(source: Source, parts: Parts) -> Generation:
    """The task; guessing is to write the commonest answer."""
    entry, tokenizer = source.entry, tokenizer_of(*source.homes)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BadInput(
            f"The tokenizer for {source.name!r} has no fast form, which makes text of tokens; save it again with "
            "transformers, so that there is a tokenizer.json."
        )
    try:
        re.compile(entry.pattern)
    except re.error as error:
        raise BadInput(
            f"tasks.{source.name}.pattern is no regular expression ({error}); expected for example '#### ([0-9]+)'."
        ) from None
    labels = {split: labels for split, (_, labels) in parts.items()}
    longest = max(int((held != IGNORED).sum(1).max()) for held in labels.values())
    common = Counter(map(tuple, labels["test"].tolist())).most_common(1)[0][1] / len(labels["test"])
    if common == 1:
        raise BadInput(
            f"Every test row of {source.name!r} has the same answer, so that nothing can be told; add others."
        )
    return Generation(
        source.name,
        common,
        {split: inputs for split, (inputs, _) in parts.items()},
        labels,
        decoder=backend.to_str(),
        tokens=entry.tokens or longest + 1,  # one more shows whether it ends there
        stops=_stops(source, tokenizer),
        pattern=entry.pattern,
    )


class _Writer:
    """Prompts and what stands behind them, as tokens."""

    def __init__(self, source: Source) -> None:
        self._source, self._tokenizer = source, tokenizer_of(*source.homes)
        self._room = room_for(source)
        self._pad = next(iter(_stops(source, self._tokenizer)), 0)
        self._start = self._before_a_text()

    def behind(self, prompt: str, text: str) -> list[int]:
        """The tokens that a text adds to a prompt, with a blank between them where neither has one."""
        before = self._ids(prompt)
        together = self._source.is_verbatim or prompt[-1:].isspace() or text[:1].isspace()
        apart = "" if together else " "
        return self._ids(prompt + apart + text)[len(before) :] or self._plain(text)

    def prompts(self, texts: Sequence[str], behind: int) -> dict[str, torch.Tensor]:
        """Prompts `[n, tokens]`, padded behind; of those that are too long, the end.

        Raises:
            BadInput: If what comes behind leaves no room.
        """
        room = self._room - behind
        if room < _SHORTEST:
            raise BadInput(
                f"The answers of {self._source.name!r} take {behind} tokens and the network reads {self._room}; "
                "shorten them, or read more (length)."
            )
        made = [self._ids(text)[-room:] for text in texts]
        width = max(map(len, made))
        ids = torch.tensor([[*row, *[self._pad] * (width - len(row))] for row in made])
        require_known(self._source, [ids])
        mask = torch.arange(width)[None] < torch.tensor([len(row) for row in made])[:, None]
        return {"input_ids": ids, "attention_mask": mask.long()}

    def _ids(self, text: str) -> list[int]:
        return [*self._start, *self._plain(text)]

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _before_a_text(self) -> list[int]:
        """What the tokenizer puts before a text; what it puts behind one would end a prompt."""
        whole, plain = list(self._tokenizer("a")["input_ids"]), self._plain("a")
        starts = (k for k in range(len(whole)) if whole[k : k + len(plain)] == plain)
        return whole[: next(starts, 0)]


def told(source: Source, row: Row) -> tuple[list[str], int]:
    """The texts of a row's choices, and the place of the right one.

    Raises:
        BadInput: If these are fewer than two, or the answer is none of them.
    """
    entry = source.entry
    found: Any = [row[name] for name in entry.choices] if not isinstance(entry.choices, str) else row[entry.choices]
    if isinstance(found, dict):  # as in ARC: {"text": […], "label": ["A", …]}
        texts, names = found.get("text"), [str(name) for name in found.get("label") or ()]
    else:
        texts, names = found, []
    if not isinstance(texts, list) or len(texts) < 2:
        raise BadInput(
            f"A row of {source.name!r} has {str(found)[:60]!r} for choices; expected a list of two or more, or columns "
            'choices = ["…", "…"].'
        )
    texts, answer = [str(text) for text in texts], str(row[entry.answer]).strip()
    letters = [chr(ord("A") + place) for place in range(len(texts))]
    for known in (names, [text.strip() for text in texts], letters, [str(place) for place in range(len(texts))]):
        if answer in known:
            return texts, known.index(answer)
    raise BadInput(
        f"A row of {source.name!r} has the answer {answer[:40]!r}, which is none of its {len(texts)} choices; expected "
        "a choice, its letter, or its place counted from 0."
    )


def _stops(source: Source, tokenizer: Any) -> tuple[int, ...]:
    found = source.expert.config.get("eos_token_id")
    listed = found if isinstance(found, list) else [found]
    return tuple(dict.fromkeys(t for t in (tokenizer.eos_token_id, *listed) if isinstance(t, int) and t >= 0))
