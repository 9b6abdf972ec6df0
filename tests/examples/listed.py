"""The pages whose examples are tried, and what in them no test runs, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.pages import ROOT, Block, Page

PAGES = {
    file.relative_to(ROOT).as_posix(): Page.read(file)
    for file in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "scenarios").glob("redteam_scenarios/*/README.md")),
    )
}
CHECKED = ("python", "sh", "toml", "yaml")
"""Languages of which the tests of this folder take every block."""
WALKED = "tests/test_own_model.py"
SHOWN = {
    "README.md": {"theft = ": "a formula", "verdict ": "what `make demo` prints, once for all"},
    "docs/doctor.md": {
        "redteam doctor BASE": "a synopsis, whose commands are parsed",
        "DAMAGES": "tests/doctor/test_page.py",
        "Nothing was found": "tests/doctor/test_page.py",
    },
    "docs/how-a-run-works.md": {"plan.py": "tests/examples/test_files.py"},
    "docs/is-this-lock-safe.md": {"theft = ": "a formula with its figures"},
    "docs/own-adapters.md": {"llama/": WALKED, "MergeLock does": WALKED},
    "docs/own-model.md": {"base/": WALKED, "verdict ": WALKED},
    "docs/own-open-clip.md": {"clip/": WALKED, "MergeLock does": WALKED},
    "docs/verdicts.md": {"n(m, t) = ": "a formula"},
}
"""Page → how a block of text begins → the test that looks at it, or why none has to."""
ELSEWHERE = {
    "docs/doctor.md": "tests/doctor/test_page.py",
    "docs/own-model.md": WALKED,
    "docs/own-open-clip.md": WALKED,
    "docs/own-adapters.md": WALKED,
    "docs/submissions.md": "tests/cli/test_submit.py",
}
"""Page → the test that follows its commands and its Python from top to bottom."""
MINUTES = (
    "docs/gauntlet.md",
    "docs/is-this-lock-safe.md",
    "docs/search.md",
    "docs/write-an-attack.md",
)
"""Pages whose commands run wholly in a slow test, on the toy scenario."""
ONLY_PARSED = {
    "redteam new scenario .": WALKED,
    "redteam check mine.toml": WALKED,
    "redteam run --scenario mine.toml --defense mergelock": WALKED,
    "redteam check clip-8": "fetches gigabytes; tests/scenarios/test_published.py does it with tiny repositories",
    "redteam run paper --out /shared/runs/paper --shard 2/3": "tests/evaluation/runner/test_shards.py",
    "redteam merge 'mergekit:method=ties,parameters=[[density,0.5],[int8_mask,true]],weights=[[left,2.0]]' "
    "--base base --expert left --expert right --out merged": "takes an extra; tests/cli/test_mergekit.py",
}
"""Commands of this program that are not run from the page, and why."""
NOT_OURS = {
    "git clone … && cd …": "the address is the reader's",
    "python3 -m venv mine && mine/bin/pip install torch": "downloads gigabytes",
    "mine/bin/pip install --editable . && mine/bin/redteam run": "downloads gigabytes",
    "pip install 'merge-redteam[ray]'": "downloads; tests/evaluation/runner/test_ray_pool.py",
    "pip install 'merge-redteam[docstrings]'": "downloads; that the extra exists is tested",
    "head -c 32 /dev/urandom >lock.key && base64 <lock.key": "the jobs of tests/test_pipeline.py read such a key",
    "pip download --require-hashes --only-binary :all: -d wheelhouse -r requirements.lock": "downloads gigabytes",
    "docker build --build-context wheels=wheelhouse --network none -t redteam .": "needs docker",
    "PIP_INDEX_URL=… docker build --secret id=index,env=PIP_INDEX_URL -t redteam .": "needs docker",
    'docker run --rm -v "$PWD:/work" --user "$(id -u)" redteam run release.toml': "needs docker",
    "sbatch slurm.sh paper /shared/runs/paper": "needs Slurm; tests/test_many_machines.py runs the script",
}
"""Commands of other programs, and why no test runs them from the page."""


def blocks(language: str) -> Iterator[tuple[str, Block]]:
    """Page and block, of all blocks in a language."""
    for name, page in PAGES.items():
        yield from ((name, block) for block in page.blocks if block.language == language)


def commands(name: str) -> list[str]:
    """The lines of a page that call this program, in order."""
    return [line for block in PAGES[name].blocks for line in block.commands if line.startswith("redteam ")]


def bare(line: str) -> str:
    """A line of a shell without the comment behind it."""
    return re.sub(r"\s+# .*", "", line)
