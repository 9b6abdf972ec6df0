"""The Slurm script: it is in the documented form, and says what the program takes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from redteam.evaluation.runner.shards import Shard

ROOT = Path(__file__).parent.parent
SLURM = ROOT / "templates" / "slurm.sh"
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
