"""`redteam merge --check`: what the doctor says, and what the merger says of this merge; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.doctor import Diagnosis
from redteam.doctor.findings import Kind, Severity
from tests.doctor.conftest import HEAD, Examine, settings

Shell = Callable[..., Any]

PICKY = '''
"""Takes two experts."""
from redteam import Checkpoint, MergerView, merger
from redteam.errors import BadInput


@merger("picky", needs_base=True)
def picky(view: MergerView) -> Checkpoint:
    """Takes two."""
    if len(view.experts) != 2:
        raise BadInput(f"picky merges two experts, not {len(view.experts)}; name two.")
    return next(iter(view.experts.values()))
'''


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_nothing_is_written_and_a_clean_merge_leaves_with_0(shell: Shell, here: Path) -> None:
    before = files(here)
    words = ("merge", "task-arithmetic", "--base", "base", "--expert", "one", "--expert", "two", "--check")
    told = shell(*words)
    assert told.code == 0, told.err
    assert "Nothing was found that stops or damages a merge" in told.out
    told = shell(*words, "--out", "out")
    assert (told.code, told.err.splitlines()[-1].startswith("Nothing was written to out")) == (0, True)
    assert files(here) == before


def test_its_findings_are_the_doctors(shell: Shell, doctor: Examine, here: Path) -> None:
    one = Checkpoint.open("one")
    one.only([n for n in one if n != HEAD]).save(here / "bare")
    words = ("--base", "base", "--expert", "two", "--expert", "again=two", "--expert", "bare")
    told = shell("merge", "ties:density=0.5", *words, "--check", "--json")
    assert told.code == 1
    found = Diagnosis.model_validate_json(told.out)
    assert found.findings == doctor("two", "again=two", "bare").findings
    assert [f.kind for f in found.findings] == ["copy", "missing"]
    assert "density=0.5" in str(found.merger)


def test_what_the_merger_refuses_is_a_finding_in_its_words(shell: Shell, here: Path) -> None:
    (here / "picky.py").write_text(PICKY)
    words = ("merge", "picky.py@picky", "--base", "base", "--expert", "one")
    told = shell(*words, "--check", "--json")
    assert told.code == 1, told.err
    (finding,) = Diagnosis.model_validate_json(told.out).findings
    assert (finding.kind, finding.severity) == ("merger", "stops")
    assert finding.told == "picky merges two experts, not 1; name two."
    refused = shell(*words, "--out", "out")
    assert (refused.code, refused.err.strip().splitlines()[-1]) == (2, f"Error: {finding.told}")
    assert shell(*words, "--expert", "two", "--check").code == 0


def test_a_merge_that_equals_the_base(shell: Shell, here: Path) -> None:
    told = shell("merge", "linear", "--base", "base", "--expert", "same=base", "--check", "--json")
    kinds = {f.kind: f for f in Diagnosis.model_validate_json(told.out).findings}
    assert kinds.keys() == {"merger", "is-base"}
    refused = shell("merge", "linear", "--base", "base", "--expert", "same=base", "--out", "out")
    assert refused.err.strip().splitlines()[-1] == f"Error: {kinds['merger'].told}"


def test_what_stops_it_is_told_without_merging(shell: Shell, here: Path) -> None:
    settings("two", rope_theta=5.0)
    told = shell("merge", "linear", "--base", "base", "--expert", "one", "--expert", "two", "--check", "--json")
    assert told.code == 1
    assert [f.kind for f in Diagnosis.model_validate_json(told.out).findings] == ["config"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("doctor", "base", "nope"), "nope"),
        (("doctor", "nope", "one"), "nope"),
        (("doctor", "base", "one", "one"), "other-one=one"),
        (("merge", "linear", "--base", "base", "--expert", "one"), "--out DIR"),
        (("merge", "linear", "--base", "base", "--expert", "nope", "--check"), "nope"),
        (("merge", "linea", "--base", "base", "--expert", "one", "--check"), "did you mean 'linear'"),
        (("merge", "linear:weights=[[on,2.0]]", "--base", "base", "--expert", "one", "--check"), "did you mean 'one'"),
    ],
)
def test_bad_input_is_one_sentence(shell: Shell, here: Path, words: tuple[str, ...], says: str) -> None:
    told = shell(*words)
    assert told.code == 2
    assert told.err.splitlines()[-1].startswith("Error: ")
    assert says in told.err
    assert "Internal" not in told.err
    assert not Path("out").exists()


def test_text_has_a_line_and_a_remedy_for_each_finding(shell: Shell, here: Path) -> None:
    settings("two", rms_norm_eps=0.1)
    told = shell("doctor", "base", "one", "again=one", "two")
    lines = told.out.splitlines()
    assert told.code == 1
    assert [line.split()[:2] for line in lines[0:4:2]] == [["STOPS", "config"], ["DAMAGES", "copy"]]
    assert all(line.startswith(" " * 22) and line.strip() for line in lines[1:4:2])
    assert lines[-1] == "What stops a merge: 1; what damages it: 1."


def test_the_json_is_what_its_schema_says(shell: Shell, here: Path) -> None:
    settings("two", rms_norm_eps=0.1)
    schema = Diagnosis.model_json_schema(by_alias=True)
    found = json.loads(shell("doctor", "base", "one", "two", "--json").out)
    jsonschema.validate(found, schema)
    assert found["schema"] == 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "findings": [{**found["findings"][0], "severity": "bad"}]}, schema)
    assert set(schema["$defs"]["Finding"]["properties"]["severity"]["enum"]) == set(get_args(Severity))
    assert set(schema["$defs"]["Finding"]["properties"]["kind"]["enum"]) == set(get_args(Kind))


def test_an_adapter_is_looked_at_as_it_is_merged(doctor: Examine, base: Checkpoint, here: Path) -> None:
    from safetensors.torch import save_file

    place = here / "adapter"
    place.mkdir()
    draws = torch.Generator().manual_seed(0)
    modules = [f"base_model.model.model.layers.{layer}.self_attn.q_proj" for layer in range(5)]
    factors = {
        f"{module}.lora_{factor}.weight": 0.05 * torch.randn(shape, generator=draws)
        for module in modules
        for factor, shape in {"A": (2, 32), "B": (32, 2)}.items()
    }
    save_file(factors, place / "adapter_model.safetensors")
    settings_of = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (place / "adapter_config.json").write_text(json.dumps(settings_of))
    found = doctor("adapter")
    assert found.findings == ()
    assert (found.models[0].shared, found.models[0].changed) == (48, 5)
    wide = {**factors, f"{modules[0]}.lora_B.weight": torch.randn(40, 2)}
    save_file(wide, place / "adapter_model.safetensors")
    (finding,) = doctor("adapter").findings
    assert (finding.severity, finding.kind) == ("stops", "unreadable")
