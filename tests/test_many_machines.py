"""The Slurm script and the Kubernetes manifest: they are in the documented forms, and say what the program takes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from redteam.evaluation.plan import find_plan
from redteam.evaluation.runner.shards import Shard

ROOT = Path(__file__).parent.parent
SLURM = ROOT / "templates" / "slurm.sh"
JOB: dict[str, Any] = yaml.safe_load((ROOT / "templates" / "kuberay.yaml").read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]
HEAD, (WORKERS,) = CLUSTER["headGroupSpec"], CLUSTER["workerGroupSpecs"]
STUB = '#!/bin/sh\nprintf "%s\\0" "$REDTEAM_CACHE" "$@" >called\n'


class TestSlurm:
    def called(self, folder: Path, *words: str, **given: str) -> subprocess.CompletedProcess[str]:
        stub = folder / "redteam"
        stub.write_text(STUB)
        stub.chmod(0o755)
        inherited = {name: value for name, value in os.environ.items() if name != "REDTEAM_CACHE"}
        environment = inherited | {"PATH": f"{folder}:{os.environ['PATH']}", **given}
        return subprocess.run(
            ["bash", SLURM, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
        )

    def test_a_shell_reads_it(self) -> None:
        assert subprocess.run(["bash", "-n", SLURM], timeout=60).returncode == 0
        if shellcheck := shutil.which("shellcheck"):
            assert subprocess.run([shellcheck, SLURM], timeout=60).returncode == 0

    def test_slurm_reads_its_lines_before_any_command(self) -> None:
        lines = SLURM.read_text().splitlines()
        asked = [line for line in lines if line.startswith("#SBATCH ")]
        first = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
        assert max(map(lines.index, asked)) < first
        options = dict(line.removeprefix("#SBATCH --").split("=") for line in asked if "=" in line)
        assert options["array"].startswith("1-"), "shares are counted from 1 on"

    @pytest.mark.parametrize("index", ["1", "8"])
    def test_each_job_is_a_shard(self, tmp_path: Path, index: str) -> None:
        job = {"SLURM_ARRAY_TASK_ID": index, "SLURM_ARRAY_TASK_MAX": "8", "SLURM_CPUS_PER_TASK": "4"}
        ended = self.called(tmp_path, "a plan.toml", "/some where/out", **job)
        assert ended.returncode == 0, ended.stderr
        cache, *words = (tmp_path / "called").read_text().split("\0")[:-1]
        assert cache == "/some where/out/cache"
        assert words[:4] == ["run", "a plan.toml", "--out", "/some where/out"]
        options = dict(zip(words[5::2], words[6::2], strict=True))
        assert options == {"--shard": f"{index}/8", "--workers": "4"}
        assert Shard.parse(options["--shard"]) == (int(index), 8)

    def test_what_is_missing_is_asked_for(self, tmp_path: Path) -> None:
        ended = self.called(tmp_path, "plan.toml")
        assert ended.returncode != 0
        assert "which folder for the results?" in ended.stderr
        assert not (tmp_path / "called").exists()


class TestKubeRay:
    def test_is_a_job_of_the_operator(self) -> None:
        assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
        assert set(JOB["spec"]) == {
            "entrypoint",
            "shutdownAfterJobFinishes",
            "ttlSecondsAfterFinished",
            "rayClusterSpec",
        }
        assert set(HEAD) == {"rayStartParams", "template"}
        assert set(WORKERS) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert WORKERS["minReplicas"] <= WORKERS["replicas"] <= WORKERS["maxReplicas"]
        assert all(isinstance(value, str) for value in HEAD["rayStartParams"].values())

    def test_its_command_is_one(self, shell: Any) -> None:
        program, command, plan, *options = shlex.split(JOB["spec"]["entrypoint"])
        assert (program, command) == ("redteam", "run")
        assert find_plan(plan)[0].name == plan
        told = shell("run", "--help").out
        assert all(option in told for option in options if option.startswith("--"))
        assert options[options.index("--engine") + 1] == "ray"

    def test_all_machines_are_alike_and_share_the_folder(self) -> None:
        (head,), (worker,) = (group["template"]["spec"]["containers"] for group in (HEAD, WORKERS))
        for what in ("image", "env", "volumeMounts"):
            assert head[what] == worker[what]
        assert HEAD["template"]["spec"]["volumes"] == WORKERS["template"]["spec"]["volumes"]
        (mount,), (volume,) = head["volumeMounts"], HEAD["template"]["spec"]["volumes"]
        assert mount["name"] == volume["name"]
        words = shlex.split(JOB["spec"]["entrypoint"])
        environment = {entry["name"]: entry["value"] for entry in head["env"]}
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
        for path in (words[words.index("--out") + 1], environment["REDTEAM_CACHE"]):
            assert PurePosixPath(path).is_relative_to(mount["mountPath"])
