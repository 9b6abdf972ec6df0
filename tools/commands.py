"""Takes every type of the catalogue through the shell, as a user does, and writes beside its proof what came of it.

python tools/commands.py TYPE…   (all without TYPE)
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from redteam.anatomy import find_sites
from redteam.anatomy.catalog import ARCHITECTURES, FOLDER
from redteam.checkpoint import Checkpoint
from redteam.errors import RedteamError
from redteam.terminal import say
from tools.catalogue import trial_of

PERMUTED = ("mlp", "channels", "experts")  # what is locked where there are no heads
TRAINED = 0.01  # how far every weight of the victim lies from the base's, as one standard deviation


def through_the_shell(name: str, folder: Path) -> dict[str, Any]:
    """What `protect`, `attack`, `audit` and `merge` make of a small random network of a type, in float64.

    Returns:
        lock: What was put on: MergeLock where there are heads, else an order of whatever can be reordered.
        protect: Relative change of the outputs between the model and the locked one.
        attack: The same between the locked model and what `gauge-fit` makes of it.
        nearness: How far that is from the base, as a share of what the model was before it was locked: 1 or less where
            all of the lock came off.
        audit: How many of the locked sites `audit` calls locked, how many there are, and how many others it calls so.
        merge: Relative change between the model and its task vector added to the base whole.

    Raises:
        SystemExit: If a command fails, with what it said.
    """
    trial = trial_of(name)
    trial, base = replace(trial, states=not ARCHITECTURES.data(name).get("logits_alone")), trial.checkpoint
    draws = torch.Generator().manual_seed(1)
    floats = {key: tensor for key, tensor in base.items() if tensor.is_floating_point()}
    victim = {k: t + TRAINED * torch.randn(t.shape, generator=draws, dtype=t.dtype) for k, t in floats.items()}
    base.save(folder / "base")
    base.replace(victim).save(folder / "victim")
    kinds = {site.kind for site in find_sites(ARCHITECTURES[name], base).places}
    whole = {"qk", "vo"} <= kinds
    moved = {"qk", "vo"} if whole else {next(kind for kind in PERMUTED if kind in kinds)}
    lock = "mergelock" if whole else f"permutation:sites=[{', '.join(moved)}]"
    at_base = ("--base", folder / "base")
    _shell("protect", lock, folder / "victim", "--key", folder / "key", "--out", folder / "locked")
    _shell("attack", "gauge-fit", folder / "locked", *at_base, "--out", folder / "fitted")
    _shell("audit", folder / "locked", *at_base, "--report", folder / "audit.json")
    added = "task-arithmetic:coefficient=1.0"
    _shell("merge", added, *at_base, "--expert", folder / "victim", "--out", folder / "merged")
    sites = json.loads((folder / "audit.json").read_text())["sites"]
    locked = [site["kind"] in moved for site in sites if site["state"] == "locked"]
    opened = {one: Checkpoint.open(folder / one) for one in ("base", "victim", "locked", "fitted", "merged")}
    victims, lockeds = (replace(trial, checkpoint=opened[one]) for one in ("victim", "locked"))
    return {
        "lock": lock,
        "protect": victims.change(opened["locked"]),
        "attack": lockeds.change(opened["fitted"]),
        "nearness": _apart(opened["fitted"], opened["base"]) / _apart(opened["victim"], opened["base"]),
        "audit": [sum(locked), sum(site["kind"] in moved for site in sites), len(locked) - sum(locked)],
        "merge": victims.change(opened["merged"]),
    }


def _apart(one: Checkpoint, other: Checkpoint) -> float:
    return math.sqrt(sum(float((one[name] - other[name]).double().square().sum()) for name in other))


def _shell(*words: str | Path) -> None:
    from redteam.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(word) for word in words])
    except SystemExit as left:
        code = left.code
    if code not in (0, None) and words[0] != "audit":
        raise SystemExit(f"redteam {' '.join(map(str, words))} failed:\n{err.getvalue()}")


def main(names: list[str]) -> int:
    """Writes what came of it into the files of the catalogue, and says a line for each type."""
    torch.set_num_threads(1)
    failed = 0
    for name in names or sorted(file.stem for file in FOLDER.glob("*.json")):
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = through_the_shell(name, Path(folder))
        except (RedteamError, SystemExit) as error:
            say(f"{name}: {error}")
            failed += 1
            continue
        data = {**ARCHITECTURES.data(name), "commands": found}
        (FOLDER / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        told = (f"{key} {value:.1e}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items())
        say(f"{name}: {', '.join(told)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
