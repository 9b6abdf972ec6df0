"""Every command that takes a model takes its name on the hub as well, and finds the same as in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.cli.describe import _file
from redteam.hub import of_hub
from tests.conftest import Case
from tests.test_hub import SHA, Hub, model, server  # noqa: F401

Shell = Callable[..., Any]


@pytest.fixture
def hub(server: Hub, vit: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A folder with `base`, `victim` and `mine`, which a hub has as well."""
    draws, base = torch.Generator().manual_seed(0), vit.checkpoint
    moved = {name: base[name] + 0.02 * torch.randn(base[name].shape, generator=draws) for name in base}
    for name, one in (("base", base), ("victim", base.replace(moved)), ("mine", base)):
        one.save(tmp_path / "disk" / name)
        server.repositories[f"org/{name}"] = tmp_path / "disk" / name
    monkeypatch.chdir(tmp_path / "disk")
    return tmp_path / "disk"


ALIKE = {
    "audit": "audit {victim} --base {base} --json",
    "diff": "diff {victim} {mine} --base {base} --json",
    "doctor": "doctor {base} {victim} other={mine} --json",
    "merge --check": "merge linear --base {base} --expert {victim} --expert x={mine} --check --json",
}


@pytest.mark.parametrize("command", ALIKE)
def test_what_is_found_is_what_is_found_in_folders(command: str, hub: Path, shell: Shell) -> None:
    told = []
    for where in ("", "org/"):
        names = {name: f"{where}{name}" for name in ("base", "victim", "mine")}
        done = shell(*ALIKE[command].format(**names).split())
        assert done.code in (0, 1), done.err
        told.append(json.loads(done.out.replace(where, "") if where else done.out))
    assert told[0] == told[1]


WRITTEN = {
    "protect": "protect rotation {victim} --key key --unproven --out {out}",
    "attack": "attack gauge-fit {victim} --base {base} --unproven --out {out}",
    "merge": "merge linear --base {base} --expert {victim} --expert x={mine} --out {out}",
    "extract-lora": "extract-lora {victim} --base {base} --rank 2 --out {out}",
}


@pytest.mark.parametrize("command", WRITTEN)
def test_what_is_written_is_what_is_written_of_folders(command: str, hub: Path, shell: Shell) -> None:
    for out, where, revision in (("disk", "", ""), ("hub", "org/", f"@{SHA}")):
        names = {name: f"{where}{name}{revision}" for name in ("base", "victim", "mine")}
        done = shell(*WRITTEN[command].format(out=out, **names).split())
        assert done.code == 0, done.err
    base = Checkpoint.open(hub / "base")
    one, other = (Checkpoint.open(hub / out, base=base) for out in ("disk", "hub"))
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_adapter_names_its_base_as_the_hub_does(hub: Path, shell: Shell) -> None:
    shell("extract-lora", "org/victim", "--base", f"org/base@{SHA}", "--rank", "1", "--out", "adapter")
    said = json.loads((hub / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert said["base_model_name_or_path"] == "org/base"


def test_of_a_model_to_describe_the_config_alone_is_fetched(hub: Path, server: Hub) -> None:  # noqa: F811
    found = _file("org/victim")
    assert found is not None
    assert found.read_bytes() == (hub / "victim" / "config.json").read_bytes()
    assert not any("safetensors" in path for path in server.asked)


def test_an_expert_is_called_as_its_model(hub: Path, shell: Shell) -> None:
    told = shell("merge", "linear:weights=[[victims,2.0]]", "--base", "org/base", "--expert", "org/victim", "--check")
    assert "There is no expert called 'victims'; did you mean 'victim'?" in told.err


def test_what_the_hub_lacks_is_one_sentence(hub: Path, shell: Shell) -> None:
    told = shell("audit", "org/absent", "--base", "org/base")
    assert told.code == 2
    assert told.err.splitlines()[-1].startswith(
        "Error: Nothing lies at org/absent, and there is no model org/absent on"
    )
    told = shell("audit", "org/victim@v9", "--base", "org/base")
    assert "and org/victim has no revision 'v9' on" in told.err


def test_what_may_be_a_mistyped_path_is_none_of_the_hub(hub: Path) -> None:
    assert of_hub(Path("org/model")) == ("org/model", None)
    assert of_hub(Path("org/model@refs/pr/1")) == ("org/model", "refs/pr/1")
    for path in ("base", "victim/nothing", "a/b/c", "./models/x/y", "org/model.safetensors", "/org/model", "~/x"):
        assert of_hub(Path(path)) is None, path
