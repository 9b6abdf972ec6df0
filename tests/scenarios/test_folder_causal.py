"""Kinds of tasks of causal models, of a scenario that is a file: choices and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redteam.evaluation.load_scenarios import try_out
from redteam.tasks import Classification, Generation, MultipleChoice
from tests.scenarios import own_models
from tests.scenarios.own_kinds import LLAMA, load, models, read, refused, rows, write
from tests.scenarios.own_models import VOCABULARY


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path_factory.mktemp("cache")))


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
    scenario = read(tmp_path, "", Classification)
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
    scenario = read(tmp_path, 'kind = "generation"', Generation)
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
