"""How fast and how close, as ratios against a peer or a limit in the same run: `make bench`.

Times are medians of interleaved repetitions with their range, on one thread, so that what else the machine does weighs
on all alike. Nothing here fails a build: figures are reported as they are.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

HEADS, WIDTH, COLUMNS = 144, 64, 769  # twelve layers of twelve heads, as in ViT-B, a bias as one more column
REPEATS = 7


@dataclass(frozen=True)
class Line:
    """One figure; `limit` is what it should stay under, or over where `over` is true."""

    what: str
    figure: float
    spread: tuple[float, float] | None = None
    limit: float | None = None
    over: bool = False

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" [{self.spread[0]:.2f}, {self.spread[1]:.2f}]"
        if self.limit is None:
            return f"{self.what:<86} {self.figure:8.3f}{spread}"
        met = self.figure >= self.limit if self.over else self.figure <= self.limit
        sign = "at least" if self.over else "at most"
        return f"{self.what:<86} {self.figure:8.3f}{spread}  {sign} {self.limit:g}: {'met' if met else 'NOT MET'}"


def ratio(
    mine: Callable[[], object], peer: Callable[[], object], repeats: int = REPEATS, *, warm: bool = True
) -> tuple[float, float, float]:
    """Median, least and greatest of the ratios of times, of pairs run one after the other, once before to warm up."""
    if warm:
        mine(), peer()
    ratios = []
    for index in range(repeats):
        first, second = (mine, peer) if index % 2 else (peer, mine)
        times = {run: _timed(run) for run in (first, second)}
        ratios.append(times[mine] / times[peer])
    return statistics.median(ratios), min(ratios), max(ratios)


def fits() -> Iterator[Line]:
    """The batched tied fit against the same one looped over heads, and against untied alignment."""
    import numpy as np
    import torch
    from redteam_attacks.untied import least_squares

    from redteam.symmetry import GeneralLinear, Stacks
    from redteam.symmetry.solvers import general_linear

    torch.set_num_threads(1)
    draws = np.random.default_rng(0)

    def normal(scale: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(draws.standard_normal((HEADS, WIDTH, COLUMNS))) * scale

    anchor = Stacks(normal(), normal())
    for share in (0.01, 0.05, 0.2):
        victim = Stacks(anchor.left + normal(share), anchor.right + normal(share))
        locked = victim.moved(GeneralLinear().sample(HEADS, WIDTH, draws))
        four = (locked.left, locked.right, anchor.left, anchor.right)

        def tied(four: tuple[torch.Tensor, ...] = four) -> torch.Tensor:
            return general_linear(*four).matrix

        def looped(four: tuple[torch.Tensor, ...] = four) -> None:
            for head in range(HEADS):
                general_linear(*(stack[head : head + 1] for stack in four))

        def untied(locked: Stacks = locked) -> tuple[torch.Tensor, torch.Tensor]:
            return least_squares(locked.left, anchor.left), least_squares(locked.right, anchor.right)

        def by_grams(locked: Stacks = locked) -> tuple[torch.Tensor, ...]:
            pairs = ((locked.left, anchor.left), (locked.right, anchor.right))
            return tuple(torch.linalg.solve(x @ x.mT, y @ x.mT, left=False) for x, y in pairs)

        case = f"{HEADS} heads of {WIDTH} × {COLUMNS}, ‖τ‖ = {share:g} ‖W‖"
        if share == 0.05:
            median, low, high = ratio(looped, tied, 3)
            yield Line(f"tied fit, looped ÷ batched: time, {case}", median, (low, high))
        median, low, high = ratio(tied, untied)
        yield Line(
            f"tied fit ÷ untied alignment (pseudo-inverse, as published): time, {case}", median, (low, high), 2.0
        )
        median, low, high = ratio(tied, by_grams)
        yield Line(f"tied fit ÷ untied alignment by normal equations: time, {case}", median, (low, high), 2.0)

        found = locked.moved(_dense(tied()))
        apart = Stacks(*(p @ x for p, x in zip(untied(), (locked.left, locked.right), strict=True)))
        size = victim.distance(anchor) ** 0.5
        yield Line(
            f"closeness, tied: ‖recovered − victim‖ ÷ ‖τ‖, isotropic, {case}", found.distance(victim) ** 0.5 / size
        )
        yield Line(f"closeness, untied: the same, isotropic, {case}", apart.distance(victim) ** 0.5 / size)


def encoder() -> Iterator[Line]:
    """Closeness on real task vectors, those of the scenario `digits`, and on isotropic ones of the same norms."""
    import numpy as np
    import torch
    from redteam_attacks.untied import align_untied

    from redteam import DefenderView, Key
    from redteam.plugins.registry import SCENARIOS
    from redteam.symmetry import GeneralLinear, fit_gauges

    torch.set_num_threads(1)
    scenario = SCENARIOS.load("digits")()
    base = scenario.base
    draws = np.random.default_rng(0)
    for task, expert in scenario.experts.items():
        shared = {name: expert[name] for name in expert if name in base and base.shape(name) == expert.shape(name)}
        noise = {
            name: torch.from_numpy(np.asarray(draws.standard_normal(tuple(t.shape)))) for name, t in shared.items()
        }
        twin = {
            name: (base[name] + (tensor - base[name]).norm() * noise[name] / noise[name].norm()).float()
            for name, tensor in shared.items()
        }
        for kind, victim in (("real", expert), ("isotropic", expert.replace(twin))):
            victim = victim.to(torch.float64)
            locked = DefenderView(victim, base, Key(bytes(32))).lock(("qk", "vo"), GeneralLinear())
            for name, fit in (("tied", _tied(fit_gauges)), ("untied", align_untied)):
                residual = _residual(fit(locked, base, ("qk", "vo")), victim, base)
                yield Line(f"closeness, {name}: ‖recovered − victim‖ ÷ ‖τ‖, {kind} task vector of {task}", residual)


def workers() -> Iterator[Line]:
    """Two workers against one on the plan `quick`, scenario already trained."""
    from redteam.evaluation.run import run

    def quick(count: int) -> Callable[[], object]:
        def go() -> object:
            with tempfile.TemporaryDirectory() as folder:
                return run("quick", out=folder, workers=count)

        return go

    median, low, high = ratio(quick(1), quick(2), 2, warm=False)
    yield Line("plan quick, one worker ÷ two workers: time", median, (low, high), 1.7, over=True)


def starts() -> Iterator[Line]:
    """What the shell costs before it does anything."""
    redteam = str(Path(sys.executable).with_name("redteam"))

    def command(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run(words, check=True, capture_output=True)

    for words in (("--help",), ("list",)):
        median, low, high = ratio(command(redteam, *words), command(sys.executable, "-c", "pass"))
        yield Line(f"redteam {' '.join(words)} ÷ python -c pass: time", median, (low, high))


def _dense(matrix: object) -> object:
    from redteam.symmetry import MatrixGauge

    return MatrixGauge(matrix)  # type: ignore[arg-type]


def _tied(fit: Callable[..., object]) -> Callable[..., object]:
    from redteam.symmetry import GeneralLinear

    return lambda protected, base, kinds: fit(protected, base, kinds, GeneralLinear())


def _residual(recovered: object, victim: object, base: object) -> float:
    from redteam.evaluation.metrics import residual

    changed = [n for n in victim if ".attention." in n]  # type: ignore[attr-defined]
    found = residual(recovered, victim, base, changed)  # type: ignore[arg-type]
    assert found is not None
    return found


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Prints every line as soon as it is known; `--json` prints one array at the end instead."""
    import torch

    from redteam.cores import cores

    lines = []
    as_json = "--json" in sys.argv[1:]
    if not as_json:
        print(f"{platform.machine()}, {cores()} cores, torch {torch.__version__}, one thread; median [least, greatest]")
    for part in (fits, encoder, workers, starts):
        for line in part():
            lines.append(asdict(line))
            if not as_json:
                print(line, flush=True)
    if as_json:
        print(json.dumps(lines, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
