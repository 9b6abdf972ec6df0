"""Checkpoints of one network: under names that agree, and whether one can descend from the other."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from redteam.anatomy.auto import anatomy_of, architecture_of
from redteam.checkpoint import Checkpoint, is_finite, shared_tensors
from redteam.checkpoint.configs import disagreements
from redteam.checkpoint.naming import frame_of, is_remnant
from redteam.checkpoint.parts import settings_of
from redteam.checkpoint.spelling import spelling
from redteam.checkpoint.vocabulary import vocabulary_sizes
from redteam.errors import BadInput


def named_alike(*checkpoints: Checkpoint) -> tuple[Checkpoint, ...]:
    """Checkpoints as they are where all have names that are known and agree, else under those of one network.

    That is the first one's, as transformers saves it; what is of another model type is named as its own network is.
    """
    names = _blocks(*checkpoints)
    alike = all(_blocks(one) == names and _tables(one) == _tables(checkpoints[0]) for one in checkpoints)
    if alike and all(_recognised(checkpoint) for checkpoint in checkpoints):
        return checkpoints
    first = frame_of(checkpoints[0])
    found = []
    for one in checkpoints:
        frame = first if one.architecture == checkpoints[0].architecture else frame_of(one)
        spelled = None if frame is None else spelling(one, frame)
        found.append(one if spelled is None else one.spelled(spelled))
    return tuple(found)


def _recognised(checkpoint: Checkpoint) -> bool:
    """Whether the description of its type finds its tensors under the names that they have."""
    try:
        described = architecture_of(checkpoint)[1]
    except BadInput:
        return True  # as far as anybody knows
    try:
        return described.recognises(checkpoint) > 0 and bool(anatomy_of(checkpoint).sites())
    except BadInput:
        return False


def _blocks(*checkpoints: Checkpoint) -> set[str]:
    """Names under a prefix that two numbers follow, as in `layers.0.…` and `layers.1.…`, but for remnants."""
    names = {name for one in checkpoints for name in one if not is_remnant(name, one.shape(name))}
    numbers: dict[str, set[str]] = {}
    found = {name: match for name in names if (match := re.match(r"(.*?)\.(\d+)\.", name))}
    for match in found.values():
        numbers.setdefault(match[1], set()).add(match[2])
    return {name for name, match in found.items() if len(numbers[match[1]]) > 1}


def _tables(checkpoint: Checkpoint) -> set[str]:
    """The tables of tokens of a checkpoint whose config ties them: either may be stored, or both."""
    sizes = vocabulary_sizes(checkpoint.config) if checkpoint.config.get("tie_word_embeddings") else set()
    return {name for name in checkpoint if len(checkpoint.shape(name)) == 2 and checkpoint.shape(name)[0] in sizes}


def require_related(
    model: Checkpoint, base: Checkpoint, what: str, *, shapes: bool = True, remedy: Callable[[], str] = str
) -> None:
    """Refuses two checkpoints of which one cannot have been fine-tuned from the other.

    Tensors outside the numbered blocks, such as a task's head or embeddings with added tokens, may differ.

    Args:
        model: What should descend from the base.
        base: The base.
        what: What the model is called in errors.
        shapes: Whether the tensors of the blocks must have the base's shapes.
        remedy: Asked for what would give the shapes back, where they differ; goes behind that sentence.

    Raises:
        BadInput: If the architectures differ, they share no tensor, or a block's tensors differ.
    """
    if model.architecture != base.architecture:
        found, expected = (c.architecture or "no architecture in a config" for c in (model, base))
        raise BadInput(f"{what} is of architecture {found}, its base of {expected}; expected the same, so check both.")
    blocks = _blocks(model, base)
    widened = blocks and not set(model).isdisjoint(base)  # a wider stream leaves no tensor its shape
    if not widened and not shared_tensors(model, base):
        raise BadInput(f"{what} shares no tensor of one name and shape with its base; check that they belong together.")
    for name in sorted(blocks if shapes else ()):
        here, there = (str(list(c.shape(name))) if name in c else "missing" for c in (model, base))
        if here != there:
            raise BadInput(
                f"{what} does not have its base's shape: {name!r} is {here}, in the base {there}; expected the same "
                f"network, so name its own base, or take a lock that widens it off first{remedy()}."
            )


def require_same_settings(model: Checkpoint, base: Checkpoint, what: str) -> None:
    """Refuses a model whose weights mean something else under the base's config, which a merge gets.

    Args:
        model: What is merged.
        base: The base, or a network that the model is a part of.
        what: What the model is called in errors.

    Raises:
        BadInput: If a setting that counts differs.
    """
    theirs = settings_of(base.config, model.architecture)
    if not (model.config and theirs):
        return
    if found := disagreements(model.config, theirs):
        told = "; ".join(f"{key} is {mine!r}, the base's {other!r}" for key, (mine, other) in found.items())
        raise BadInput(
            f"{what} computes something else with its weights than the base would ({told}); a merge has the "
            "base's config, so name an expert with the same settings, or correct its config.json."
        )


def finite(model: Checkpoint, base: Checkpoint, what: str) -> Checkpoint:
    """The model, whose tensors raise BadInput when they are read and hold NaN or infinity that the base has not."""

    def read(tensor: str) -> torch.Tensor:
        found = model[tensor]
        if is_finite(found) or (
            tensor in base
            and base.shape(tensor) == found.shape
            and bool((found.double() == base[tensor].double()).all())
        ):
            return found
        raise BadInput(f"{what} holds NaN or infinity in {tensor!r}; fetch or train it again.")

    return Checkpoint.computed(model.outline(), read, model.config, factors=model.factors)
