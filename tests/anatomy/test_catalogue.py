"""Every file of the catalogue holds on a small random network that is made here, and its proof is of that network."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from redteam.anatomy import KINDS, ORDER, find_sites
from redteam.anatomy.catalog import ARCHITECTURES, FOLDER, Catalogue
from redteam.anatomy.files import as_data, from_data, read_description
from redteam.checkpoint import Checkpoint
from redteam.describe.describing import rows_of
from redteam.describe.trials import Trial
from redteam.errors import BadInput
from redteam.symmetry.fit_all import fit_all
from tools.catalogue import trial_of

TYPES = sorted(file.stem for file in FOLDER.glob("*.json"))
LARGE = ("qwen2_vl", "qwen2_5_vl", "owlv2", "led", "gemma3n")  # whose small networks stay large
_NAMES = {"part", "prefixes", "layers", "width", "heads", "neurons", "kv_heads", "head_width", "activation", "experts"}


def form(value: object) -> object:
    """What a description says but for the names of tensors and keys, which its relatives have otherwise."""
    if isinstance(value, dict):
        return {key: form(held) for key, held in value.items() if key not in _NAMES}
    if isinstance(value, list):
        return sorted({json.dumps(form(held), sort_keys=True) for held in value})
    return "name" if isinstance(value, str) and re.search(r"[{.]", value) else value


def one_of_each_form() -> set[str]:
    """The first type of every form; the others are tried with the slow tests."""
    found: dict[str, str] = {}
    for name in TYPES:
        data = ARCHITECTURES.data(name)
        key = json.dumps([form(data.get("stacks")), bool(data.get("streams"))], sort_keys=True)
        if name not in LARGE and "+" not in name:  # a form of a type that is tried itself
            found.setdefault(key, name)
    return set(found.values())


FIRST = one_of_each_form()


@cache
def trial(name: str) -> Trial:
    return replace(trial_of(name), states=not ARCHITECTURES.data(name).get("logits_alone"))


def proof(name: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = ARCHITECTURES.data(name)["proof"]
    return found


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FIRST else [pytest.mark.slow]) for n in TYPES])
def test_everything_locked_at_once_keeps_the_function_and_comes_off(name: str) -> None:
    case, described = trial(name), ARCHITECTURES[name]
    with case.known_as(described):
        sites = [site for kind in reversed(ORDER) for site in find_sites(described, case.checkpoint).sites((kind,))]
        locked = case.locked_at(sites)
        assert case.change(locked, eps=False) <= 1e-9
        fitted = fit_all(locked, case.checkpoint, ORDER)
        left, moved = (_distance(one, case.checkpoint) for one in (fitted, locked))
        shifted = case.shifted(described, KINDS)  # infinity where nothing can be shifted
    assert shifted <= 1e-9 or shifted == math.inf
    assert moved > 0.1
    assert left <= 1e-7 * max(1.0, moved)
    assert {row["kind"] for row in proof(name)} == {site.kind for site in sites}, (
        "the proof beside it is of these sites"
    )
    assert sum(int(str(row["sites"])) for row in proof(name)) == len(sites)
    assert all(float(str(row["change"])) <= 1e-9 and float(str(row["back"])) <= 1e-7 for row in proof(name))


@pytest.mark.parametrize("name", TYPES)
def test_no_stream_names_the_number_of_a_layer(name: str) -> None:
    """It would be described as deep as the small network is (`test_hybrids.py` tries deeper ones)."""
    for stream in ARCHITECTURES.data(name).get("streams", []):
        assert not [one for one in re.findall(r"'([^']*)'", str(stream)) if re.match(r"([^*]*[.}])?\d+\.\w+\.", one)]


def _distance(one: Checkpoint, other: Checkpoint) -> float:
    size = sum(float(tensor.square().sum()) for tensor in other.values())
    return math.sqrt(sum(float((one[name] - tensor).square().sum()) for name, tensor in other.items()) / size)


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPES)
def test_the_proof_comes_out_again(name: str) -> None:
    rows = rows_of(trial(name), ARCHITECTURES[name])
    assert [(row.kind, row.part, row.sites, row.group) for row in rows] == [
        (row["kind"], row["part"], row["sites"], row["group"]) for row in proof(name)
    ]
    assert all(row.change <= 1e-9 and row.back <= 1e-7 for row in rows)


@pytest.mark.parametrize("name", TYPES)
def test_it_comes_back_from_what_it_is_written_as(name: str) -> None:
    described = ARCHITECTURES[name]
    assert from_data(json.loads(json.dumps(as_data(described))), name) == described


def test_a_type_that_is_set_stands_before_its_file() -> None:
    catalogue = Catalogue(FOLDER)
    before = catalogue["llama"]
    catalogue["llama"] = catalogue["gpt2"]
    catalogue["mine"] = before
    assert catalogue["llama"] == catalogue["gpt2"]
    assert {"mine", "llama", "bert"} <= set(catalogue)
    assert len(catalogue) == len({name.partition("+")[0] for name in TYPES}) + 1
    del catalogue["mine"], catalogue["llama"]
    assert "mine" not in catalogue
    assert catalogue["llama"] == before
    with pytest.raises(KeyError):
        catalogue["mine"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "names no model_type"),
        ('{"model_type": "mine"}', "describes no stack of blocks"),
        ('{"model_type": "mine", "stacks": [{"querry": "q"}]}', "'querry'"),
        ('{"model_type": "mine", "stacks": [{"query": "q", "centred": "yes"}]}', "centred = 'yes'"),
        ('{"model_type": "mine", "stacks": [{"query": "q", "offset": true}]}', "offset = True"),
        ('{"model_type": "mine", "stacks": [3]}', "3"),
        ('{"model_type": "mine", "stacks": [{"query": "q"}], "streams": [{}]}', "no parts"),
        ('{"model_type": "mine", "stacks": [{"query": "q", "legal": {"qk": "anything"}}]}', "anything"),
        ('{"model_type": "mine", "stacks": [{"query": "{nothing}"}]}', "nothing"),
        ('{"model_type": "mine", "stacks": [{"query": 3}]}', "query = 3"),
        ('{"model_type": "mine", "stacks": [{"query": "q", "adapters": [["o", "a", "b"]]}]}', "adapters"),
        ('{"model_type": "mine", "stacks": [{"query": "q", "adapters": [["q", "a"]]}]}', "adapters"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=says):
        read_description(file)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_description(tmp_path / "mine.json")
