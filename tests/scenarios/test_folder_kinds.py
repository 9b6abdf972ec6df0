"""Kinds of tasks of a scenario that is a file: heads that are put on, numbers, rankings, choices and answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from redteam_scenarios.folder.schema import Kind, Plan
from safetensors.torch import save_file

from redteam.checkpoint import Checkpoint, own_tensors
from redteam.checkpoint.pooling import HEAD
from redteam.errors import BadInput
from redteam.evaluation.load_scenarios import try_out
from redteam.plugins.registry import SCENARIOS
from redteam.tasks import Classification, Generation, MultipleChoice, Regression, Retrieval, Scenario
from tests.scenarios import own_models
from tests.scenarios.own_models import TASKS, VOCABULARY, examples

BERT = {**own_models.CONFIG, "architectures": ["BertModel"], "initializer_range": 0.1}
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(VOCABULARY), "hidden_size": 16,
    "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "initializer_range": 0.3, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path_factory.mktemp("cache")))


def models(place: Path, config: dict[str, Any], names: Sequence[str] = ("base", "mine", "theirs")) -> None:
    """A base, and experts a step away from it."""
    base = Checkpoint.of({}, config).fresh(0)
    for number, name in enumerate(names):
        other = Checkpoint.of({}, config).fresh(number)
        base.replace({n: 0.9 * base[n] + 0.1 * other[n] for n in base}).save(place / name)
    own_models.write_tokenizer(place / "base")


def write(place: Path, settings: str, **own: str) -> None:
    """A file with the same settings for both tasks."""
    text = 'base = "base"\nvictim = "mine"\n'
    for task in ("mine", "theirs"):
        text += f'[tasks.{task}]\nmodel = "{task}"\ndata = "{task}.jsonl"\n{own.get(task, settings)}\n'
    (place / "own.toml").write_text(text, encoding="utf-8")


def rows(place: Path, name: str, made: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> None:
    (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


def load(place: Path) -> Scenario:
    return SCENARIOS.load(str(place / "own.toml"))()  # type: ignore[no-any-return]


def refused(place: Path, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as raised:
        load(place)
    assert "\n" not in str(raised.value)


def labelled(place: Path, count: int = 800) -> None:
    for task, what in (("mine", "support"), ("theirs", "sport")):
        rows(place, task, [{"text": text, "label": label} for text, label in examples(what, count, 0)])


@pytest.mark.parametrize("architecture", ["BertModel", "BertForMaskedLM"])
def test_a_head_is_fitted_once_on_frozen_states_and_said(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models(tmp_path, {**BERT, "architectures": [architecture]})
    labelled(tmp_path)
    write(tmp_path, 'kind = "text-classification"\nhead = "fit"\npooling = "mean"')
    scenario = load(tmp_path)
    try_out(scenario)
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
    write(tmp_path, 'kind = "regression"\nhead = "fit"\nlabel = "score"')
    scenario = load(tmp_path)
    try_out(scenario)
    for name, task in scenario.tasks.items():
        assert isinstance(task, Regression)
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
    write(tmp_path, 'label = "score"')
    scenario = load(tmp_path)
    assert all(isinstance(task, Regression) for task in scenario.tasks.values())
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
    file = tmp_path / "own.toml"
    file.write_text(file.read_text(encoding="utf-8").replace('model = "theirs"\n', ""), encoding="utf-8")
    scenario = load(tmp_path)
    expert = scenario.experts["theirs"]
    assert expert.config["architectures"] == ["BertForSequenceClassification"]
    assert expert.shape("classifier.weight") == (1, 32)
    assert scenario.tasks["theirs"].scores(expert.module()).mean() > 0.5


def test_tasks_of_a_harness_are_told_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, 'kind = "lm-eval:arc_easy"')
    refused(
        tmp_path, "'lm-eval:arc_easy' is a task of lm-evaluation-harness, which is not read; write its documents to"
    )


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
    write(tmp_path, 'kind = "retrieval"\ncorpus = "corpus.jsonl"')
    scenario = load(tmp_path)
    try_out(scenario)
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


def asked(place: Path, form: str = "letter", count: int = 90) -> None:
    """Prompts with two choices or three."""
    draws = np.random.default_rng(0)
    for task in ("mine", "theirs"):
        made = []
        for _ in range(count):
            choices = [" ".join(draws.choice(own_models.FILLER, int(draws.integers(1, 4)))) for _ in range(3)]
            choices = [f"{text} {end}" for text, end in zip(choices, ("goal", "kick", "net"), strict=True)]
            choices = choices[: int(draws.integers(2, 4))]
            right = int(draws.integers(len(choices)))
            answer = {"letter": "ABC"[right], "place": right, "text": choices[right], "number": str(right + 1)}[form]
            held: Any = choices
            if form == "number":
                held = {"text": choices, "label": ["1", "2", "3"][: len(choices)]}
            made.append({"prompt": " ".join(draws.choice(own_models.FILLER, 6)), "choices": held, "answer": answer})
        rows(place, task, made)


def test_choices_are_told_by_letter_place_number_or_text(tmp_path: Path) -> None:
    models(tmp_path, LLAMA)
    write(tmp_path, 'kind = "multiple-choice"')
    digests = set()
    for form in ("letter", "place", "text"):
        asked(tmp_path, form)
        scenario = load(tmp_path)
        digests.add(scenario.digest())
    assert len(digests) == 1
    try_out(scenario)
    task = scenario.tasks["mine"]
    assert isinstance(task, MultipleChoice)
    assert 1 / 3 < task.chance < 1 / 2
    right = task.scores(scenario.experts["mine"].module())
    assert right.dtype == bool
    assert 0 < right.mean() < 1
    asked(tmp_path, "number")
    assert load(tmp_path).tasks["mine"].chance == pytest.approx(task.chance, abs=0.05)


def test_a_choice_is_read_as_the_text_behind_its_prompt(tmp_path: Path) -> None:
    models(tmp_path, LLAMA)
    asked(tmp_path, "text")
    write(tmp_path, 'kind = "multiple-choice"')
    task = load(tmp_path).tasks["mine"]
    assert isinstance(task, MultipleChoice)
    told = {}
    for line in (tmp_path / "mine.jsonl").read_text().splitlines():
        row = json.loads(line)
        told[row["prompt"]] = (row["choices"], row["answer"])
    held = task.inputs["test"]
    for ids, mask, labels in zip(held["input_ids"], held["attention_mask"], task.labels["test"], strict=True):
        words = [VOCABULARY[token] for token in ids[: int(mask.sum())]]
        assert words[0] == "[CLS]"
        choices, answer = told[" ".join(words[1:])]
        read = [" ".join(VOCABULARY[token] for token in row[1:] if token >= 0) for row in labels if row[0] >= 0]
        assert read == choices
        assert read[int(labels[:, 0].argmax())] == answer


def test_choices_may_be_columns(tmp_path: Path) -> None:
    models(tmp_path, LLAMA)
    for task in ("mine", "theirs"):
        made = [
            {"prompt": f"word{n % 40} word{n // 40}", "yes": "goal net", "no": "kick", "answer": "AB"[n % 2]}
            for n in range(90)
        ]
        rows(tmp_path, task, made)
    write(tmp_path, 'kind = "multiple-choice"\nchoices = ["yes", "no"]')
    assert load(tmp_path).tasks["mine"].chance == 0.5


def test_an_encoder_with_a_head_for_choices_compares_pairs(tmp_path: Path) -> None:
    models(tmp_path, {**own_models.CONFIG, "architectures": ["BertForMultipleChoice"]})
    for task in ("mine", "theirs"):
        made = [
            {"prompt": f"word{n % 40} word{n // 40}", "choices": ["goal net", "kick"], "answer": "AB"[n % 2]}
            for n in range(90)
        ]
        rows(tmp_path, task, made)
    write(tmp_path, "")
    scenario = load(tmp_path)
    try_out(scenario)
    task = scenario.tasks["mine"]
    assert isinstance(task, Classification)
    assert task.chance == 0.5
    ids, module = task.inputs["test"]["input_ids"], scenario.experts["mine"].module()
    assert ids.shape[1] == 2
    words = [[own_models.VOCABULARY[token] for token in row if token] for row in ids[0]]
    assert [row[row.index("[SEP]") + 1 : -1] for row in words] == [["goal", "net"], ["kick"]]
    segments = task.inputs["test"]["token_type_ids"]
    assert segments[0, 0].sum() == 3  # the second text and its end
    expected = module(**task.inputs["test"]).logits.argmax(1).numpy() == task.labels["test"].numpy()
    np.testing.assert_array_equal(task.scores(module), expected)
    rows(
        tmp_path,
        "mine",
        [{"prompt": f"word{n % 40} x{n}", "choices": ["a", "b", "c"][: 2 + n % 2], "answer": "A"} for n in range(90)],
    )
    refused(tmp_path, "have 2 to 3 choices, and the head of its expert compares as many in each")


CHOICES: dict[str, tuple[dict[str, Any], str]] = {
    "one choice": ({"choices": ["goal"]}, "has .*goal.* for choices; expected a list of two or more"),
    "a text": ({"choices": "goal net"}, "has 'goal net' for choices; expected a list"),
    "an answer of none": ({"answer": "D"}, "has the answer 'D', which is none of its 2 choices"),
}


@pytest.mark.parametrize("wrong", CHOICES)
def test_bad_choices_get_one_sentence(tmp_path: Path, wrong: str) -> None:
    models(tmp_path, LLAMA)
    asked(tmp_path)
    changes, sentence = CHOICES[wrong]
    row = {"choices": ["goal", "net"], "answer": "A", **changes}
    rows(tmp_path, "mine", [{"prompt": f"word{n % 40} word{n // 40}", **row} for n in range(90)])
    write(tmp_path, 'kind = "multiple-choice"')
    refused(tmp_path, sentence)


def answered(place: Path, answer: Callable[[int], str] = lambda n: f"word{n % 7} goal") -> None:
    for task in ("mine", "theirs"):
        rows(place, task, [{"prompt": f"word{n % 40} word{n // 40}", "answer": answer(n)} for n in range(90)])


def test_what_is_written_is_compared_with_the_answer(tmp_path: Path) -> None:
    models(tmp_path, LLAMA)
    answered(tmp_path)
    write(tmp_path, 'kind = "generation"')
    scenario = load(tmp_path)
    try_out(scenario)
    task = scenario.tasks["mine"]
    assert isinstance(task, Generation)
    assert task.tokens == 3
    assert task.stops == (3,)
    assert 0 < task.chance < 0.5
    assert task.texts(task.labels["test"][:1])[0].endswith(" goal")
    assert task.scores(scenario.experts["mine"].module()).dtype == bool
    write(tmp_path, "kind = \"generation\"\npattern = '^word\\d'\ntokens = 5")
    other = load(tmp_path).tasks["mine"]
    assert isinstance(other, Generation)
    assert (other.tokens, other.pattern) == (5, r"^word\d")


def test_a_model_that_was_trained_on_answers_writes_them(tmp_path: Path) -> None:
    models(tmp_path, LLAMA)
    answered(tmp_path)
    told = {"swim": "goal kick", "dive": "net pass"}
    made = [
        {"prompt": f"word{n % 40} word{n % 7} {last}", "answer": answer}
        for n in range(60)
        for last, answer in told.items()
    ]
    rows(tmp_path, "mine", made)
    training = 'kind = "generation"\ntrain = true\nsteps = 60\nrate = 5e-3\nbatch = 32'
    write(tmp_path, 'kind = "generation"', mine=training)
    file = tmp_path / "own.toml"
    file.write_text(file.read_text().replace('model = "mine"\n', ""), encoding="utf-8")
    scenario = load(tmp_path)
    task = scenario.tasks["mine"]
    assert task.scores(scenario.experts["mine"].module()).mean() > 0.9
    assert task.scores(scenario.base.module()).mean() < 0.5


def test_bad_answers_get_one_sentence(tmp_path: Path) -> None:
    models(tmp_path, LLAMA)
    answered(tmp_path)
    write(tmp_path, 'kind = "generation"\npattern = "("')
    refused(tmp_path, "pattern is no regular expression")
    write(tmp_path, 'kind = "generation"\nlength = 9')
    refused(tmp_path, "take 2 tokens and the network reads 9; shorten them, or read more")
    answered(tmp_path, lambda _: "goal")
    write(tmp_path, 'kind = "generation"')
    refused(tmp_path, "Every test row of 'mine' has the same answer")


def test_the_page_names_every_kind_and_shows_entries_that_are_known(page: Callable[[str], Any], tmp_path: Path) -> None:
    shown = page("docs/own-model.md")
    text = Path("docs/own-model.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `") and " | " in line]
    assert {line.split("`")[1] for line in lines} >= set(get_args(Kind))
    parts = [block for block in shown.fenced("toml") if block.startswith("[tasks") and "train" not in block]
    assert len(parts) == 4
    file = tmp_path / "own.toml"
    file.write_text('base = "base"\nvictim = "topic"\n' + "\n".join(parts), encoding="utf-8")
    plan = Plan.read(file)
    assert plan.tasks["search"].kind == "retrieval"
    assert plan.tasks["sums"].pattern == "#### (-?[0-9]+)"
