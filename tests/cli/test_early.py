"""A slip in a name or a path is told before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

SCRIPT = """
import contextlib, io, json, sys
from redteam.cli.main import main
sys.modules["mlflow"] = sys.modules["optuna"] = None  # as if they were not installed
told = []
for words in json.load(sys.stdin):
    slow = "torch" in sys.modules
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()) as out:
            main(words)
    except SystemExit as left:
        told.append([left.code, said.getvalue(), out.getvalue(), "torch" in sys.modules and not slow])
json.dump(told, sys.stdout)
"""
PLAN = 'scenarios = ["digits"]\ndefenses = ["{defense}"]\n{more}\n'
NO_MODEL = "expected a folder with model.safetensors, or a safetensors file."
OUT = "--out written"
NO_HUB = (
    "Nothing lies at org/model, and org/model is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it once, or"
)
SLIPS = {
    "run --scenario digit": "There is no scenario called 'digit'; did you mean 'digits'?",
    "run --defense mergelok": "There is no defense called 'mergelok'; did you mean 'mergelock'",
    "run --defense none+mergelok": "There is no defense called 'mergelok'; did you mean 'mergelock'",
    "run --attack hungarion": "There is no attack called 'hungarion'; did you mean 'hungarian'?",
    "run --attack gauntlet-9": "There is no attack called 'gauntlet-9'",
    "run --merger tie": "There is no merger called 'tie'; did you mean 'ties'?",
    "run --defense permutation:site=[qk]": "permutation has no setting 'site'; did you mean 'sites'?",
    "run --attack none.py@mine": "Cannot read the plugin file",
    "run --scenario none.toml": "There is no scenario",
    "run --scenario broken.toml": "has an entry 'victm' that means nothing; did you mean 'victim'",
    "run --device mps": "The device 'mps' has no float64, in which locks are fitted; leave --device out",
    "run --device cuda": "There is no CUDA device that torch can use (",
    "run gpu.toml": "There is no CUDA device that torch can use (",
    "search --defense mergelock --device cuda": "There is no CUDA device that torch can use (",
    "search --defense mergelock --device mps": "has no float64",
    "run nope": "There is no plan called 'nope'",
    "run slip.toml": "There is no defense called 'mergelok'; did you mean 'mergelock'",
    "run wrong.toml": "keys must be a whole number from 1 on, not 'two'.",
    "search --defense mergelok": "There is no defense called 'mergelok'; did you mean 'mergelock'",
    "run entry.toml": "has an entry 'attack' that means nothing; did you mean 'attacks'?",
    "run alone.toml": "keys must be a whole number from 1 on, not 'two'.",
    "run further.toml": "has an entry 'also.1.seed' that means nothing; did you mean 'seeds'?",
    "run --threat weight-only": "There is no threat model called 'weight-only'; did you mean 'weights-only'?",
    "run --threat few-shot:sample=3": "few-shot has no setting 'sample'; did you mean 'samples'?",
    "run --out there -o there/plan.json": "there/plan.json is a record of the run that it would be written over",
    "run -o page.htm": "No report can be written to page.htm; the file's name must end in one of",
    "run --fail-on verdict==BROKN": "did you mean BROKEN?",
    "run --ray-address 10.0.0.1:6379": "--ray-address names the cluster of --engine ray; add that, or leave the",
    "run --shard 4/3": "--shard 4/3 cannot be used; expected I/N with I from 1 to N, as in 2/3.",
    "run --seed 1 --seeds 2": "--seed names seeds and --seeds counts them from 0 on; give one of the two.",
    "run --mlflow": "Logging to mlflow needs mlflow, which is not installed; pip install 'merge-redteam[mlflow]'.",
    "run --mlflow-uri http://127.0.0.1:9": "Logging to mlflow needs mlflow, which is not installed;",
    "search --defense none --threat weight-only": "There is no threat model called 'weight-only'; did you mean",
    "search --defense none --without gauge-fti": "There is no attack called 'gauge-fti'; did you mean 'gauge-fit'?",
    "search --defend --without mergelok": "There is no defense called 'mergelok'; did you mean 'mergelock'",
    "run --out slip.toml": "slip.toml cannot be written (it is no folder); name another one with --out.",
    "search --defense mergelock": "redteam search needs optuna, which is not installed; pip install 'merge-redteam[op",
    "search --defend": "redteam search needs optuna, which is not installed; pip install 'merge-redteam[optuna]'.",
    "rum": "There is no command called 'rum'; did you mean 'run'",
    "list atacks": "There is no kind of plugin called 'atacks'; did you mean 'attack'?",
    "show guage-fit": "did you mean 'gauge-fit'?",
    "check guage-fit": "There is no attack, defense, merger or scenario called 'guage-fit'; did you mean 'gauge-fit'?",
    "check gauge-fit:site=[qk]": "gauge-fit has no setting 'site'; did you mean 'sites'?",
    "check none.py@mine": "Cannot read the plugin file",
    "report nowhere": "nowhere/results.json cannot be read",
    "report nowhere -o page.html": "nowhere/results.json cannot be read",
    "show nowhere --why none": "nowhere/results.json cannot be read",
    f"protect rotatoin nowhere {OUT}": "There is no defense called 'rotatoin'; did you mean 'rotation'?",
    f"protect rotation nowhere {OUT}": NO_MODEL,
    f"protect mergelock models {OUT}": "The defense mergelock draws on a key; name its file with --key",
    f"protect none+mergelock models {OUT}": "The defense none+mergelock draws on a key",
    f"protect mergelock models --key plan-as-key {OUT}": "expected 32 random ones, as redteam protect writes them.",
    f"protect soter models --key k {OUT}": "soter seals the weights, which then run in an enclave alone",
    f"protect none models --data digit {OUT}": "There is no scenario called 'digit'; did you mean 'digits'?",
    f"protect none models --architecture nowhere.json {OUT}": "There is nothing at nowhere.json; name what redteam",
    f"attack gauge-fit . {OUT}": "The attack gauge-fit needs the public base (--base); give it as well.",
    f"attack shape-restore+key-holder . --base . {OUT}": "needs the defender's key (--key) and the defense as it was",
    f"attack key-holder . --key nokey --defense mergelock {OUT}": "The key nokey cannot be read (No such file or dir",
    f"attack distillation . --base . {OUT}": "no checkpoint on disk holds that, so evaluate it with redteam run",
    f"merge regmean --base . --expert . {OUT}": "The merger regmean takes data of every expert's task",
    f"merge linear:weights=[[mien,2.0]] --base . --expert mine=. {OUT}": "no expert called 'mien'; did you mean 'mine'",
    f"attack gauge-fit nowhere --base . {OUT}": NO_MODEL,
    f"attack gauge-fit . --base nowhere {OUT}": NO_MODEL,
    f"merge ties --base . --expert nowhere {OUT}": NO_MODEL,
    "merge ties --base nowhere --expert . --check": NO_MODEL,
    f"extract-lora nowhere --base . {OUT}": NO_MODEL,
    "audit . --base nowhere": NO_MODEL,
    "audit . --base . --other nowhere": NO_MODEL,
    "doctor . nowhere": NO_MODEL,
    "audit org/model --base org/base": "Nothing lies at org/base, and org/base is not in the hub's cache, and ",
    f"protect none org/model@v1 {OUT}": "Nothing lies at org/model@v1, and org/model at v1 is not in the hub's ",
    f"attack gauge-fit org/model --base org/model {OUT}": NO_HUB,
    f"merge ties --base org/model --expert org/other {OUT}": NO_HUB,
    "merge ties --base . --expert mine=org/model --check": NO_HUB,
    f"extract-lora org/model --base org/other {OUT}": NO_HUB,
    "doctor . org/model": NO_HUB,
    "diff org/model .": NO_HUB,
    "diff . . --base org/model": NO_HUB,
    "describe org/model": NO_HUB,
    "merge ties --base . --expert .": "A merge is written to a folder, so add --out DIR.",
    "describe nowhere/config.json": "nowhere/config.json is not there; give a folder with a config.json, such a file,",
    "diff nowhere .": "There is nothing at nowhere; name a run or a model on disk.",
    "verify models": "There is nothing at models/results.json; name the folder of a finished run.",
    "verify nowhere": "There is nothing at nowhere; name the folder of a finished run.",
    "submit nowhere": "nowhere/results.json cannot be read",
}


@dataclass(frozen=True)
class Told:
    """What a command said."""

    code: int
    error: str
    out: str
    slow: bool


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """All of them, one after the other in one process."""
    place = tmp_path_factory.mktemp("slips")
    plans = {
        "slip": PLAN.format(defense="mergelok", more=""),
        "wrong": PLAN.format(defense="none", more='keys = "two"'),
        "entry": 'attack = ["gauge-fit"]',
        "gpu": PLAN.format(defense="none", more='device = "cuda"'),
        "alone": 'keys = "two"',
        "further": "[[also]]\nkeys = 2\n[[also]]\nseed = 3",
        "broken": 'base = "base"\nvictm = "mine"\n',
    }
    for name, text in plans.items():
        (place / f"{name}.toml").write_text(text, encoding="utf-8")
    (place / "models").mkdir()
    (place / "plan-as-key").write_bytes(bytes(12))
    (place / "plan-as-key").chmod(0o600)
    words = json.dumps([slip.split() for slip in SLIPS])
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=place,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(place / "hub"), "CUDA_VISIBLE_DEVICES": ""},
        input=words,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not (place / "runs").exists()
    assert not (place / "written").exists()
    return {slip: Told(*one) for slip, one in zip(SLIPS, json.loads(ran.stdout), strict=True)}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_told_at_once(told: dict[str, Told], slip: str) -> None:
    found = told[slip]
    assert found.code == 2
    assert found.error.startswith("Error: ")
    assert SLIPS[slip] in found.error
    assert found.error.count("\n") == 1
    assert not found.out
    assert not found.slow, f"{slip} imports torch"
