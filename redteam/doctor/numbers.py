"""What the numbers of models say of a merge: too large, no numbers, nothing learned, twins, lengths, rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median, median_high, median_low

from redteam.doctor.findings import Finding
from redteam.doctor.headers import some
from redteam.doctor.weighed import Weighed

LONGER = 5.0
"""How many times as long as the others' a task vector is when it drowns them: of the sum of two that have nothing in
common, the shorter one's direction is then a fifth."""
STANDS_OUT = 10.0
"""How many times as far from the base as the layers' median a layer is when it is said."""
_LAYERS = 4  # that moved, from which on a median says something
_LOST = 0.5  # share of the squared task vector that is lost to rounding


def alone(name: str, one: Weighed) -> Iterator[Finding]:
    """What is said of one model.

    Args:
        name: What it is called.
        one: Its task vector.
    """
    if one.refused:
        yield Finding(
            severity="stops",
            kind="not-finite",
            models=(name,),
            where=tuple(one.refused),
            told=next(iter(one.refused.values())),
            remedy="Fetch or train it again, or leave it out.",
        )
    if one.overflowing:
        yield Finding(
            severity="damages",
            kind="dtype",
            models=(name,),
            where=tuple(one.overflowing),
            told=f"The merge is stored as the base is, and of {name} {next(iter(one.overflowing.values()))}",
            remedy="Name a base stored in bfloat16 or float32, or look whether the numbers are meant to be as large.",
        )
    if one.apart and not any(one.size.values()) and any(one.apart.values()):
        yield Finding(
            severity="damages",
            kind="other-base",
            models=(name,),
            told=f"The base is zero in all {len(one.shared)} tensors that {name} shares with it, so that no distance "
            "to it says anything.",
            remedy="Fetch the base again: a network that was never filled with its weights looks like this.",
        )
    if one.is_base:
        yield Finding(
            severity="damages",
            kind="is-base",
            models=(name,),
            told=f"The expert {name} is the base: all {len(one.shared)} tensors that they share are the same, so it "
            "adds nothing and dilutes the others.",
            remedy="Leave it out, or name the fine-tuned model (a LoRA's own folder, if it was trained as one).",
        )
    elif one.rounded > _LOST * sum(one.apart.values()):
        yield Finding(
            severity="damages",
            kind="dtype",
            models=(name,),
            told=f"What {name} learned is smaller than what rounding it to the base's dtype changes ("
            f"{one.rounded / sum(one.apart.values()):.0%} of its squared task vector), so that little of it would be "
            "left.",
            remedy="Name a base that is stored in float32, as a folder that the base was saved to in that dtype.",
        )


def layers(name: str, one: Weighed) -> Iterator[Finding]:
    """Layers of a model that moved much further than its others, which often are another model's."""
    moved = {layer: far for layer, far in one.by_layer.items() if far}
    usual = median(moved.values()) if len(moved) >= _LAYERS else 0.0
    if usual and (out := [layer for layer, far in moved.items() if far >= STANDS_OUT * usual]):
        furthest = max(out, key=lambda layer: moved[layer])
        yield Finding(
            severity="note",
            kind="layer",
            models=(name,),
            where=tuple(out),
            told=f"Of {name}, {some(out)} moved further than its other layers: {moved[furthest]:.2g} of the base's "
            f"norm ({furthest}), where the middle one moved by {usual:.2g}.",
            remedy="If the layer was not meant to be trained anew, look at it with redteam audit.",
        )


def lengths(found: Mapping[str, Weighed]) -> Iterator[Finding]:
    """Task vectors that are much longer or shorter than the others'.

    Args:
        found: Models whose distance to the base is that of training.
    """
    held = {name: one.length for name, one in found.items() if one.length and not one.is_base}
    for name, length in held.items():
        others = [other for of, other in held.items() if other and of != name]
        if not others or not length:
            continue
        # Of two others the nearer one counts: beside a drowned and a drowning one, neither is out of scale.
        most, least = median_high(others), median_low(others)
        if length >= LONGER * most:
            yield Finding(
                severity="damages",
                kind="length",
                models=(name,),
                told=f"The task vector of {name} is {length / most:.0f} times as long as the others' "
                f"({length:.2g} of the base's norm, {most:.2g} theirs), so that it drowns them.",
                remedy=f"Give it less weight, as in redteam merge 'linear:weights=[[{name},{most / length:.2g}]]'.",
            )
        elif len(others) > 1 and length * LONGER <= least:
            yield Finding(
                severity="damages",
                kind="length",
                models=(name,),
                told=f"The task vector of {name} is {least / length:.0f} times as short as the others' "
                f"({length:.2g} of the base's norm, {least:.2g} theirs), so that they drown it.",
                remedy=f"Give it more weight, as in redteam merge 'linear:weights=[[{name},{least / length:.2g}]]'.",
            )


def twins(pairs: list[tuple[str, str]]) -> Iterator[Finding]:
    """Models that are another's copy."""
    for one, other in pairs:
        yield Finding(
            severity="damages",
            kind="copy",
            models=(one, other),
            told=f"The experts {one} and {other} have the same weights, so that these count twice.",
            remedy=f"Leave {other} out.",
        )
