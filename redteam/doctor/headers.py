"""What configs, names, shapes and dtypes say of a merge, before its numbers are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from redteam.anatomy.alike import require_related, require_same_settings
from redteam.checkpoint import Checkpoint, own_tensors
from redteam.checkpoint.configs import disagreements
from redteam.checkpoint.lazy import usual_dtype
from redteam.checkpoint.naming import is_remnant
from redteam.checkpoint.parts import in_place, part_of, settings_of
from redteam.checkpoint.tied import is_a_copy, tied_twins
from redteam.checkpoint.vocabulary import as_long_as, token_rows, vocabulary_sizes
from redteam.doctor.findings import Finding
from redteam.errors import BadInput


def headers(name: str, model: Checkpoint, base: Checkpoint, *, restoring: Callable[[], str]) -> Iterator[Finding]:
    """Everything that stops, damages or changes the merge of one model and can be told without its numbers.

    Args:
        name: What the model is called.
        model: As it was opened, under names that agree with the base's.
        base: The public base.
        restoring: As of `require_related`.
    """
    long = as_long_as(model, base)
    there = part_of(base, long)
    try:
        require_related(long, there, f"The expert {name}", remedy=restoring)
    except BadInput as error:
        yield Finding(
            severity="stops",
            kind="unrelated",
            models=(name,),
            told=str(error),
            remedy="Leave it out, or merge it over the base that it was fine-tuned from.",
        )
        return
    try:
        require_same_settings(model, base, f"The expert {name}")
    except BadInput as error:
        yield Finding(
            severity="stops",
            kind="config",
            models=(name,),
            where=tuple(disagreements(model.config, settings_of(base.config, model.architecture))),
            told=str(error),
            remedy="If its weights were trained under these settings, leave it out; if not, correct its config.json.",
        )
    yield from _vocabulary(name, model, base)
    yield from _own(name, in_place(long, base), base)
    yield from _missing(name, long, there)
    mine, theirs = usual_dtype(model), usual_dtype(base)
    if mine is not None and theirs is not None and mine != theirs:
        yield Finding(
            severity="note",
            kind="dtype",
            models=(name,),
            told=f"The expert {name} is stored in {_dtype(mine)}, the base in {_dtype(theirs)}; the merge is computed "
            f"in float64 and rounded to {_dtype(theirs)} once.",
            remedy="Nothing has to be done; name a base stored in another dtype if the merge should have that.",
        )


def missing_from(model: Checkpoint, base: Checkpoint) -> tuple[str, ...]:
    """Tensors that the base alone has, but for remnants and for a tied head that only one of the two stores."""
    twins = tied_twins(base, [model])
    return tuple(n for n in base if n not in model and n not in twins and not is_remnant(n, base.shape(n)))


def _vocabulary(name: str, model: Checkpoint, base: Checkpoint) -> Iterator[Finding]:
    rows = token_rows(model, base)
    longer = [n for n in rows if model.shape(n)[0] > rows[n]]
    told = " and ".join(f"{n} has {model.shape(n)[0]} rows, the base's {base.shape(n)[0]}" for n in rows)
    if not rows:
        return
    if not longer:
        yield Finding(
            severity="note",
            kind="vocabulary",
            models=(name,),
            where=tuple(rows),
            told=f"Of {name}, {told}; the rows that it lacks are taken from the base.",
            remedy="Nothing has to be done if the base's last rows are padding; else name a model with all tokens.",
        )
    elif all(_is_padding(model[n][rows[n] :]) for n in longer):
        yield Finding(
            severity="note",
            kind="vocabulary",
            models=(name,),
            where=tuple(rows),
            told=f"Of {name}, {told}; the rows more are padding (one and the same row) and are not merged.",
            remedy="Nothing has to be done: the merge has the base's number of rows.",
        )
    else:
        yield Finding(
            severity="damages",
            kind="vocabulary",
            models=(name,),
            where=tuple(rows),
            told=f"Of {name}, {told}; the tokens that were added are lost, since a merge has the base's rows.",
            remedy="Give the merge the base's tokenizer, or add the same tokens to the base and merge over that.",
        )


def _own(name: str, model: Checkpoint, base: Checkpoint) -> Iterator[Finding]:
    own = [n for n in own_tensors(model, base) if not is_remnant(n, model.shape(n)) and not is_a_copy(n, model, base)]
    sizes = vocabulary_sizes(model.config)
    heads = [n for n in own if len(model.shape(n)) == 2 and model.shape(n)[0] in sizes and n not in base]
    if heads:
        yield Finding(
            severity="damages",
            kind="head",
            models=(name,),
            where=tuple(heads),
            told=f"The expert {name} has an output head of its own ({some(heads)}), where the base's is its embedding; "
            "the head is left out of the merge, which answers through the embedding.",
            remedy="Merge over a base that stores its head (tie_word_embeddings false), or train with the head tied.",
        )
    if rest := [n for n in own if n not in heads]:
        yield Finding(
            severity="note",
            kind="own",
            models=(name,),
            where=tuple(rest),
            told=f"Not merged of {name}, since the base lacks them in this shape: {some(rest)}.",
            remedy="Nothing has to be done for heads of tasks: run the merge under the head of each task's own expert.",
        )


def _missing(name: str, model: Checkpoint, base: Checkpoint) -> Iterator[Finding]:
    if left := missing_from(model, base):
        yield Finding(
            severity="note",
            kind="missing",
            models=(name,),
            where=left,
            told=f"The base alone has {some(left)}; where no other expert has them, the merge has the base's.",
            remedy=f"Nothing has to be done if {name} was saved without its head; else fetch the whole model.",
        )


def some(names: Iterable[str], told: int = 8) -> str:
    """The first names, and how many more there are."""
    found = list(names)
    return ", ".join(found[:told]) + (f" and {len(found) - told} more" if len(found) > told else "")


def some_rows(rows: Mapping[str, int]) -> str:
    """How many rows of each tensor are merged."""
    return " and ".join(f"the first {count} rows of {name}" for name, count in rows.items())


def _is_padding(rows: torch.Tensor) -> bool:
    return bool((rows == rows[:1]).all())


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
