"""The GitHub action, the GitLab job and the image: their files are in the documented forms, and their steps run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from redteam.evaluation.plan import Plan
from redteam.evaluation.results import Results

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HEAD, JOB = yaml.safe_load_all((ROOT / "templates" / "redteam.yml").read_text())
(GITLAB,) = JOB.values()
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
REDTEAM = Path(sys.executable).with_name("redteam")
TOY = Path(__file__).parent / "evaluation" / "toy.py"
STUB = """#!/bin/sh
printf '%s\\0' "$@" >>calls
printf '\\n' >>calls
mkdir -p runs/redteam && echo '# report' >runs/redteam/report.md
exit "${CODE:-0}"
"""
HOSTILE = "a'b\"c $(touch owned) `touch owned` ; touch owned"
"""A value that a shell must not read as anything but a value."""


@dataclass(frozen=True)
class Ended:
    code: int
    err: str
    outputs: Mapping[str, str]
    summary: str
    calls: tuple[tuple[str, ...], ...]


def defaults(inputs: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(about.get("default", "")) for name, about in inputs.items()}


def calls(where: Path) -> tuple[tuple[str, ...], ...]:
    file = where / "calls"
    lines = file.read_text().split("\0\n")[:-1] if file.exists() else []
    return tuple(tuple(line.split("\0")) for line in lines)


def shell(words: list[str], script: str, where: Path, env: Mapping[str, str], bin_: Path | None) -> Any:
    path = os.environ["PATH"] if bin_ is None else f"{bin_}:{os.environ['PATH']}"
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    env = {**kept, "PATH": path, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run([*words, script], cwd=where, env=env, capture_output=True, text=True, check=False)


def on_github(where: Path, *steps: str, bin_: Path | None, code: int = 0, **given: str) -> Ended:
    """Runs steps as GitHub does: expressions filled in, `if` looked at, bash with -e; ends at the first that fails."""
    inputs = {**defaults(ACTION["inputs"]), **{name.replace("_", "-"): value for name, value in given.items()}}
    assert set(inputs) == set(ACTION["inputs"])
    known: dict[str, str] = {f"inputs.{name}": value for name, value in inputs.items()}
    known["github.action_path"] = str(where)
    output, summary = where / "output", where / "summary"
    output.touch()
    summary.touch()
    ended: Any = None
    for name in steps:
        step = STEPS[name]
        if step.get("if") == "inputs.model != ''" and not inputs["model"]:
            continue
        env = {key: known[value[3:-2].strip()] for key, value in step.get("env", {}).items()}
        env |= {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary), "CODE": str(code)}
        ended = shell(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"], step["run"], where, env, bin_)
        lines = dict(line.split("=", 1) for line in output.read_text().splitlines())
        known |= {f"steps.{step.get('id')}.outputs.{key}": value for key, value in lines.items()}
        if ended.returncode:
            break
    outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
    return Ended(ended.returncode, ended.stderr, outputs, summary.read_text(), calls(where))


def on_gitlab(where: Path, *, bin_: Path | None, code: int = 0, **given: str) -> Ended:
    """Runs the job as a GitLab runner does in an image without bash: the lines of its script, one after the other."""
    inputs = {**defaults(HEAD["spec"]["inputs"]), **{name.replace("_", "-"): v for name, v in given.items()}}
    assert set(inputs) == set(HEAD["spec"]["inputs"])
    env = {key: inputs[about["value"][3:-2].strip().partition(".")[2]] for key, about in GITLAB["variables"].items()}
    ended = shell(["sh", "-ec"], "\n".join(GITLAB["script"]), where, {**env, "CODE": str(code)}, bin_)
    return Ended(ended.returncode, ended.stderr, {}, "", calls(where))


def by_github(where: Path, **given: Any) -> Ended:
    return on_github(where, "Install", "Lock", "Run and gate", **given)


both = pytest.mark.parametrize("ci", [by_github, on_gitlab])


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A folder with a `redteam` that writes down how it was called and leaves as it is told."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/redteam").write_text(STUB)
    (tmp_path / "bin/redteam").chmod(0o755)
    return tmp_path / "bin"


class TestForms:
    """Against the keys that docs.github.com and docs.gitlab.com document."""

    def test_the_action(self) -> None:
        assert set(ACTION) <= {"name", "author", "description", "inputs", "outputs", "runs", "branding"}
        assert {"name", "description", "runs"} <= set(ACTION)
        colors = {"white", "black", "yellow", "blue", "green", "orange", "red", "purple", "gray-dark"}
        assert ACTION["branding"]["color"] in colors
        for about in ACTION["inputs"].values():
            assert set(about) <= {"description", "required", "default", "deprecationMessage"}
            assert about["description"]
        for about in ACTION["outputs"].values():
            assert set(about) == {"description", "value"}
        assert set(ACTION["runs"]) == {"using", "steps"}
        assert ACTION["runs"]["using"] == "composite"
        keys = {"name", "id", "if", "shell", "run", "env", "working-directory", "uses", "with", "continue-on-error"}
        for step in ACTION["runs"]["steps"]:
            assert set(step) <= keys
            assert ("run" in step) != ("uses" in step)
            assert ("run" in step) == ("shell" in step), "a composite action's run needs a shell"
            assert "${{" not in step.get("run", ""), "a value in a script is read as script"
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1"))

    def test_what_the_action_refers_to_is_there(self) -> None:
        text = (ROOT / "action.yml").read_text()
        assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
        ids = {step["id"]: step.get("run", "") for step in ACTION["runs"]["steps"] if "id" in step}
        for step, output in re.findall(r"steps\.(\w+)\.outputs\.([\w-]+)", text):
            assert f'echo "{output}=' in ids[step]

    def test_the_template(self) -> None:
        assert set(HEAD) == {"spec"}
        assert set(HEAD["spec"]) == {"inputs"}
        for about in HEAD["spec"]["inputs"].values():
            assert set(about) <= {"default", "description", "options", "regex", "type", "rules"}
        assert [name for name, about in HEAD["spec"]["inputs"].items() if "default" not in about] == ["image"]
        assert set(GITLAB) <= {"stage", "image", "variables", "script", "artifacts"}
        assert GITLAB["image"]["entrypoint"] == [""], "the image's own entry point is redteam, not a shell"
        assert set(GITLAB["artifacts"]) == {"when", "paths", "reports"}
        assert GITLAB["artifacts"]["when"] == "always"
        assert set(GITLAB["artifacts"]["reports"]) == {"junit"}
        for about in GITLAB["variables"].values():
            assert set(about) == {"value", "expand"}
            assert about["expand"] is False
        assert not any("$[[" in line for line in GITLAB["script"])
        assert set(re.findall(r"inputs\.([\w-]+)", json.dumps(JOB))) == set(HEAD["spec"]["inputs"])

    def test_both_have_the_same_inputs(self) -> None:
        here, there = ({name: about for name, about in inputs.items() if name in ACTION["inputs"]}
                       for inputs in (ACTION["inputs"], HEAD["spec"]["inputs"]))  # fmt: skip
        assert set(here) - set(there) == {"artifact"}
        assert all(here[name] == about for name, about in there.items())

    def test_neither_keeps_a_key_a_model_or_cells(self) -> None:
        (uploaded,) = (step["with"]["path"] for step in ACTION["runs"]["steps"] if "uses" in step)
        kept = [*uploaded.split("\n")[:-1], *GITLAB["artifacts"]["paths"], *GITLAB["artifacts"]["reports"].values()]
        assert len(kept) == 8
        assert {path.rpartition("/")[2] for path in kept} == {
            "report.html", "report.md", "report.junit.xml", "results.json"
        }  # fmt: skip
        assert {re.sub(r"\$(\{\{|\[\[) (.*) (\}\}|\]\])/[\w.]+", r"\2", path) for path in kept} == {"inputs.out"}


class TestSteps:
    @both
    def test_by_default_the_quick_plan_runs(self, ci: Callable[..., Ended], stub: Path, tmp_path: Path) -> None:
        ended = ci(tmp_path, bin_=stub, **({"image": "x"} if ci is on_gitlab else {}))
        assert ended.code == 0, ended.err
        out = "runs/redteam"
        assert ended.calls == (("run", "quick", "--out", out, "-o", f"{out}/report.junit.xml"),)

    @both
    def test_a_model_is_locked_first_and_all_that_is_asked_for_is_passed_on(
        self, ci: Callable[..., Ended], stub: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "my key").write_bytes(bytes(range(200, 232)))
        given = {
            "plan": "p.toml", "scenario": HOSTILE, "defense": "mergelock:scale=[0.5, 2]", "out": "o u t",
            "fail_on": "verdict!=HOLDS-SO-FAR\n\ntheft >= 0.5\n",
            "model": "my model", "base": "my base", "key": "my key",
        }  # fmt: skip
        ended = ci(tmp_path, bin_=stub, **given)
        assert ended.code == 0, ended.err
        lock, run = ended.calls
        assert lock == ("protect", given["defense"], "my model", "--out", "locked",
                        "--base", "my base", "--key", "my key")  # fmt: skip
        assert run == ("run", "p.toml", "--out", "o u t", "-o", "o u t/report.junit.xml", "--scenario", HOSTILE,
                       "--defense", given["defense"], "--fail-on", "verdict!=HOLDS-SO-FAR",
                       "--fail-on", "theft >= 0.5")  # fmt: skip
        assert not list(tmp_path.rglob("owned"))

    @both
    @pytest.mark.parametrize("code", [0, 1, 2, 130])
    def test_the_job_ends_as_the_run_does(
        self, ci: Callable[..., Ended], stub: Path, tmp_path: Path, code: int
    ) -> None:
        ended = ci(tmp_path, bin_=stub, code=code)
        assert ended.code == code
        if ci is by_github:
            assert ended.outputs["exit-code"] == str(code)
            assert ended.summary == "# report\n", "however the gate went"

    @both
    def test_what_an_earlier_run_left_is_not_told_as_that_of_one_that_cannot_begin(
        self, ci: Callable[..., Ended], stub: Path, tmp_path: Path
    ) -> None:
        (stub / "redteam").write_text("#!/bin/sh\nexit 2\n")
        for name in ("report.html", "report.md", "report.junit.xml", "results.json", "cells/0.json"):
            file = tmp_path / "runs/redteam" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("it held")
        ended = ci(tmp_path, bin_=stub)
        assert (ended.code, ended.summary) == (2, "")
        assert [file.name for file in (tmp_path / "runs").rglob("*") if file.is_file()] == ["0.json"]

    @both
    def test_a_lock_that_fails_is_not_judged(self, ci: Callable[..., Ended], stub: Path, tmp_path: Path) -> None:
        ended = ci(tmp_path, bin_=stub, code=2, model="m", defense="mergelock")
        assert ended.code == 2
        assert [words[0] for words in ended.calls] == ["protect"]

    @both
    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"model": "m"}, "Error: model needs defense"),
            ({"model": "m", "defense": "mergelock", "key": "gone"}, "Error: there is no key gone"),
        ],
    )
    def test_what_is_missing_is_told_and_nothing_runs(
        self, ci: Callable[..., Ended], stub: Path, tmp_path: Path, given: dict[str, str], told: str
    ) -> None:
        ended = ci(tmp_path, bin_=stub, **given)
        assert ended.code == 2
        assert told in ended.err
        assert ended.calls == ()

    def test_without_redteam_on_the_path_the_action_installs_its_own(self, tmp_path: Path) -> None:
        (tmp_path / "tools").mkdir()
        (tmp_path / "tools/setup.sh").write_text("echo installed >installed\n")
        bare = tmp_path / "bare"
        bare.mkdir()
        for name in ("sh", "bash"):
            (bare / name).symlink_to(str(shutil.which(name)))
        step, output = STEPS["Install"], tmp_path / "output"
        env = {"PATH": str(bare), "HERE": str(tmp_path), "GITHUB_OUTPUT": str(output)}
        subprocess.run([str(bare / "bash"), "-ec", step["run"]], cwd=tmp_path, env=env, check=True)
        assert (tmp_path / "installed").exists()
        assert output.read_text() == f"redteam={tmp_path}/.venv/bin/redteam\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plan that holds a weak lock to a gate."""
    home = tmp_path_factory.mktemp("pipeline")
    shutil.copy(TOY, home)
    plan = {"scenarios": ["toy.py@toy"], "defenses": ["rotation"], "attacks": ["procrustes"]}
    plan |= {"mergers": ["task-arithmetic"], "fail_on": ["verdict!=HOLDS-SO-FAR"]}
    (home / "release.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in plan.items()))
    return home


@pytest.mark.slow
def test_a_weak_lock_fails_and_a_gate_that_it_meets_lets_it_pass(work: Path) -> None:
    """A real run through the action, then the same folder, so that nothing is computed again, through GitLab's job."""
    ended = by_github(work, bin_=REDTEAM.parent, plan="release.toml")
    assert ended.code == 1, ended.err
    assert ended.outputs["exit-code"] == "1"
    assert "verdict!=HOLDS-SO-FAR failed for rotation on toy" in ended.summary
    found = Results.read(work / "runs/redteam")
    assert (found.gate.outcome if found.gate else "") == "failed"
    assert found.plan["fail_on"] == ["verdict!=HOLDS-SO-FAR"]
    kept = {"report.html", "report.md", "report.junit.xml", "results.json"}
    assert kept <= {path.name for path in (work / "runs/redteam").iterdir()}
    assert "<failure" in (work / "runs/redteam/report.junit.xml").read_text()
    ended = on_gitlab(work, bin_=REDTEAM.parent, plan="release.toml", fail_on="protection<0.5\nfidelity<0.5\n")
    assert ended.code == 0, ended.err
    assert "<failure" not in (work / "runs/redteam/report.junit.xml").read_text()


class TestPage:
    def test_its_plan_has_a_gate(self, page: Callable[[str], Any]) -> None:
        (text,) = page("docs/pipeline.md").fenced("toml")
        plan = Plan.of(tomllib.loads(text))
        assert len(plan.fail_on) == 3

    def test_its_jobs_name_inputs_that_there_are(self, page: Callable[[str], Any]) -> None:
        github, gitlab = map(yaml.safe_load, page("docs/pipeline.md").fenced("yaml"))
        (job,) = github["jobs"].values()
        (step,) = (step for step in job["steps"] if step.get("uses") == "OWNER/redteam@REF")
        assert set(step["with"]) <= set(ACTION["inputs"])
        outputs = re.findall(rf"steps\.{step['id']}\.outputs\.([\w-]+)", json.dumps(job))
        assert outputs
        assert set(outputs) <= set(ACTION["outputs"])
        (include,) = gitlab["include"]
        assert (ROOT / include["file"]).is_file()
        assert set(include["inputs"]) <= set(HEAD["spec"]["inputs"])
        assert HEAD["spec"]["inputs"]["job"]["default"] in gitlab

    def test_its_table_has_every_input_and_its_list_every_output(self, page: Callable[[str], Any]) -> None:
        text = page("docs/pipeline.md").text
        table = re.findall(r"^\| (`.*?) \| ", text, re.MULTILINE)
        assert {name.strip("`") for cell in table for name in cell.split(", ")} == set(ACTION["inputs"])
        (outputs,) = re.findall(r"^Outputs are .*?locked`\.", text, re.MULTILINE)
        assert all(f"`{name}`" in outputs for name in ACTION["outputs"])


def instructions() -> Iterator[tuple[str, str]]:
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    for line in filter(None, lines):
        word, _, rest = line.partition(" ")
        yield word, rest


class TestImage:
    """What hadolint and BuildKit's own checks ask for, as far as it is of concern here."""

    def test_instructions(self) -> None:
        found = list(instructions())
        assert {word for word, _ in found} <= {
            "ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD"
        }, "no ADD, no MAINTAINER"  # fmt: skip
        assert found[0] == ("ARG", "PYTHON=python:3.13-slim-bookworm"), "a base image has a tag, and not latest"
        assert all(Path(rest).is_absolute() for word, rest in found if word == "WORKDIR")
        last = max(k for k, (word, _) in enumerate(found) if word == "FROM")
        final = dict(found[last:])
        assert json.loads(final["ENTRYPOINT"]) == ["redteam"]
        assert json.loads(final["CMD"]) == ["--help"]
        assert final["USER"] == "1000", "a number, so that an orchestrator sees that it is not root"
        assert [word for word, _ in found[last:]].index("USER") > [word for word, _ in found[last:]].index("RUN")

    def test_no_address_no_secret_no_cache(self) -> None:
        for file in (DOCKERFILE, (ROOT / "tools/image.sh").read_text()):
            assert "://" not in file
        assert not re.search(r"ARG .*(INDEX|TOKEN|PASSWORD)", DOCKERFILE)
        assert "apt-get" not in DOCKERFILE
        for word, rest in instructions():
            assert word != "RUN" or "pip" not in rest.split() or "--no-cache-dir" in rest

    def test_what_is_copied_is_there_and_let_through(self) -> None:
        rules = (ROOT / ".dockerignore").read_text().splitlines()
        assert rules[0] == "*"
        allowed = {rule[1:] for rule in rules if rule.startswith("!")}
        copied = {source for word, rest in instructions() if word == "COPY" and "--from" not in rest
                  for source in rest.split()[:-1]}  # fmt: skip
        copied = {"tools/image.sh" if name.startswith("tools") else name for name in copied}
        assert copied == allowed
        assert all((ROOT / name).exists() for name in copied)
        with (ROOT / "pyproject.toml").open("rb") as file:
            wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
        assert {package.partition("/")[0] for package in wheel["packages"]} <= copied

    def test_the_stages_are_named_before_they_are_used(self) -> None:
        known = {"${PYTHON}", "scratch"}
        for word, rest in instructions():
            if word == "FROM":
                image, *name = rest.split(" AS ")
                assert image in known
                known |= set(name)
            assert set(re.findall(r"--from=(\w+)|,from=(\w+)", rest)) <= {(n, "") for n in known} | {
                ("", n) for n in known
            }

    def test_scripts_can_be_read_by_a_plain_shell(self) -> None:
        scripts = [(ROOT / "tools/image.sh").read_text(), "\n".join(GITLAB["script"])]
        scripts += [re.sub(r"--mount=\S+ +", "", rest) for word, rest in instructions() if word == "RUN"]
        for script in scripts:
            subprocess.run(["sh", "-n", "-c", script], check=True)

    def test_without_wheels_and_index_it_says_what_to_give(self, tmp_path: Path) -> None:
        env = {"PATH": os.environ["PATH"], "WHEELS": str(tmp_path), "INDEX": str(tmp_path / "none")}
        told = subprocess.run(
            ["sh", ROOT / "tools/image.sh", "wheel", tmp_path / "dist"], env=env, capture_output=True, text=True
        )
        assert (told.returncode, told.stdout) == (2, "")
        assert told.stderr.startswith("Error: neither wheels nor an index; give --build-context wheels=FOLDER")
        assert list(tmp_path.iterdir()) == []
