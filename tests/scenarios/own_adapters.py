"""What a team with adapters has, small: a Llama, two adapters of it that PEFT saved, documents in JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

_LAW = """
appeal bail breach claim clause contract counsel court damages defendant evidence judge jury liability motion oath
order party plaintiff ruling statute tort verdict writ
"""
_CODE = """
array assert branch buffer class cursor field float index integer iterator lambda loop method module object pointer
queue return stack string tuple value yield
"""
WORDS = {"law": _LAW.split(), "code": _CODE.split()}
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
VOCABULARY = [*SPECIAL, *WORDS["law"], *WORDS["code"]]
_LENGTH = 24  # words of a document
_NEXT = 2  # words that may follow one, where the documents have an order
SIZES = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": len(VOCABULARY), "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def documents(task: str, count: int, seed: int, *, order: float = 1.0) -> list[str]:
    """Documents of a field's words, each of which is followed by one of two; at a share of the places by any."""
    words = WORDS[task]
    followers = np.random.default_rng([*task.encode()]).integers(len(words), size=(len(words), _NEXT))
    draws = np.random.default_rng([seed, *task.encode()])
    made = []
    for _ in range(count):
        places = [int(draws.integers(len(words)))]
        while len(places) < _LENGTH:
            known = draws.random() < order
            places.append(int(draws.choice(followers[places[-1]] if known else np.arange(len(words)))))
        made.append(" ".join(words[place] for place in places))
    return made


def make(folder: Path, *, count: int = 600) -> Path:
    """`llama`, an adapter and documents for each task.

    Returns:
        The folder.
    """
    import peft
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save_pretrained(folder / "llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
        # It knows the words of both fields, and little of what follows what.
        _fit(base, [text for task in WORDS for text in documents(task, count, 1, order=0.5)], steps=600, rate=3e-3)
        base.save_pretrained(folder / "llama")
        for task in WORDS:
            texts = documents(task, count, 0)
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            (folder / f"{task}.jsonl").write_text(lines, encoding="utf-8")
            settings = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
            adapted = peft.get_peft_model(
                transformers.AutoModelForCausalLM.from_pretrained(folder / "llama", local_files_only=True), settings
            )
            _fit(adapted, texts, steps=100, rate=1e-3)
            adapted.save_pretrained(folder / f"{task}-adapter")
    return folder


def tokenizer() -> Any:
    """A tokenizer that cuts at blanks."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    by_word = Tokenizer(models.WordLevel({word: n for n, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    by_word.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=by_word, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _fit(network: Any, texts: list[str], *, steps: int, rate: float) -> None:
    known = {word: place for place, word in enumerate(VOCABULARY)}
    tokens = torch.tensor([[known[word] for word in text.split()] for text in texts])
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0)
    draws = torch.Generator().manual_seed(0)
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 10) * (1 - step / steps)
        chosen = tokens[torch.randint(len(tokens), (32,), generator=draws)]
        optimizer.zero_grad()
        network(input_ids=chosen, labels=chosen).loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
    network.eval()
