"""The scenario causal: text is read and split as promised, and making it is repeatable."""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from redteam_scenarios.causal import causal
from redteam_scenarios.causal.cache import load
from redteam_scenarios.causal.documents import collect
from redteam_scenarios.causal.recipe import VICTIM, Recipe, Source
from redteam_scenarios.causal.text import files, texts
from redteam_scenarios.measure import interval, mean, measure

from redteam.errors import BadInput
from redteam.plugins.contracts import spec_of
from redteam.tasks.likelihood import log_likelihoods
from redteam.testing.suite import checks_for

TINY = dataclasses.replace(
    Recipe(),
    vocabulary=300,
    width=16,
    layers=1,
    heads=4,
    groups=2,
    mlp=24,
    length=16,
    pretraining_steps=4,
    pretraining_batch=4,
    tuning_steps=dict.fromkeys(Recipe().domains, 2),
    tuning_batch=4,
    counts={"test": 8, "validation": 6, "train": 20},
    stretch=4,
    general=Source(("a_code",)),
    domains={
        "headers": Source(("a_native",), (".h", ".hpp")),
        "manuals": Source(("a_numbers",), docstrings=True),
        "stubs": Source(("a_native", "a_numbers"), (".pyi",)),
    },
)
WORDS = [a + b for a in ("ba", "du", "ke", "lo", "mi", "ra", "so") for b in ("nan", "rel", "tik", "vos")]
LICENCE = "// no warranty of any kind"  # a document and a bit


def package(root: Path, name: str, texts: dict[str, str | bytes], version: str = "1.0") -> None:
    """An installed package with these files."""
    for file, text in texts.items():
        path = root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    info = root / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{name}/{file},,\n" for file in texts))


def prose(draws: np.random.Generator, words: int = 120) -> str:
    return "\n".join(" ".join(draws.choice(WORDS, 6)) for _ in range(words // 6))


def function(draws: np.random.Generator) -> str:
    return f'def {draws.choice(WORDS)}():\n    """{prose(draws)}"""\n    return {draws.integers(9)}\n'


@pytest.fixture
def installed(tmp_path, monkeypatch):
    draws, root = np.random.default_rng(0), tmp_path / "packages"
    package(root, "a_code", {f"m{i}.py": "raise SystemExit\n" + function(draws) for i in range(30)})
    headers: dict[str, str | bytes] = {f"h{i}.{'h' if i % 2 else 'hpp'}": prose(draws) for i in range(30)}
    headers |= {f"copied{i}.h": LICENCE for i in range(20)}
    package(root, "a_native", headers | {f"s{i}.pyi": prose(draws) for i in range(20)})
    numbers: dict[str, str | bytes] = {f"n{i}.py": function(draws) for i in range(30)}
    package(root, "a_numbers", numbers | {f"s{i}.pyi": prose(draws) for i in range(10)})
    monkeypatch.syspath_prepend(root)
    return root


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "causal"


def runs(rows: torch.Tensor, size: int) -> list[set[tuple[int, ...]]]:
    return [{tuple(row[i : i + size]) for i in range(1, len(row) - size + 1)} for row in rows.tolist()]


def test_it_is_a_scenario():
    spec = spec_of(causal)
    assert spec is not None
    assert spec.name == "causal"
    assert VICTIM in Recipe().domains


def test_documents_are_of_one_length_and_share_no_more_than_chance_with_what_is_scored(installed):
    _, found = collect(TINY, 0)
    for split, count in TINY.counts.items():
        for task in TINY.domains:
            assert found[f"{task}/{split}"].shape == (count, TINY.length)
            assert not found[f"{task}/{split}"][:, 0].any()  # each begins with the token that says so
    assert found["general"].shape == (TINY.pretraining_steps * TINY.pretraining_batch, TINY.length)
    scored = {name: runs(rows, TINY.stretch) for name, rows in found.items() if not name.endswith("train")}
    for name, rows in found.items():
        others = set().union(*(run for other, held in scored.items() if other not in {name, "general"} for run in held))
        for held in runs(rows, TINY.stretch):
            assert len(held & others) <= TINY.shared * (TINY.length - TINY.stretch)


def test_a_licence_that_many_files_have_is_in_one_split_at_most(installed):
    tokenizer, found = collect(TINY, 0)
    (licence,) = runs(torch.tensor([[0, *tokenizer.encode(LICENCE).ids]]), TINY.stretch)
    assert TINY.length <= len(tokenizer.encode(LICENCE).ids) + 1 < 2 * TINY.length
    having = [
        split
        for split in TINY.counts
        for held in runs(found[f"headers/{split}"], TINY.stretch)
        if len(held & licence) > len(held) / 2
    ]
    assert having == ["test"]  # which is filled first


def test_splits_share_no_file(installed, monkeypatch):
    read: dict[str, list[Path]] = {}
    from redteam_scenarios.causal import documents

    real = documents._shared_out

    def noted(recipe, source, generator):
        shared = real(recipe, source, generator)
        read[source.suffixes[0]] = [path for paths in shared.values() for path in paths]
        return shared

    monkeypatch.setattr(documents, "_shared_out", noted)
    collect(TINY, 0)
    assert len(read) == 3
    for paths in read.values():
        assert len(paths) == len(set(paths)) > 20


def test_text_depends_on_the_seed_alone(installed):
    (one, first), (two, again), (_, other) = collect(TINY, 0), collect(TINY, 0), collect(TINY, 1)
    assert one.to_str() == two.to_str()
    assert first.keys() == again.keys() == other.keys()
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_what_is_no_text_of_its_kind_is_left_out_and_nothing_is_imported(installed):
    draws = np.random.default_rng(1)
    package(
        installed,
        "mixed",
        {
            "plain.py": function(draws),
            "written.py": "# @generated by a program\n" + function(draws),
            "broken.py": "def (:\n" + function(draws),
            "bytes.py": b"\xff\xfe\x00" * 100,
            "data.py": "x = '" + "0" * 5000 + "'",
            "large.py": function(draws) * 100,
            "notes.txt": prose(draws),
            "escape.py": "'\\d'\n" + function(draws),
        },
    )
    source = Source(("mixed",), docstrings=True)
    (held,) = files(source, 10_000).values()
    assert [path.name for path in held] == [
        "broken.py", "bytes.py", "data.py", "escape.py", "plain.py", "written.py"
    ]  # fmt: skip
    read = {path.name: list(texts(path, source)) for path in held}
    assert {name for name, found in read.items() if found} == {"plain.py", "escape.py"}
    assert all(not text.startswith("def") for found in read.values() for text in found)
    collect(TINY, 0)
    assert not {"a_code", "a_native", "a_numbers", "mixed"} & set(sys.modules)


def test_what_is_missing_is_one_sentence(installed, own_cache):
    lacking = dataclasses.replace(TINY, general=Source(("a_code", "nowhere")))
    with pytest.raises(BadInput, match=r"^The scenario causal .* nowhere, .* install it\.$"):
        load(lacking, seed=0)
    few = dataclasses.replace(TINY, counts={**TINY.counts, "validation": 600})
    with pytest.raises(BadInput, match="documents for the validation split of 'headers'; expected 600"):
        load(few, seed=0)
    more = dataclasses.replace(TINY, pretraining_steps=4000)
    with pytest.raises(BadInput, match="to pretrain on; expected 16000"):
        load(more, seed=0)
    assert not list(own_cache.iterdir())
    (installed / "a_code-1.0.dist-info" / "RECORD").unlink()
    with pytest.raises(BadInput, match="a_code does not list its files"):
        load(TINY, seed=0)


def test_another_version_of_a_package_is_another_scenario(installed):
    before = TINY.address(0)
    assert TINY.address(0) == before
    (installed / "a_native-1.0.dist-info").rename(installed / "a_native-2.0.dist-info")
    info = installed / "a_native-2.0.dist-info" / "METADATA"
    info.write_text(info.read_text().replace("1.0", "2.0"))
    assert TINY.address(0) != before
    assert len({TINY.address(0), TINY.address(1), dataclasses.replace(TINY, width=32).address(0)}) == 3


def test_a_training_can_be_repeated_and_leaves_no_trace(installed, own_cache):
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate(), torch.get_num_threads()
    with torch.no_grad():
        first = load(TINY, seed=0)
        assert not torch.is_grad_enabled()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), torch.get_num_threads())
    own_cache.rename(own_cache.with_name("old"))
    again, other = load(TINY, seed=0), load(TINY, seed=1)
    assert first.digest() == again.digest()
    assert all(first.experts[task].digest() != other.experts[task].digest() for task in first.tasks)


def test_scores_are_counted_from_the_base_and_every_expert_has_moved(installed, own_cache):
    made = load(TINY, seed=0)
    assert made.victim == VICTIM
    assert set(made.tasks) == set(made.experts) == set(TINY.domains)
    for name, task in made.tasks.items():
        for split in TINY.counts:
            found = log_likelihoods(made.base.module(), task.inputs_of(split))
            np.testing.assert_allclose(found, task.labels[split].numpy(), atol=1e-6)
        assert np.abs(task.scores(made.dressed(made.base, name).module())).max() < 1e-6
        assert np.abs(task.scores(made.experts[name].module())).max() > 1e-4
        assert made.experts[name].outline() == made.base.outline()
        assert not any(torch.equal(made.experts[name][each], made.base[each]) for each in made.base)
    assert made.base.config["num_key_value_heads"] < made.base.config["num_attention_heads"]


@pytest.mark.slow
def test_it_behaves_as_promised():
    """Trains seed 0 where the user's cache lacks it, some minutes; the rules were fixed before any attack was run."""
    made = causal()
    measured = measure(made)
    assert min(measured.experts.values()) >= 0.3  # nats a token beyond the base
    assert measured.gain >= 0.15
    assert interval(made, measured.coefficient)[0] >= 0.10
    assert mean(measured.merged) >= 0.4
    assert min(measured.merged.values()) >= 0.25


@pytest.mark.slow
def test_it_keeps_the_contract_of_scenarios(installed, own_cache, tmp_path, monkeypatch):
    """Another process finds the same packages; the tasks are learned, since the packages have but few words."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    (tmp_path / "small.py").write_text(
        "import dataclasses\n"
        "from redteam import Scenario, scenario\n"
        "from redteam_scenarios.causal.cache import load\n"
        "from redteam_scenarios.causal.recipe import VICTIM, Recipe, Source\n"
        "from redteam_scenarios.turns import turns, with_victim\n"
        f"RECIPE = {dataclasses.replace(TINY, tuning_steps=dict.fromkeys(TINY.domains, 60), tuning_rate=1e-2)!r}\n"
        "def victims(*, seed: int = 0, victim: str = VICTIM) -> tuple[str, ...]:\n"
        "    return turns(victim, RECIPE.domains, 'small')\n"
        '@scenario("small", victims=victims)\n'
        "def small(*, seed: int = 0, victim: str = VICTIM) -> Scenario:\n"
        '    """Small."""\n'
        "    return with_victim(load(RECIPE, seed=seed), victim)\n"
    )
    found = [check.run() for check in checks_for(f"{tmp_path / 'small.py'}@small")]
    assert {one.check: one.reason for one in found if one.status != "passed"} == {}
