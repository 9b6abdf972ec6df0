"""What `protect` and `attack` cost on files of a real size, each in a process of its own: `make bench` runs it too.

Bfloat16 models of half a billion weights in shards, as ratios against a plain tensor-by-tensor copy in the same run.
Parts can be named: `python benchmarks/files.py rewrite`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from bench import Line
from models import FORMS, LAYERS, copied, made, made_form
from processes import Command, Cost, against, costs, plain, redteam, spent, tell


def rewriting(work: Path) -> Iterator[Line]:
    """A lock and a fit, against a copy, and with twice the layers."""
    runs: dict[int, dict[str, list[Cost]]] = {}
    for times in (1, 2):
        base = made(work / f"base{times}", times * LAYERS, 0)
        victim = made(work / f"victim{times}", times * LAYERS, 1, base)
        key, locked = work / f"key{times}", work / f"locked{times}"
        spent(redteam("protect", "mergelock", victim, "--key", key, "--out", locked, "--unproven"))
        commands: dict[str, Command] = {
            "copy": lambda out, one=victim: copied(one, out),  # type: ignore[misc]
            "protect mergelock": lambda out, one=victim, key=key: redteam(  # type: ignore[misc]
                "protect", "mergelock", one, "--key", key, "--out", out, "--unproven"
            ),
            "attack gauge-fit": lambda out, one=locked, base=base: redteam(  # type: ignore[misc]
                "attack", "gauge-fit", one, "--base", base, "--out", out, "--unproven"
            ),
        }
        runs[times] = dict(costs(commands, work))
    once, twice = runs[1], runs[2]
    for name in once:
        yield from plain(name, once[name], None if name == "copy" else 1.5)
    for name in ("protect mergelock", "attack gauge-fit"):
        ratios = [one.seconds / other.seconds for one, other in zip(once[name], once["copy"], strict=True)]
        yield Line(f"{name} ÷ copy: time", statistics.median(ratios), (min(ratios), max(ratios)), 4.0)
        yield from against(f"{name}, twice the layers ÷ once", twice[name], once[name], 2.2, 1.05)


def forms(work: Path) -> Iterator[Line]:
    """A lock, a fit and a merge of what is stored otherwise than a Llama, against a copy."""
    for name in FORMS:
        base, victim, key, locked = (work / f"{one}-{name.split()[0]}" for one in ("base", "victim", "key", "locked"))
        made_form(victim, name, 1, made_form(base, name))
        spent(redteam("protect", "mergelock", victim, "--key", key, "--out", locked, "--unproven"))
        commands: dict[str, Command] = {
            "copy": lambda out, one=victim: copied(one, out),  # type: ignore[misc]
            "protect mergelock": lambda out, one=victim, key=key: redteam(  # type: ignore[misc]
                "protect", "mergelock", one, "--key", key, "--out", out, "--unproven"
            ),
            "protect mergelock, with its proof": lambda out, one=victim, key=key: redteam(  # type: ignore[misc]
                "protect", "mergelock", one, "--key", key, "--out", out
            ),
            "attack gauge-fit": lambda out, one=locked, base=base: redteam(  # type: ignore[misc]
                "attack", "gauge-fit", one, "--base", base, "--out", out, "--unproven"
            ),
            "attack gauge-fit, with its proof": lambda out, one=locked, base=base: redteam(  # type: ignore[misc]
                "attack", "gauge-fit", one, "--base", base, "--out", out
            ),
            "merge task-arithmetic": lambda out, one=victim, base=base: redteam(  # type: ignore[misc]
                "merge", "task-arithmetic", "--base", base, "--expert", one, "--out", out
            ),
        }
        beside: list[Cost] = []
        for what, found in costs(commands, work):
            yield from plain(f"{name}: {what}", found, None if what == "copy" else 1.5)
            beside = beside or found
            if what != "copy":
                ratios = [one.seconds / other.seconds for one, other in zip(found, beside, strict=True)]
                yield Line(f"{name}: {what} ÷ copy: time", statistics.median(ratios), (min(ratios), max(ratios)))


if __name__ == "__main__":
    tell({"rewrite": rewriting, "forms": forms})
