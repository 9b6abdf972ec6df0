"""Tasks of lm-evaluation-harness by name: what it shows a model is what our models are shown, and scored on."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.plugins.registry import SCENARIOS
from redteam.tasks import Generation, MultipleChoice, Scenario
from redteam.tasks.choices import IGNORED, RIGHT
from tests.scenarios import own_adapters
from tests.scenarios.own_adapters import VOCABULARY

WORDS = own_adapters.WORDS["law"]
LLAMA = {**own_adapters.SIZES, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
CHOOSES = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {files}}}
output_type: multiple_choice
training_split: train
validation_split: validation
test_split: test
doc_to_text: "{{{{start}}}} judge"
doc_to_choice: "{{{{ends}}}}"
doc_to_target: right
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
WRITES = """
task: tiny_writing
dataset_path: json
dataset_kwargs: {{data_files: {files}}}
output_type: generate_until
training_split: train
test_split: test
num_fewshot: 1
fewshot_config: {{sampler: first_n}}
doc_to_text: "{{{{start}}}} judge"
doc_to_target: "court {{{{ends[right]}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false}}
filter_list:
  - name: strict
    filter: [{{function: regex, regex_pattern: "court (\\\\w+)"}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A Llama and two fine-tunes of it, and documents of another task."""
    base = Checkpoint.of({}, LLAMA).fresh(0)
    base.save(tmp_path / "base")
    own_adapters.tokenizer().save_pretrained(tmp_path / "base")
    for number, name in enumerate(("mine", "theirs"), start=1):
        generator = torch.Generator().manual_seed(number)
        base.replace({n: x + 0.1 * torch.randn(x.shape, generator=generator) for n, x in base.items()}).save(
            tmp_path / name
        )
    lines = "".join(json.dumps({"text": text}) + "\n" for text in own_adapters.documents("code", 100, 0))
    (tmp_path / "theirs.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def load(place: Path, data: str, more: str = "") -> Scenario:
    (place / "own.toml").write_text(
        f'base = "base"\nvictim = "mine"\n[tasks.mine]\nmodel = "mine"\ndata = "{data}"\n{more}\n'
        '[tasks.theirs]\nmodel = "theirs"\ndata = "theirs.jsonl"\n',
        encoding="utf-8",
    )
    return SCENARIOS.load(str(place / "own.toml"))()  # type: ignore[no-any-return]


def documents(count: int, start: int) -> list[dict[str, Any]]:
    """Each with four endings; the right one depends on where it starts."""
    made = []
    for n in range(start, start + count):
        words = [WORDS[n % len(WORDS)], WORDS[n // len(WORDS) % len(WORDS)]]
        made.append({"start": " ".join(words), "ends": ["oath", "bail", "writ order", "tort"], "right": n % 4})
    return made


@pytest.fixture
def harness(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The harness with two tasks alone, whose data lie on this machine."""
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    import lm_eval.tasks

    files = {}
    for number, (split, count) in enumerate({"train": 80, "validation": 40, "test": 60}.items()):
        files[split] = str(place / f"{split}.json")
        Path(files[split]).write_text("\n".join(map(json.dumps, documents(count, 1000 * number))), encoding="utf-8")
    (place / "tasks").mkdir()
    for name, text in {"chooses": CHOOSES, "writes": WRITES}.items():
        (place / "tasks" / f"{name}.yaml").write_text(text.format(files=json.dumps(files)), encoding="utf-8")
    real = lm_eval.tasks.TaskManager
    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", lambda: real(include_path=str(place / "tasks"), include_defaults=False)
    )
    return lm_eval


def words(tokens: Sequence[int]) -> str:
    return " ".join(VOCABULARY[token] for token in tokens if token not in (IGNORED, 0))


def test_choices_are_scored_as_the_harness_does(place: Path, harness: Any) -> None:
    scenario = load(place, "lm-eval:tiny_choice")
    task = scenario.tasks["mine"]
    assert isinstance(task, MultipleChoice)
    assert task.chance == 0.25
    sizes = {split: len(labels) for split, labels in task.labels.items()}
    assert sizes == {"train": 80, "validation": 40, "test": 60}
    right = {document["start"]: document["ends"][document["right"]] for document in documents(60, 2000)}
    for ids, labels in zip(task.inputs["test"]["input_ids"].tolist(), task.labels["test"], strict=True):
        start = words(ids).removesuffix(" judge")
        (chosen,) = labels[labels[:, 0] == RIGHT]
        assert words(chosen[1:].tolist()) == right[start]
    module = scenario.experts["mine"].module()
    ours = float(task.scores(module).mean())
    assert ours == pytest.approx(by_the_harness(place, harness), abs=1e-9)


def by_the_harness(place: Path, harness: Any) -> float:
    """The accuracy that lm_eval itself gives for the same model and task."""
    pytest.importorskip("accelerate", reason="the harness runs models by it")
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(place / "mine"),
        tokenizer=AutoTokenizer.from_pretrained(place / "base"),
        batch_size=1,
    )
    manager = harness.tasks.TaskManager()
    found = harness.simple_evaluate(model, tasks=["tiny_choice"], task_manager=manager, bootstrap_iters=0)
    return float(found["results"]["tiny_choice"]["acc,none"])


def test_what_is_written_is_compared_by_the_pattern_of_the_harness(place: Path, harness: Any) -> None:
    task = load(place, "lm-eval:tiny_writing").tasks["mine"]
    assert isinstance(task, Generation)
    assert task.pattern == r"court (\w+)"
    shown = words(task.inputs["test"]["input_ids"][0].tolist())
    assert shown.count("judge court") == 1, "one example stands before the question"
    assert shown.endswith("judge")
    assert all(words(row).startswith("court ") for row in task.labels["test"].tolist())


def test_a_second_reading_needs_no_harness(place: Path, harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(place, "lm-eval:tiny_choice").tasks["mine"].digest()
    monkeypatch.setattr(harness.tasks, "TaskManager", None)
    assert load(place, "lm-eval:tiny_choice").tasks["mine"].digest() == first


REFUSED = {
    "group": ("lm-eval:tiny_choic", "", r"is no task of lm-evaluation-harness; .* did you mean tiny_choice\?"),
    "kind": ("lm-eval:tiny_choice", 'kind = "perplexity"', "is a task of multiple-choice, not of perplexity"),
    "code": ("lm-eval:runs_code", "", "runs code that comes with its data or its answers, which is never run"),
    "output": ("lm-eval:likely", "", "is scored by loglikelihood, which is not done here"),
    "data": ("lm-eval:absent", "", "cannot be loaded by lm-evaluation-harness"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_scored_here_is_one_sentence(place: Path, harness: Any, wrong: str) -> None:
    text = (place / "tasks" / "chooses.yaml").read_text(encoding="utf-8")
    changed: Mapping[str, tuple[str, str]] = {
        "runs_code": ("dataset_kwargs: {", "dataset_kwargs: {trust_remote_code: true, "),
        "likely": ("output_type: multiple_choice", "output_type: loglikelihood"),
        "absent": (str(place / "test.json"), str(place / "absent.json")),
    }
    for name, (old, new) in changed.items():
        other = text.replace(old, new).replace("tiny_choice", name)
        (place / "tasks" / f"{name}.yaml").write_text(other, encoding="utf-8")
    data, more, sentence = REFUSED[wrong]
    with pytest.raises(BadInput, match=sentence) as raised:
        load(place, data, more)
    assert "\n" not in str(raised.value)
    assert not [path for path in (place / "cache").rglob("lm-eval-*") if wrong != "kind"]


def test_without_the_harness_a_sentence_says_how_to_get_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(BadInput, match=r"which is not installed; pip install 'merge-redteam\[lm-eval\]'\.$"):
        load(place, "lm-eval:arc_easy")
