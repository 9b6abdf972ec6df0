"""The texts of the tasks as tokens, in three splits that share no module and no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from redteam.errors import BadInput
from redteam_scenarios.docstrings.recipe import TASKS, Recipe
from redteam_scenarios.docstrings.texts import Text

Tokens = dict[str, torch.Tensor]
"""`task/split/input_ids` and `task/split/attention_mask`, int32 `[n, length]`; `task/split/labels`, int64 `[n]`."""
_STREAM = 1  # the other streams of a seed are in training.py


def split(recipe: Recipe, seed: int, texts: Mapping[str, Sequence[Text]]) -> dict[str, dict[str, list[Text]]]:
    """Task → split → texts, as many of each class, in an order drawn by the seed.

    A module (a file) is in one split, of all tasks alike; which one, the seed draws.

    Raises:
        BadInput: If there is a class that a split has no text of.
    """
    modules = sorted({each.module for of_task in texts.values() for each in of_task})
    order = np.random.default_rng([seed, _STREAM]).permutation(len(modules))
    ends = np.cumsum([round(share * len(modules)) for share in recipe.shares.values()])
    home = {
        modules[place]: [*recipe.shares][min(int(np.searchsorted(ends, rank, "right")), len(ends) - 1)]
        for rank, place in enumerate(order)
    }
    found: dict[str, dict[str, list[Text]]] = {}
    for number, task in enumerate(TASKS):
        draws = np.random.default_rng([seed, _STREAM, number])
        found[task] = {}
        for part in recipe.shares:
            here = [each for each in texts[task] if home[each.module] == part]
            found[task][part] = _balanced(here, task, part, recipe.count(task, part), draws)
    return found


def _balanced(here: Sequence[Text], task: str, part: str, count: int, draws: np.random.Generator) -> list[Text]:
    classes = TASKS[task].classes
    by_class = {label: [each for each in here if each.label == label] for label in classes}
    each_has = min(count // len(classes), *(len(of_class) for of_class in by_class.values()))
    if not each_has:
        least = min(classes, key=lambda label: len(by_class[label]))
        raise BadInput(f"The packages' docstrings have no text of the class {least!r} for {task}'s {part} split.")
    chosen = [of_class[i] for of_class in by_class.values() for i in draws.permutation(len(of_class))[:each_has]]
    return [chosen[i] for i in draws.permutation(len(chosen))]


def encoded(recipe: Recipe, folder: Path, parts: Mapping[str, Mapping[str, Sequence[Text]]]) -> Tokens:
    """The texts as a model's tokens; those of the test split by length, so that little of a batch is padding.

    Args:
        recipe: Says how long they may be.
        folder: The model's, with the `tokenizer.json` of a fast tokenizer.
        parts: Task → split → texts.

    Raises:
        BadInput: If there is no such tokenizer.
    """
    tokenizer, tokens = _tokenizer(folder, recipe.length), Tokens()
    for task, of_task in parts.items():
        for part, texts in of_task.items():
            found = tokenizer.encode_batch([each.text for each in texts])
            labels = [TASKS[task].classes.index(each.label) for each in texts]
            places = [*range(len(texts))]
            if part == "test":
                places.sort(key=lambda place: sum(found[place].attention_mask))
            name = f"{task}/{part}"
            masks = [found[place].attention_mask for place in places]
            tokens[f"{name}/input_ids"] = torch.tensor([found[place].ids for place in places], dtype=torch.int32)
            tokens[f"{name}/attention_mask"] = torch.tensor(masks, dtype=torch.int32)
            tokens[f"{name}/labels"] = torch.tensor([labels[place] for place in places])
    return tokens


def inputs(tokens: Tokens, task: str, part: str) -> Tokens:
    """What the network takes: int64 `[n, length]`."""
    return {name: tokens[f"{task}/{part}/{name}"].long() for name in ("input_ids", "attention_mask")}


def _tokenizer(folder: Path, length: int) -> Any:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare exceptions
        why = " ".join(str(error).split())[:120]
        raise BadInput(f"{file} cannot be read ({why}); expected the file of a fast tokenizer.") from None
    tokenizer.enable_truncation(length)
    paddings = [tokenizer.token_to_id(word) for word in ("[PAD]", "<pad>")]
    tokenizer.enable_padding(length=length, pad_id=next((found for found in paddings if found is not None), 0))
    return tokenizer
