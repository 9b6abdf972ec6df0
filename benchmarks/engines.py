"""Two workers over one, with processes of this machine and with Ray: how much faster, and whether the figures agree.

python benchmarks/engines.py
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from processes import spent

COMMAND = (Path(sys.executable).with_name("redteam"), "run", "quick", "--seeds", "4", "--keys", "3", "--quiet")
AIM = 1.7


def main() -> None:
    """Runs the same plan four times, each from nothing but the trained scenario."""
    ray = importlib.util.find_spec("ray") is not None
    if not ray:
        print("Ray is not installed (pip install 'merge-redteam[ray]'), so that only processes are timed.")
    if (cores := os.cpu_count() or 1) < 2:
        raise SystemExit(f"{cores} core; two workers need two.")
    found: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder, "trained"), 2, "--keys", "1")
        for engine in ("processes", "ray")[: 1 + ray]:
            more = () if engine == "processes" else ("--engine", engine)
            seconds = {}
            for workers in (1, 2):
                out = Path(folder, f"{engine}-{workers}")
                seconds[workers] = run(out, workers, *more)
                found.append(figures(out))
            ratio = seconds[1] / seconds[2]
            fixed = max(0.0, 2 * seconds[2] - seconds[1])  # what a second worker does not shorten
            print(
                f"{engine}: {seconds[1]:.1f} s, {seconds[2]:.1f} s with two workers: {ratio:.2f} (aim {AIM}); of these "
                f"{fixed:.0f} s to start and to end"
            )
    if any(other != found[0] for other in found[1:]):
        raise SystemExit("The figures are not the same.")
    print("the figures are the same each time")


def run(out: Path, workers: int, *more: str) -> float:
    """Wall seconds of a run."""
    return spent([*COMMAND, "--workers", str(workers), "--out", out, *more]).seconds


def figures(out: Path) -> Any:
    """Every score of a run, whatever the order in which its cells ended."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    names = ("defense", "attack", "merger", "seed", "key")
    return {tuple(cell[name] for name in names): cell["scores"] for cell in results["cells"]}


if __name__ == "__main__":
    main()
