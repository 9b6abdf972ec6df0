"""Tokenizers made on the spot, a base's vocabulary each, and folders of small networks that they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redteam.checkpoint import Checkpoint

KINDS = ("bpe", "wordpiece", "unigram")
SENTENCE = "the cat sat on the mat with a brown dog zzz"
_CORPUS = ["the cat sat on the mat", "a brown dog ate the cat food", "hello world of tokens with cats and mats"] * 20
_SIZE = 90


def tokenizer(kind: str) -> Any:
    """One with special tokens in front, a template that puts them around texts, and a token that was added behind."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    if kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.BPE(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=special, show_progress=False)
    made.train_from_iterator(_CORPUS, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    made.add_tokens(["zzz"])
    return made


def folder(place: Path, kind: str, network: str = "llama", *, size: float = 0.3) -> Path:
    """A network with its tokenizer, as transformers saves both, and rows to spare behind the last token."""
    from transformers import PreTrainedTokenizerFast

    config = {
        "model_type": network,
        "vocab_size": _SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **({"architectures": ["BertForMaskedLM"]} if network == "bert" else {"architectures": ["LlamaForCausalLM"]}),
    }
    fresh = Checkpoint.of({}, config).fresh(0)
    spread = {n: t * (size / 0.02) if t.ndim == 2 else t for n, t in fresh.items()}
    Checkpoint.of(spread, config).save(place)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(kind), pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    whole.save_pretrained(place)
    return place
