"""Devices are refused in one sentence, without torch where that can be seen without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from redteam import devices
from redteam.errors import BadInput

CPU_ONLY = "__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"
WITH_CUDA = "__version__ = '2.9.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
WITH_ROCM = "__version__ = '2.9.0+rocm6'\ncuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n"
OLD = "__version__ = '2.4.0'\ncuda = '12.1'\nhip = None\n"


@pytest.mark.parametrize(
    ("text", "built"), [(CPU_ONLY, "cpu"), (WITH_CUDA, "cuda"), (OLD, "cuda"), (WITH_ROCM, ""), ("", "")]
)
def test_what_torch_was_built_for_is_read_from_a_file(tmp_path: Path, text: str, built: str) -> None:
    (tmp_path / "version.py").write_text(text)
    assert devices._built_for(tmp_path / "version.py") == built
    assert devices._built_for(tmp_path / "none.py") == ""


def test_this_torch_is_read_as_it_is() -> None:
    found = devices._built_for(Path(torch.__file__).with_name("version.py"))
    assert found == ("" if torch.version.hip else "cuda" if torch.version.cuda else "cpu")


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_DRIVERS", ("libnothing.so.1",))
    monkeypatch.setattr(devices, "_built_for", lambda _: "cuda")
    assert devices._missing() == "the system has no NVIDIA GPU, or no driver for it"
    monkeypatch.setattr(devices, "_built_for", lambda _: "cpu")
    assert devices._missing() == "this torch is built for the CPU alone"
    monkeypatch.setattr(devices, "_built_for", lambda _: "")
    assert devices._missing() == "", "of other builds torch itself has to be asked"


def test_the_cpu_is_always_there() -> None:
    devices.require_device("cpu")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mps", "'mps' has no float64, in which locks are fitted"),
        ("mps:0", "has no float64"),
        ("abacus", "expected 'cpu' or 'cuda'"),
        ("cuda:x", "expected 'cpu' or 'cuda'"),
        ("cuda", "There is no CUDA device"),
        ("cuda:1", "There is no CUDA device"),
    ],
)
def test_what_cannot_be_computed_on_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, told: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput) as error:
        devices.require_device(name)
    assert told in str(error.value)
    assert str(error.value).endswith("leave --device out to compute on the CPU.")
