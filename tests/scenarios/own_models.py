"""Models and data as a team has them, small: a base, fine-tunes that transformers wrote, tables of labelled text."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from redteam.checkpoint import Checkpoint
from redteam.training import Budget, endless, train

FILLER = [f"word{number}" for number in range(40)]
TASKS: dict[str, dict[str, list[str]]] = {
    "support": {
        "refund": ["money", "back", "charged", "invoice"],
        "bug": ["crash", "error", "broken", "freeze"],
        "praise": ["love", "great", "thanks", "superb"],
    },
    "weather": {"rain": ["wet", "drizzle", "umbrella", "puddle"], "sun": ["bright", "warm", "beach", "shade"]},
    "sport": {"ball": ["goal", "kick", "net", "pass"], "water": ["swim", "dive", "lane", "stroke"]},
}
"""Task → label → words that tell it."""

VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLER,
    *(word for labels in TASKS.values() for words in labels.values() for word in words),
]  # fmt: skip
CONFIG: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
Example = tuple[str, str]


def examples(task: str, count: int, seed: int) -> list[Example]:
    """Texts of filler with two of the label's words."""
    draws = np.random.default_rng([seed, *task.encode()])
    labels, made = list(TASKS[task]), []
    for _ in range(count):
        label = draws.choice(labels)
        words = [*draws.choice(FILLER, 6), *draws.choice(TASKS[task][label], 2)]
        made.append((" ".join(draws.permutation(words)), str(label)))
    return made


def write_csv(path: Path, rows: Sequence[Example], header: Sequence[str] = ("text", "label")) -> None:
    """A table with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_tokenizer(folder: Path, vocabulary: Sequence[str] = VOCABULARY) -> None:
    """The files of a word-level tokenizer, as transformers writes a BERT's."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)


def write_image_processor(folder: Path, side: int) -> None:
    """Makes pixels as a CLIP of pictures of so many pixels a side takes them."""
    processor = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": side},
        "do_center_crop": True, "crop_size": {"height": side, "width": side}, "do_normalize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True, "rescale_factor": 1 / 255,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")


def make(folder: Path, *, rows: int = 600) -> Path:
    """`base`, an expert and a table for each task, and the tokenizer beside the base.

    Returns:
        The folder.
    """
    known = {word: place for place, word in enumerate(VOCABULARY)}
    data = {task: examples(task, rows, 0) for task in TASKS}
    inputs, labels = {}, {}
    for task, made in data.items():
        ids = [[2, *(known[word] for word in text.split()), 3] for text, _ in made]
        tokens = torch.tensor(ids)
        inputs[task] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        labels[task] = torch.tensor([list(TASKS[task]).index(label) for _, label in made])
        write_csv(folder / f"{task}.csv", made)
    # It has seen all words, and what goes with what, in other texts: as a public model has.
    mixed = {name: torch.cat([part[name] for part in inputs.values()]) for name in ("input_ids", "attention_mask")}
    every = torch.cat([labels[task] + start for task, start in zip(TASKS, (0, 3, 5), strict=True)])
    pretrained = fitted(named(CONFIG, [str(n) for n in range(7)]), None, mixed, every, 200, 5e-4)
    body = {name: tensor for name, tensor in pretrained.items() if not name.startswith("classifier")}
    Checkpoint.of(body, {**CONFIG, "architectures": ["BertModel"]}).save(folder / "base")
    write_tokenizer(folder / "base")
    for task in TASKS:
        config = named(CONFIG, list(TASKS[task]))
        expert = fitted(config, body, inputs[task], labels[task], 100, 5e-4)
        expert.save(folder / task)
    return folder


def named(config: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A config with classes."""
    names = {str(place): label for place, label in enumerate(labels)}
    return {**config, "id2label": names, "label2id": {label: int(place) for place, label in names.items()}}


def fitted(
    config: dict[str, Any], body: dict[str, Any] | None, inputs: Any, labels: torch.Tensor, steps: int, rate: float
) -> Checkpoint:
    """A network after training: all of it, or the body that is given, under a head that stays as it was drawn.

    A head that learned would need little of the body on words that the base tells apart, so that a merge without the
    victim might do as well as one with it.
    """
    start = Checkpoint.of({}, config).fresh(0)
    if body is not None:
        start = start.replace(body)
    draws = np.random.default_rng(0)
    batches = endless((inputs, labels), 64, draws)

    def loss(module: Any, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(module(**batch[0]).logits, batch[1])

    names = tuple(start if body is None else body)
    return train(start, start, Budget(steps, rate, 64, 1e-8), batches=batches, loss=loss, generator=draws, names=names)


def write_scenario(folder: Path, **changes: str) -> Path:
    """A file of nine lines."""
    lines = ['base = "base"', 'victim = "support"']
    for task in TASKS:
        lines += [f"[tasks.{task}]", f'model = "{task}"', f"data = {json.dumps(f'{task}.csv')}"]
    file = folder / "mine.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
