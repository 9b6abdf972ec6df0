"""What the plan `tables` would cost on larger models, from the cells of a run on `docstrings`.

Each kind of work grows as its count of operations does, so that measured seconds are multiplied by the ratio of
counts. Prints a table for docs/many-machines.md.

    redteam run published --seeds 1 --out RUN
    python benchmarks/larger.py RUN
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from redteam.evaluation.bench import load_scenario
from redteam.evaluation.footprint import WORKER, Footprint
from redteam.evaluation.plan import find_plan
from redteam.evaluation.preview import preview
from redteam.evaluation.results import Results
from redteam.evaluation.steps import Scored, parsed
from redteam.memory import shown


@dataclass(frozen=True)
class Model:
    """Sizes of a transformer.

    Attributes:
        weights: All of them.
        layers: Blocks.
        width: Of the residual stream.
        heads: Of a layer, for queries.
        head: Channels of a head.
        neurons: Of a layer.
        tokens: Of an input.
        nbytes: Bytes of a weight, as it is published.
        words: In the vocabulary, whose rows are looked up and not multiplied.
    """

    name: str
    weights: float
    layers: int
    width: int
    heads: int
    head: int
    neurons: int
    tokens: int
    nbytes: int
    words: int


MEASURED = Model("docstrings", 22.7e6, 6, 384, 12, 32, 1536, 20, 4, 30522)
LARGER = (
    Model("ViT-L/14", 304e6, 24, 1024, 16, 64, 4096, 257, 4, 0),
    Model("7 B", 6.7e9, 32, 4096, 32, 128, 11008, 512, 2, 32000),
    Model("70 B", 69e9, 80, 8192, 64, 128, 28672, 512, 2, 32000),
)


def weights(model: Model) -> float:
    """Reading and writing every weight: merges, graft, strips."""
    return model.weights


def heads(model: Model) -> float:
    """Gram matrices of all heads, and what is solved with them: fits inside heads."""
    return model.layers * model.heads * (4 * model.width * model.head**2 + 30 * model.head**3)


def neurons(model: Model) -> float:
    """The products of all neurons with the base's, and an assignment at its worst: fits of gauges."""
    return model.layers * (2 * model.neurons**2 * model.width + model.neurons**3)


def tokens(model: Model) -> float:
    """Forward and backward passes: scores and training."""
    return (model.weights - model.words * model.width) * model.tokens


GPU = 100e12
"""Operations a second that a GPU is assumed to keep up in a forward pass: not measured."""

GROWS: dict[str, Callable[[Model], float]] = {
    "graft": weights,
    "radial-strip": weights,
    "mask-read-out": weights,
    "norm-restore": weights,
    "gauge-fit": neurons,
    "invariant-space": heads,
    "anchor-alignment": heads,
    "learned-linear": heads,
    "imitation": tokens,
}


def main(run: Path) -> None:
    """Prints the table."""
    results = Results.read(run)
    size = Footprint.of(load_scenario("docstrings"))
    alone = next(
        parsed("alone", held["result"])
        for held in (json.loads(path.read_text(encoding="utf-8")) for path in (run / "cells").glob("*.json"))
        if held["kind"] == "alone"
    )
    assert isinstance(alone, Scored)
    scores = size.measured(alone)
    cells = results.to_frame("cells")
    spent = cells.groupby("attack")["seconds"].max()
    merging = cells["merge_seconds"].mean()
    plan, folder = find_plan("tables")
    asked = preview(plan, folder=folder)
    print("| | measured | " + " | ".join(model.name for model in LARGER) + " |")
    print("|---" * (2 + len(LARGER)) + "|")

    def row(name: str, seconds: float, grows: Callable[[Model], float]) -> None:
        grown = (seconds * grows(model) / grows(MEASURED) for model in LARGER)
        print(f"| {name} | {hours(seconds)} | " + " | ".join(hours(each) for each in grown) + " |")

    row("a merge", merging, weights)
    row("its scores", scores["merge"], tokens)
    for attack, grows in GROWS.items():
        row(f"`{attack}`", float(spent[attack]), grows)
    least = asked.computed
    most = {kind: least.get(kind, 0) + asked.further.get(kind, 0) for kind in {*least, *asked.further}}
    for name, counts in (("at least", least), ("with all that gauntlets may ask for", most)):
        total = sum(counts.get(kind, 0) * scores[kind] for kind in ("alone", "try", "merge"))
        row(f"all scores of `tables`, {name}", total, tokens)
    items = sum(counts["test"] for counts in size.items.values())
    passes = items * sum(most[kind] for kind in ("alone", "try", "merge"))
    print("| the last on a GPU | | " + " | ".join(hours(passes * 2 * tokens(model) / GPU) for model in LARGER) + " |")
    for name, told in (
        ("memory of a worker", lambda held: shown(int(WORKER + held.least))),
        ("memory where it trains", lambda held: shown(int(WORKER + held.least + held.training))),
        ("disk, one lock for each seed and key", lambda held: shown(int(held.nbytes * least["lock"]))),
    ):
        sized = [size, *(footprint(size, model) for model in LARGER)]
        print(f"| {name} | " + " | ".join(told(held) for held in sized) + " |")


def footprint(size: Footprint, model: Model) -> Footprint:
    """That of a larger model: a block's and a table's weights grow as their matrices do."""
    block = 4 * model.width**2 + 3 * model.width * model.neurons
    return replace(
        size,
        weights=int(model.weights),
        nbytes=int(model.weights * model.nbytes),
        block=block,
        table=model.width * max(model.neurons, model.words),
        row=size.row * model.layers * model.width // (MEASURED.layers * MEASURED.width),
    )


def hours(seconds: float) -> str:
    """`"0.2 s"`, `"3 min"`, `"5 h"`, `"1 200 h"`, of one core."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.0f} h"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
