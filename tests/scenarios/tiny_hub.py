"""Tiny repositories under the names that the shipped plans `clip-8` and `glue` fetch, in the same formats."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow import parquet
from redteam_scenarios.folder.schema import Plan
from safetensors.torch import load_file, save_file

from redteam.checkpoint import Checkpoint
from tests.scenarios import own_models, own_pictures

FILLER = own_models.FILLER
GLUE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "sst2": (("sentence",), ("negative", "positive")),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
}
"""Task → columns of text, and classes in the order of the data."""
SPLITS = {"train": 400, "validation": 300, "test": 100}
_TELLING = 4  # words that tell a class

CLASSES = ("blue", "green", "red")
_LONGEST = 16  # tokens of a text
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def of_glue(folder: Path) -> dict[str, Path]:
    """Name on the hub → folder: BERT as it is published, an expert for each task, and the data."""
    words, seen = _words(""), _words("x")  # what tells the classes to the experts, and what did to the base
    telling = (word for kind in (words, seen) for task in kind.values() for one in task for word in one)
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLER, *telling]
    config = {**own_models.CONFIG, "vocab_size": len(known), "hidden_size": 64, "intermediate_size": 128}
    rows = {
        (task, split): _sentences(task, words[task], count, number)
        for task in GLUE
        for number, (split, count) in enumerate(SPLITS.items())
    }
    made = {"nyu-mll/glue": folder / "glue"}
    for (task, split), held in rows.items():
        hidden = split == "test" and task != "mrpc"
        split = f"{split}_matched" if task == "mnli" and split != "train" else split
        labelled = [{**row, "label": -1} for row in held] if hidden else held
        _parquet(folder / "glue" / task / f"{split}-00000-of-00001.parquet", labelled, GLUE[task][1])
    inputs = {task: _tokens(rows[task, "train"], GLUE[task][0], known) for task in GLUE}
    labels = {task: torch.tensor([row["label"] for row in rows[task, "train"]]) for task in GLUE}
    starts = np.cumsum([0, *(len(classes) for _, classes in GLUE.values())])
    others = {task: _sentences(task, seen[task], SPLITS["train"], len(SPLITS)) for task in GLUE}
    shown = [_tokens(others[task], GLUE[task][0], known) for task in GLUE]
    together = {name: torch.cat([part[name] for part in shown]) for name in shown[0]}
    every = torch.tensor([row["label"] + int(k) for task, k in zip(GLUE, starts, strict=False) for row in others[task]])
    named = own_models.named(config, [str(n) for n in range(int(starts[-1]))])
    pretrained = own_models.fitted(named, None, together, every, 600, 2e-3)
    body = {name: tensor for name, tensor in pretrained.items() if not name.startswith("classifier")}
    made["google-bert/bert-base-uncased"] = base = folder / "bert"
    _as_in_2018(body, config, base)
    own_models.write_tokenizer(base, known)
    for (task, (_, classes)), start in zip(GLUE.items(), starts, strict=False):
        # What the base knows of the classes already is where the head starts, so that experts stay near.
        rows_of = slice(int(start), int(start) + len(classes))
        head = {name: pretrained[name][rows_of] for name in ("classifier.weight", "classifier.bias")}
        named = own_models.named(config, classes)
        expert = own_models.fitted(named, {**body, **head}, inputs[task], labels[task], 150, 1e-3)
        made[f"JeremiahZ/bert-base-uncased-{task}"] = place = folder / task
        expert.save(place)
        own_models.write_tokenizer(place, known)
    return made


def of_clip(folder: Path, plan: Plan) -> dict[str, Path]:
    """Name on the hub → folder: a CLIP, a fine-tuned vision tower for each task, and the data.

    Args:
        folder: Where they are written.
        plan: The scenario's file, which has the names.
    """
    import transformers

    used = sorted({word for task in plan.tasks for words in _prompts_of(plan, task) for word in words})
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *used]
    text = {**SMALL, "vocab_size": len(known), "max_position_embeddings": _LONGEST, "eos_token_id": 3}
    vision = {**SMALL, "image_size": 16, "patch_size": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        )
    data = {task: own_pictures.examples(task, len(CLASSES), 400, 0) for task in plan.tasks}
    seen = own_pictures.mixed([own_pictures.examples(f"other {task}", len(CLASSES), 400, 1) for task in plan.tasks])
    tokens = {task: _ids(_prompts_of(plan, task), known) for task in plan.tasks}
    _fit(clip, list(clip.parameters()), seen, torch.cat(list(tokens.values())), steps=120, rate=1e-3)
    made = {plan.base: folder / "clip"}
    clip.save_pretrained(folder / "clip")
    own_models.write_tokenizer(folder / "clip", known)
    own_models.write_image_processor(folder / "clip", 16)
    for task, entry in plan.tasks.items():
        expert = copy.deepcopy(clip)
        _fit(expert, list(expert.vision_model.parameters()), data[task], tokens[task], steps=150, rate=3e-4)
        tower = {f"vision_model.{name}": tensor for name, tensor in expert.vision_model.state_dict().items()}
        config = {**expert.vision_model.config.to_dict(), "architectures": ["CLIPVisionModel"]}
        made[entry.model] = folder / task
        Checkpoint.of(tower, config).save(folder / task)
        named, _, part = entry.data.partition(":")
        made[named] = folder / f"data-{task}"
        _pictures(made[named] / (part or "data"), task, data[task])
    return made


def _words(end: str) -> dict[str, list[list[str]]]:
    """Task → class → words that tell it."""
    return {
        task: [[f"{task}{n}{k}{end}" for k in range(_TELLING)] for n in range(len(classes))]
        for task, (_, classes) in GLUE.items()
    }


def _sentences(task: str, words: Sequence[Sequence[str]], count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with as many texts as the task has, words of the class in the last of them."""
    draws, made = np.random.default_rng([seed, *task.encode()]), []
    columns, classes = GLUE[task]
    for _ in range(count):
        label = int(draws.integers(len(classes)))
        texts = [[*draws.choice(FILLER, 4)] for _ in columns]
        texts[-1] = [*draws.permutation([*texts[-1], *draws.choice(words[label], _TELLING)])]
        made.append({**{c: " ".join(text) for c, text in zip(columns, texts, strict=True)}, "label": label})
    return made


def _tokens(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], known: Sequence[str]) -> dict[str, torch.Tensor]:
    places = {word: place for place, word in enumerate(known)}
    parts = [[[*(places[word] for word in row[column].split()), 3] for column in columns] for row in rows]
    ids = [[2, *(token for part in row for token in part)] for row in parts]
    kinds = [[0, *(n for n, part in enumerate(row) for _ in part)] for row in parts]
    made = [torch.tensor([[*row, *[0] * (_LONGEST - len(row))] for row in held]) for held in (ids, kinds)]
    return {"input_ids": made[0], "token_type_ids": made[1], "attention_mask": (made[0] != 0).long()}


def _as_in_2018(body: Mapping[str, torch.Tensor], config: Mapping[str, Any], folder: Path) -> None:
    """As the hub has BERT: norms with a gamma and a beta, under a head for masked tokens."""
    head = Checkpoint.of({}, {**config, "architectures": ["BertForMaskedLM"]}).fresh(0)
    whole = {**{name: head[name] for name in head if name.startswith("cls.")}, **body}
    Checkpoint.of(whole, {**config, "architectures": ["BertForMaskedLM"]}).save(folder)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(old, folder / "model.safetensors", {"format": "pt"})


def _prompts_of(plan: Plan, task: str) -> list[list[str]]:
    """The words of the first template, for each class."""
    texts = [plan.tasks[task].templates[0].replace("{}", name) for name in _names(task)]
    return [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts]


def _names(task: str) -> list[str]:
    return [f"{task} {name}" for name in CLASSES]


def _ids(prompts: Sequence[Sequence[str]], known: Sequence[str]) -> torch.Tensor:
    rows = [[2, *(known.index(word) for word in words), 3] for words in prompts]
    return torch.tensor([[*row, *[0] * (_LONGEST - len(row))] for row in rows])


def _fit(
    clip: Any, learned: list[Any], pictures: own_pictures.Pictures, tokens: torch.Tensor, *, steps: int, rate: float
) -> None:
    pixels = ((pictures[0] / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).contiguous()
    mask = (tokens != 0).long()
    own_pictures.fit(
        learned,
        lambda chosen: clip(input_ids=tokens, attention_mask=mask, pixel_values=pixels[chosen]).logits_per_image,
        pictures[1],
        steps=steps,
        rate=rate,
    )


def _pictures(folder: Path, task: str, pictures: own_pictures.Pictures) -> None:
    """Train and test, and what must not be read: the test pictures under a noise of their own."""
    from PIL import Image

    rows = []
    for pixels, label in zip(*pictures, strict=True):
        stream = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(stream, "PNG")
        rows.append({"image": {"bytes": stream.getvalue(), "path": None}, "label": int(label)})
    for split, held in (("train", rows[:150]), ("test", rows[150:]), ("contrast", rows[150:])):
        _parquet(folder / f"{split}-00000-of-00001.parquet", held, _names(task))


def _parquet(file: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    told = json.dumps({"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}).encode()
    table = pyarrow.Table.from_pylist([dict(row) for row in rows]).replace_schema_metadata({b"huggingface": told})
    parquet.write_table(table, file)
