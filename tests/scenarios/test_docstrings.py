"""The scenario docstrings, from packages and an encoder made on the spot; with the real weights in the slow tests."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from redteam_scenarios.docstrings import cache, docstrings, source
from redteam_scenarios.docstrings.cache import load
from redteam_scenarios.docstrings.data import split
from redteam_scenarios.docstrings.reading import docstrings as read
from redteam_scenarios.docstrings.reading import entries, sections
from redteam_scenarios.docstrings.recipe import TASKS, VICTIM, Recipe
from redteam_scenarios.docstrings.texts import Text, collected, distinct, shown, type_named
from redteam_scenarios.measure import interval, measure

from redteam.checkpoint import Checkpoint, own_tensors
from redteam.checkpoint.pooling import HEAD
from redteam.errors import BadInput
from redteam.plugins.contracts import spec_of
from redteam.tasks import Scenario

PACKAGES = TASKS["libraries"].classes
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "theta", "kappa", "lambda", "sigma", "omega"]
TYPES = {"array": "ndarray", "bool": "bool, optional", "float": "float", "int": "int", "str": "{'a', 'b'}, default 'a'"}


def module(package: str, number: int) -> str:
    """Source with two functions; what it says is in no other module."""
    of_mine = [f"{WORDS[number % 11]}{WORDS[(number // 11) % 11]}{package}{word}" for word in WORDS]

    def function(name: str, words: list[str]) -> str:
        said = "\n".join(
            f"    p{i} : {kind}\n        The {label} {words[i]} of {words[i + 1]} counts. More."
            for i, (label, kind) in enumerate(TYPES.items())
        )
        return (
            f'def {name}():\n    """Compute the {words[0]} {package} {words[3]}.\n\n    Text behind.\n\n'
            f"    Parameters\n    ----------\n{said}\n\n    Returns\n    -------\n"
            f'    value : int\n        Whatever {words[5]} {words[2]} came to.\n    """\n'
        )

    return function("one", of_mine) + "\n\n" + function("two", of_mine[::-1]) + "\nraise SystemExit('imported')\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages under the names of the real ones, sixteen modules each, that must not be imported."""
    root = tmp_path_factory.mktemp("corpus")
    for place, package in enumerate(PACKAGES):
        folder = root / f"small_{package}"
        (folder / "tests").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
        (folder / "broken.py").write_text("def f(:\n")
        (folder / "tests" / "test_it.py").write_text('def f():\n    """Passed over in every case."""\n')
        for number in range(16):
            (folder / f"m{number}.py").write_text(module(package, 16 * place + number))
    return root


@pytest.fixture
def recipe(corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recipe:
    monkeypatch.syspath_prepend(str(corpus))
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path / "cache"))
    asked = {
        **TASKS,
        "libraries": dataclasses.replace(TASKS["libraries"], classes=tuple(f"small_{name}" for name in PACKAGES)),
    }
    for name in ("texts", "data", "cache", "training", "recipe"):
        monkeypatch.setattr(importlib.import_module(f"redteam_scenarios.docstrings.{name}"), "TASKS", asked)
    return dataclasses.replace(
        Recipe(),
        packages=tuple(f"small_{name}" for name in PACKAGES),
        shares={"test": 0.3, "validation": 0.3, "train": 0.4},
        steps=3,
        batch=4,
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = {"architectures": ["BertModel"], "model_type": "bert", "vocab_size": 80, **sizes}
    Checkpoint.of({}, config).fresh(0).save(folder / "model")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["[PAD]", "[UNK]", ".", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    return folder / "model"


def test_it_is_a_scenario() -> None:
    spec = spec_of(docstrings)
    assert spec is not None
    assert spec.name == "docstrings"


def test_sources_are_read_and_not_run(recipe: Recipe) -> None:
    found = list(read("small_numpy"))
    assert {each.module for each in found} == {f"small_numpy/m{number}.py" for number in range(16)}
    assert len(found) == 32
    with pytest.raises(BadInput, match=r"^The package 'no_such_package' is not installed"):
        list(read("no_such_package"))


def test_sections_and_entries_are_those_of_numpys_style() -> None:
    text = dedent(
        """\
        Sum of it.

        Parameters
        ----------
        a, b : array_like of shape (n,)
            What is summed,
            both of it.

            More.
        *args
            Passed on.
        axis : {None, int}, optional

        Returns
        -------
        float
            Without a name.
        out : float
            The sum.
        """
    )
    found = dict(sections(text))
    assert list(found) == ["Summary", "Parameters", "Returns"]
    assert found["Summary"].strip() == "Sum of it."
    assert list(entries(found["Parameters"])) == [
        ("array_like of shape (n,)", "What is summed, both of it."),
        ("{None, int}, optional", ""),
    ]
    assert list(entries(found["Returns"])) == [("float", "The sum.")]


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("int", "int"),
        ("int, optional", "int"),
        ("float, default=1.0", "float"),
        ("scalar", "float"),
        ("bool, default: True", "bool"),
        ("`str`", "str"),
        ("{'linear', 'cubic'}, optional", "str"),
        ("{0, 1}", ""),
        ("array_like", "array"),
        ("ndarray of shape (n, m), dtype=float", "array"),
        ("(M, N) array_like", "array"),
        ("{array-like, sparse matrix} of shape (n,)", ""),
        ("int or None", ""),
        ("float | None", ""),
        ("callable", ""),
    ],
)
def test_types_are_told_from_how_they_are_written(written: str, label: str) -> None:
    assert type_named(written) == label


def test_what_gives_the_answer_away_is_not_shown() -> None:
    assert shown("libraries", "Plot with Matplotlib, numpy's :class:`~numpy.ndarray` or ``plt``. More.") == (
        "Plot with , 's . or ."
    )
    assert shown("types", "If True, the floating-point `array` is an integer.") == "If , the -point is an ."
    assert shown("parts", "The returned value. Not this.") == "The value."
    assert shown("parts", "Learned by learning") == "Learned by learning"  # parts of words stay


def test_a_text_is_there_once_and_never_with_two_labels() -> None:
    texts = [Text("a", "The sum.", "x"), Text("b", "the  SUM", "x"), Text("c", "Two 2", "x"), Text("d", "two!", "y")]
    assert distinct(texts) == [Text("a", "The sum.", "x")]


def test_splits_share_no_module_and_no_text_and_are_balanced(recipe: Recipe) -> None:
    texts = collected(recipe)
    parts = split(recipe, 0, texts)
    for task, asked in TASKS.items():
        assert {each.label.removeprefix("small_") for each in texts[task]} == set(asked.classes)
        removed = {"true", *(asked.classes if task != "parts" else ("return", "parameter"))}
        assert not removed & {word.lower() for each in texts[task] for word in each.text.split()}
        for of_part in parts[task].values():
            counts = {label: sum(each.label == label for each in of_part) for label in {e.label for e in of_part}}
            assert len(counts) == len(asked.classes)
            assert len(set(counts.values())) == 1
    for what in ("module", "text"):
        seen = {part: {getattr(each, what) for task in parts for each in parts[task][part]} for part in recipe.shares}
        assert sum(map(len, seen.values())) == len(set().union(*seen.values())), what
    again, other = split(recipe, 0, texts), split(recipe, 1, texts)
    assert again == parts
    assert all(other[task]["test"] != parts[task]["test"] for task in TASKS)


def test_a_class_without_texts_is_one_sentence(recipe: Recipe) -> None:
    texts = {task: [each for each in found if each.label != "return"] for task, found in collected(recipe).items()}
    with pytest.raises(BadInput, match=r"^The packages' docstrings have no text of the class 'return' for parts'"):
        split(recipe, 0, texts)


def test_a_seed_is_made_once_and_repeatable(recipe: Recipe, encoder: Path, tmp_path: Path) -> None:
    scenario = load(recipe, seed=0, model=str(encoder))
    assert scenario.victim == VICTIM
    assert set(scenario.tasks) == set(scenario.experts) == set(TASKS)
    for task, expert in scenario.experts.items():
        assert set(own_tensors(expert, scenario.base)) == set(HEAD)
        assert not torch.equal(
            expert["embeddings.word_embeddings.weight"], scenario.base["embeddings.word_embeddings.weight"]
        )
        assert len(scenario.tasks[task].scores(expert.module())) == len(scenario.tasks[task].labels["test"])
    lengths = scenario.tasks[VICTIM].inputs_of("test")["attention_mask"].sum(1)
    assert torch.equal(lengths, lengths.sort().values)
    (folder,) = (tmp_path / "cache" / "docstrings").iterdir()
    folder.rename(tmp_path / "before")
    assert load(recipe, seed=0, model=str(encoder)).digest() == scenario.digest()
    other = load(recipe, seed=1, model=str(encoder))
    assert all(other.experts[task].digest() != scenario.experts[task].digest() for task in TASKS)
    assert other.base.digest() == scenario.base.digest()


def test_where_it_lies_depends_on_the_numbers_the_base_and_the_versions(
    recipe: Recipe, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def address(recipe: Recipe = recipe, model: Path = encoder) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(cache, "collected", lambda _: stop())
            with pytest.raises(KeyError) as stopped:
                cache.ensure(recipe, 0, model, source.bare(model))
        return str(stopped.value)

    def stop() -> None:
        raise KeyError(made[-1])

    made: list[str] = []
    plain = Recipe.address
    monkeypatch.setattr(Recipe, "address", lambda *arguments: made.append(plain(*arguments)) or made[-1])
    first = address()
    assert address() == first
    assert address(dataclasses.replace(recipe, steps=4)) != first
    other = tmp_path / "other"
    moved = Checkpoint.open(encoder)
    moved.replace({"pooler.dense.bias": moved["pooler.dense.bias"] + 1e-6}).save(other)
    (other / "tokenizer.json").write_bytes((encoder / "tokenizer.json").read_bytes())
    assert address(model=other) != first
    monkeypatch.setattr(cache, "packages_distributions", lambda: {"small_numpy": ["numpy"]})
    with_numpy = address()
    assert with_numpy != first
    monkeypatch.setattr(cache, "version", lambda name: "9.9")
    assert address() != with_numpy


def test_a_model_that_cannot_serve_is_one_sentence(recipe: Recipe, encoder: Path, tmp_path: Path) -> None:
    model = Checkpoint.open(encoder)
    model.save(tmp_path / "untokenised")
    with pytest.raises(BadInput, match=r"tokenizer\.json cannot be read"):
        load(recipe, seed=0, model=str(tmp_path / "untokenised"))
    (tmp_path / "untokenised" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"tokenizer\.json cannot be read .*; expected the file of a fast tokenizer"):
        load(recipe, seed=0, model=str(tmp_path / "untokenised"))
    model.configured({"architectures": ["BertForMaskedLM"]}).save(tmp_path / "headed")
    with pytest.raises(BadInput, match=r"holds a BertForMaskedLM; expected a bare encoder"):
        load(recipe, seed=0, model=str(tmp_path / "headed"))
    assert not (tmp_path / "cache").exists()


def test_the_package_serves_where_it_is_installed(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(source, "fetched", lambda *name: asked.append(name) or encoder)
    monkeypatch.setattr(source, "PACKAGE", "no_such_package")
    assert source.folder_of(source.MODEL) == encoder
    assert source.folder_of("org/other") == encoder
    assert asked == [(source.MODEL, source.REVISION), ("org/other",)]
    package = tmp_path / "carrying_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model").symlink_to(encoder)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(source, "PACKAGE", "carrying_weights")
    with pytest.raises(BadInput, match=r"does not hold the weights of sentence-transformers/all-MiniLM-L6-v2"):
        source.folder_of(source.MODEL)
    monkeypatch.setattr(source, "SHA256", source.digest([encoder / "model.safetensors"]))
    assert source.folder_of(source.MODEL) == package / "model"


@pytest.fixture(scope="module")
def real() -> Scenario:
    """Seed 0 from the user's cache, trained where that lacks it."""
    pytest.importorskip(source.PACKAGE)
    return docstrings()


@pytest.mark.slow
def test_the_real_texts_are_what_they_are_said_to_be() -> None:
    parts = split(Recipe(), 0, collected(Recipe()))
    assert len(parts[VICTIM]["test"]) >= 990
    for of_task in parts.values():
        assert len(of_task["test"]) >= 400
        assert len(of_task["train"]) >= 3000


@pytest.mark.slow
def test_the_victim_has_something_to_give(real: Scenario) -> None:
    """The rule was fixed before any attack was run: a gain of 0.15, surely 0.10."""
    measured = measure(real)
    assert measured.gain >= 0.15
    assert interval(real, measured.coefficient)[0] >= 0.10
