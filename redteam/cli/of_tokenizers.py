"""What `protect` and `attack` do where tokens get other numbers: the tokenizer's files say which, and are rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from redteam.errors import BadInput

if TYPE_CHECKING:
    from redteam.checkpoint import Checkpoint
    from redteam.cli.checkpoint_options import Layout
    from redteam.evaluation.resolve import Pipeline


def renumbers(chain: Pipeline | None) -> bool:
    """Whether a link of a chain gives tokens other numbers."""
    return chain is not None and chain.any(lambda spec: bool(getattr(spec, "renumbers", False)))


def as_they_are(model: Checkpoint, layout: Layout, what: str) -> Checkpoint:
    """A checkpoint that says of every token that can have another number that it has its own.

    Args:
        model: The checkpoint.
        layout: Where its files are.
        what: What is done to it, for a sentence.

    Raises:
        BadInput: If there is no tokenizer that can be rewritten.
    """
    import torch

    from redteam.checkpoint.numbering import numbers_of, tokens_named
    from redteam.checkpoint.safetensors_io import read_json
    from redteam.checkpoint.tensors import NUMBERS
    from redteam.checkpoint.tokenizer_files import movable_tokens

    folder = _folder(layout)
    free = set(movable_tokens(folder).values())
    if not free:
        raise BadInput(
            f"{what} renumbers tokens, and {folder} has no tokenizer.json that says which there are; expected one, as "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…) writes it."
        )
    # Nor those that configs name, whatever the tokenizer thinks of them: texts that are never to be written, say.
    free &= set(numbers_of(model)[0].tolist())
    if (generation := folder / "generation_config.json").is_file():
        free -= tokens_named(read_json(generation))
    return model.replace({NUMBERS: torch.tensor(sorted(free), dtype=torch.int64).expand(2, -1)})


def by_their_strings(model: Checkpoint, layout: Layout, base: Path, what: str) -> Checkpoint:
    """A checkpoint that says of every token which number it has by the base's tokenizer, and by its own.

    Where these agree, the base has none, or one has tokens under numbers that the other gives to none of its own, so
    that it is another tokenizer and not the base's renumbered, all have their own. A model without one is returned as
    it is.

    Args:
        model: The checkpoint.
        layout: Where its files are.
        base: The base's folder.
        what: What is done to it, for a sentence.
    """
    import torch

    from redteam.checkpoint.tensors import NUMBERS
    from redteam.checkpoint.tokenizer_files import movable_tokens

    mine, theirs = movable_tokens(_folder(layout)), movable_tokens(base)
    both = sorted(mine.keys() & theirs.keys(), key=theirs.__getitem__)
    numbers = torch.tensor([[theirs[token] for token in both], [mine[token] for token in both]], dtype=torch.int64)
    if torch.equal(*numbers) or not torch.equal(*numbers.sort(1).values):
        why = "number tokens alike" if both and torch.equal(*numbers) else "are not the same one under other numbers"
        typer.echo(f"Note: the tokenizers of {_folder(layout)} and {base} {why}.", err=True)
        return as_they_are(model, layout, what) if mine else model
    return model.replace({NUMBERS: numbers})


def told(before: Checkpoint, after: Checkpoint, layout: Layout) -> tuple[Checkpoint, dict[int, int], dict[str, str]]:
    """What is written of a checkpoint whose tokens have other numbers.

    Args:
        before: It, as its tokenizer's files number the tokens.
        after: It, as they are numbered now.
        layout: Where the files are.

    Returns:
        The weights alone; number in the files → the one that takes its place, where they differ; what the card says.
    """
    from redteam.checkpoint.tensors import NUMBERS

    moved: dict[int, int] = {}
    if NUMBERS in before or NUMBERS in after:
        here, there = (_by_token(one) for one in (before, after))
        moved = {
            here.get(token, token): there.get(token, token)
            for token in sorted(here.keys() | there.keys())
            if here.get(token, token) != there.get(token, token)
        }
    plain = after.only(name for name in after if name != NUMBERS)
    card = {"tokens": f"{len(moved)} have other numbers"} if moved else {}
    if moved and not (_folder(layout) / "tokenizer.json").is_file():
        return plain, {}, {"tokens": f"{len(moved)} are in other rows; there was no tokenizer.json to be renumbered"}
    return plain, moved, card


def sentences(card: dict[str, str]) -> list[str]:
    """For whoever ran the command."""
    return [f"Of the tokens {card['tokens']}."] if card else []


def _by_token(checkpoint: Checkpoint) -> dict[int, int]:
    from redteam.checkpoint.tensors import NUMBERS

    if NUMBERS not in checkpoint:
        return {}
    tokens, numbers = checkpoint[NUMBERS].tolist()
    return dict(zip(tokens, numbers, strict=True))


def _folder(layout: Layout) -> Path:
    """Whose tokenizer goes along."""
    places = [path for path in (layout["beside"], layout["like"]) if path is not None]
    places = [path if path.is_dir() else path.parent for path in places]
    return next((path for path in places if (path / "tokenizer.json").is_file()), places[-1])
