"""Kinds of tasks of encoders, of a scenario that is a file: heads that are put on, numbers and rankings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from redteam.checkpoint import Checkpoint, own_tensors
from redteam.checkpoint.pooling import HEAD
from redteam.plugins.registry import SCENARIOS
from redteam.tasks import Classification, Regression, Retrieval
from tests.scenarios import own_models
from tests.scenarios.own_kinds import BERT, load, models, read, refused, rows, write
from tests.scenarios.own_models import TASKS, VOCABULARY, examples


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path_factory.mktemp("cache")))


def labelled(place: Path, count: int = 800) -> None:
    for task, what in (("mine", "support"), ("theirs", "sport")):
        rows(place, task, [{"text": text, "label": label} for text, label in examples(what, count, 0)])


@pytest.mark.parametrize("architecture", ["BertModel", "BertForMaskedLM"])
def test_a_head_is_fitted_once_on_frozen_states_and_said(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models(tmp_path, {**BERT, "architectures": [architecture]})
    labelled(tmp_path)
    scenario = read(tmp_path, 'kind = "text-classification"\nhead = "fit"\npooling = "mean"', Classification)
    assert "heads of mine, theirs were fitted on the frozen states" in scenario.summary
    for name, expert in scenario.experts.items():
        task = scenario.tasks[name]
        assert isinstance(task, Classification)
        assert task.scores(expert.module()).mean() > task.chance + 0.25
        assert not set(HEAD) & set(scenario.base)
        assert set(HEAD) <= set(own_tensors(expert, scenario.base))
        body = {n for n in expert if "encoder" in n}
        assert body
        assert body == {n for n in scenario.base if "encoder" in n}
        assert set(expert.fresh(0)) == {n.removeprefix("bert.") for n in expert}
    assert list(scenario.experts["mine"].config["id2label"].values()) == sorted(TASKS["support"])
    monkeypatch.setattr("redteam_scenarios.folder.heads._logistic", lambda *_: pytest.fail("fitted again"))
    assert load(tmp_path).digest() == scenario.digest()


def test_a_fitted_head_is_the_logistic_regression_on_its_training_states(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    models(tmp_path, BERT)
    labelled(tmp_path)
    write(tmp_path, 'kind = "text-classification"\nhead = "fit"\npooling = "cls"')
    scenario = load(tmp_path)
    for name in ("mine", "theirs"):
        task, bare = scenario.tasks[name], Checkpoint.open(tmp_path / name).module()
        assert isinstance(task, Classification)
        states = {
            split: bare(**held).last_hidden_state[:, 0].detach().double().numpy() for split, held in task.inputs.items()
        }
        scale = StandardScaler().fit(states["train"])
        model = LogisticRegression(max_iter=1000).fit(scale.transform(states["train"]), task.labels["train"].numpy())
        expected = model.predict(scale.transform(states["test"])) == task.labels["test"].numpy()
        assert (task.scores(scenario.experts[name].module()) == expected).mean() > 0.97


def test_a_head_comes_from_a_file(tmp_path: Path) -> None:
    models(tmp_path, BERT)
    labelled(tmp_path)
    write(
        tmp_path,
        "",
        mine='kind = "text-classification"\nhead = "head.safetensors"\nlabels = ["bug", "praise", "refund"]',
        theirs='kind = "text-classification"\nhead = "fit"',
    )
    weight, bias = torch.randn(3, 32), torch.randn(3)
    save_file({"weight": weight, "bias": bias}, tmp_path / "head.safetensors")
    scenario = load(tmp_path)
    task = scenario.tasks["mine"]
    inputs = {key: value[:5] for key, value in task.inputs_of("test").items()}
    states = Checkpoint.open(tmp_path / "mine").module()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    found = scenario.experts["mine"].module()(**inputs).logits
    torch.testing.assert_close(found, pooled @ weight.T + bias)
    state = SCENARIOS.load(str(tmp_path / "own.toml")).spec.state
    assert state is not None
    before = state(file=str(tmp_path / "own.toml"))
    save_file({"weight": torch.randn(2, 32), "bias": torch.randn(2)}, tmp_path / "head.safetensors")
    assert state(file=str(tmp_path / "own.toml")) != before
    refused(tmp_path, r"has 2 rows and 'mine' has 3 labels; expected a row for each")
    save_file({"weight": torch.randn(3, 31)}, tmp_path / "head.safetensors")
    refused(tmp_path, r"holds weight \[3, 31\]; expected weight \[classes, 32\] and bias \[classes\]")
    (tmp_path / "head.safetensors").write_bytes(b"no head")
    refused(tmp_path, "cannot be read .* expected a safetensors file")
    (tmp_path / "head.safetensors").unlink()
    refused(tmp_path, "There is no .*head.safetensors; .* names it as head")


def test_an_expert_without_a_head_says_what_to_add(tmp_path: Path) -> None:
    models(tmp_path, BERT)
    labelled(tmp_path)
    write(tmp_path, "")
    refused(tmp_path, 'is a BertModel, which says nothing of its task; add kind = "…"')
    write(tmp_path, 'kind = "text-classification"')
    refused(tmp_path, 'is a BertModel, which has no head; add head = "fit"')
    write(tmp_path, 'kind = "text-classification"\nhead = "fit"\nlabels = ["bug", "praise", "refund", "other"]')
    refused(tmp_path, "No training row of 'mine' has the label 'other'")


def graded(place: Path, count: int = 800) -> None:
    """Texts whose number counts words of one kind."""
    for task, what in (("mine", "bug"), ("theirs", "praise")):
        words = TASKS["support"][what]
        made = [(text, sum(word in words for word in text.split())) for text, _ in examples("support", count, 1)]
        rows(place, task, [{"text": text, "score": number * 2.5 - 1} for text, number in made])


def test_numbers_are_fitted_and_scored_by_correlation(tmp_path: Path) -> None:
    models(tmp_path, BERT)
    graded(tmp_path)
    scenario = read(tmp_path, 'kind = "regression"\nhead = "fit"\nlabel = "score"', Regression)
    for name, task in scenario.tasks.items():
        found = scenario.experts[name].module()(**task.inputs_of("test")).logits[:, 0].detach().numpy()
        scores = task.scores(scenario.experts[name].module())
        assert scores.mean() == pytest.approx(np.corrcoef(found, task.labels["test"].numpy())[0, 1], abs=1e-5)
        assert scores.mean() > 0.4
        batch = next(task.batches("train", 99, np.random.default_rng(0)))
        assert float(task.loss(scenario.experts[name].module(), batch).detach()) < 1  # better than the mean
    rows(tmp_path, "mine", [{"text": text, "score": "high"} for text, _ in examples("support", 100, 1)])
    refused(tmp_path, "have 'high' in 'score'; expected a number")
    rows(tmp_path, "mine", [{"text": text, "score": 3} for text, _ in examples("support", 100, 1)])
    refused(tmp_path, r"Every \w+ row of 'mine' has the same 'score'")


def test_a_head_with_one_output_is_a_regression(tmp_path: Path) -> None:
    models(tmp_path, own_models.named(own_models.CONFIG, ["score"]))
    graded(tmp_path)
    scenario = read(tmp_path, 'label = "score"', Regression)
    assert scenario.experts["mine"].digest() == Checkpoint.open(tmp_path / "mine").digest()
    models(tmp_path / "more", own_models.named(own_models.CONFIG, ["a", "b"]))
    (tmp_path / "mine.jsonl").rename(tmp_path / "more" / "mine.jsonl")
    (tmp_path / "theirs.jsonl").rename(tmp_path / "more" / "theirs.jsonl")
    write(tmp_path / "more", 'kind = "regression"\nlabel = "score"')
    refused(tmp_path / "more", "has 2 outputs; expected the one of a regression")


def test_a_regression_is_trained_where_its_expert_is_missing(tmp_path: Path) -> None:
    models(tmp_path, BERT)
    graded(tmp_path)
    training = 'kind = "regression"\nlabel = "score"\ntrain = true\nsteps = 120\nrate = 3e-3\nbatch = 32'
    write(tmp_path, 'kind = "regression"\nhead = "fit"\nlabel = "score"', theirs=training)
    scenario = load(tmp_path)
    expert = scenario.experts["theirs"]
    assert expert.config["architectures"] == ["BertForSequenceClassification"]
    assert expert.shape("classifier.weight") == (1, 32)
    assert scenario.tasks["theirs"].scores(expert.module()).mean() > 0.5


def searched(place: Path, count: int = 120) -> None:
    """Queries that share two words with the passage that is relevant."""
    draws = np.random.default_rng(0)
    passages = [" ".join(draws.choice(own_models.FILLER, 5, replace=False)) for _ in range(60)]
    rows(place, "corpus", [{"id": f"p{number}", "text": text} for number, text in enumerate(passages)])
    for task in ("mine", "theirs"):
        found = []
        for _ in range(count):
            number = int(draws.integers(60))
            words = [*draws.choice(passages[number].split(), 4, replace=False), str(draws.choice(VOCABULARY[44:]))]
            found.append({"query": " ".join(words), "relevant": [f"p{number}"]})
        rows(place, task, found)


def test_queries_are_scored_by_where_relevant_passages_come(tmp_path: Path) -> None:
    models(tmp_path, BERT)
    searched(tmp_path)
    scenario = read(tmp_path, 'kind = "retrieval"\ncorpus = "corpus.jsonl"', Retrieval)
    for name, task in scenario.tasks.items():
        assert isinstance(task, Retrieval)
        assert len(task.corpus["input_ids"]) == 60
        assert task.chance < 0.1
        scores = task.scores(scenario.experts[name].module())
        assert scores.mean() > task.chance + 0.3  # words alone bring queries near
        assert not own_tensors(scenario.experts[name], scenario.base)
        loss = task.loss(scenario.experts[name].module(), next(task.batches("train", 8, np.random.default_rng(0))))
        assert loss.requires_grad


def test_a_corpus_is_cut_and_never_a_relevant_passage(tmp_path: Path) -> None:
    models(tmp_path, BERT)
    searched(tmp_path)
    write(tmp_path, 'kind = "retrieval"\ncorpus = "corpus.jsonl"\npassages = 3')
    task = load(tmp_path).tasks["mine"]
    assert isinstance(task, Retrieval)
    wanted = {
        key for line in (tmp_path / "mine.jsonl").read_text().splitlines() for key in json.loads(line)["relevant"]
    }
    assert len(task.corpus["input_ids"]) == len(wanted)


RETRIEVAL: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no corpus": (lambda p: write(p, 'kind = "retrieval"'), "names no passages; add corpus"),
    "no such corpus": (
        lambda p: write(p, 'kind = "retrieval"\ncorpus = "copus.jsonl"'),
        "There is no .*copus.jsonl; .* names it as corpus",
    ),
    "unknown passage": (
        lambda p: rows(p, "mine", [{"query": f"word{n % 40} x{n}", "relevant": "p99"} for n in range(90)]),
        "call the passage 'p99' relevant, which .*corpus.jsonl does not have",
    ),
    "one key twice": (
        lambda p: rows(p, "corpus", [{"id": "p0", "text": f"word{n}"} for n in range(3)]),
        "has two passages with the id 'p0'",
    ),
    "no relevant passage": (
        lambda p: rows(p, "mine", [{"query": f"word{n % 40} x{n}", "relevant": []} for n in range(90)]),
        "has no relevant passage in 'relevant'",
    ),
}


@pytest.mark.parametrize("wrong", RETRIEVAL)
def test_bad_queries_and_passages_get_one_sentence(tmp_path: Path, wrong: str) -> None:
    models(tmp_path, BERT)
    searched(tmp_path)
    write(tmp_path, 'kind = "retrieval"\ncorpus = "corpus.jsonl"')
    break_it, sentence = RETRIEVAL[wrong]
    break_it(tmp_path)
    refused(tmp_path, sentence)
