"""A scenario that is a file: what it reads, and the one sentence on whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.evaluation.load_scenarios import try_out
from redteam.plugins.registry import SCENARIOS
from redteam.tasks import Classification, LogLikelihood, Scenario
from tests.scenarios import own_models

Place = Path


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Untrained models and data, and a file of eleven lines."""
    config = own_models.CONFIG
    base = Checkpoint.of({}, config).fresh(0)
    body = {name: tensor for name, tensor in base.items() if not name.startswith("classifier")}
    Checkpoint.of(body, {**config, "architectures": ["BertModel"]}).save(tmp_path / "base")
    own_models.write_tokenizer(tmp_path / "base")
    for number, task in enumerate(own_models.TASKS, start=1):
        named = own_models.named(config, list(own_models.TASKS[task]))
        expert = Checkpoint.of({}, named).fresh(number)
        expert.save(tmp_path / task)
        own_models.write_csv(tmp_path / f"{task}.csv", own_models.examples(task, 120, 0))
    own_models.write_scenario(tmp_path)
    return tmp_path


def load(place: Path, seed: int = 0) -> Scenario:
    return SCENARIOS.load(f"{place / 'mine.toml'}:seed={seed}")()  # type: ignore[no-any-return]


def change(place: Path, old: str, new: str) -> None:
    file = place / "mine.toml"
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_a_file_gives_base_experts_and_tasks(place: Path) -> None:
    scenario = load(place)
    assert scenario.name == "mine"
    assert scenario.victim == "support"
    assert scenario.companions == ("weather", "sport")
    assert all(set(scenario.base) < set(expert) for expert in scenario.experts.values())
    try_out(scenario)
    for name, task in scenario.tasks.items():
        assert isinstance(task, Classification)
        assert {split: len(labels) for split, labels in task.labels.items()} == {
            "train": 30, "validation": 30, "test": 60,
        }  # fmt: skip
        assert task.chance == float(task.labels["test"].bincount().max()) / 60
        right = task.scores(scenario.experts[name].module())
        assert right.dtype == bool


def test_labels_are_the_heads_own(place: Path) -> None:
    expected = dict(own_models.examples("support", 120, 0))
    scenario, words = load(place), own_models.VOCABULARY
    task = scenario.tasks["support"]
    assert isinstance(task, Classification)
    for ids, label in zip(task.inputs["test"]["input_ids"], task.labels["test"], strict=True):
        text = " ".join(words[token] for token in ids if words[token][0] != "[")
        assert list(own_models.TASKS["support"])[label] == expected[text]


def test_the_second_reading_comes_from_the_cache_and_is_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(place)
    monkeypatch.setattr("redteam_scenarios.folder.kinds.text.tokenizer_of", lambda *_: pytest.fail("read again"))
    assert load(place).digest() == first.digest()


def test_rows_keep_their_split_whatever_stands_around_them(place: Path) -> None:
    before = load(place).tasks["support"].inputs_of("test")["input_ids"]
    rows = own_models.examples("support", 120, 0)
    own_models.write_csv(place / "support.csv", [*reversed(rows), rows[0]])
    assert torch.equal(load(place).tasks["support"].inputs_of("test")["input_ids"], before)


@pytest.mark.parametrize("ending", [".tsv", ".jsonl", ".json", ".parquet", ".arrow"])
def test_tables_of_every_format_read_alike(place: Path, ending: str) -> None:
    expected = load(place).tasks["support"].digest()
    rows = [{"text": text, "label": label} for text, label in own_models.examples("support", 120, 0)]
    file = place / f"support{ending}"
    if ending == ".tsv":
        file.write_text("text\tlabel\n" + "".join(f"{r['text']}\t{r['label']}\n" for r in rows), encoding="utf-8")
    elif ending == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif ending == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    else:
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.Table.from_pylist(rows)
        if ending == ".parquet":
            parquet.write_table(table, file)
        else:
            with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
    change(place, '"support.csv"', json.dumps(file.name))
    assert load(place).tasks["support"].digest() == expected


def test_victims_of_one_recipe_are_seeds(place: Path) -> None:
    other = Checkpoint.of({}, own_models.named(own_models.CONFIG, list(own_models.TASKS["support"]))).fresh(9)
    other.save(place / "again")
    change(place, 'model = "support"\n', "")
    change(place, 'victim = "support"', 'victim = "support"\nvictims = ["support", "again"]')
    assert load(place, 1).experts["support"].digest() == other.digest()
    assert load(place, 0).experts["support"].digest() == Checkpoint.open(place / "support").digest()
    with pytest.raises(BadInput, match="names 2 victims, so that there is no seed 2"):
        load(place, 2)


def test_every_task_is_the_victim_in_turn_of_the_same_models(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(place, 'victim = "support"', 'victims = "each"')
    file = str(place / "mine.toml")
    plugin = SCENARIOS.load(file)
    assert plugin.spec.victims is not None
    assert tuple(plugin.spec.victims(**plugin.settings)) == tuple(own_models.TASKS)
    first = SCENARIOS.load(f"{file}:victim=support")()
    monkeypatch.setattr("redteam_scenarios.folder.assembling.opened", lambda *_: pytest.fail("opened again"))
    for victim in own_models.TASKS:
        scenario = SCENARIOS.load(f"{file}:victim={victim}")()
        assert scenario.victim == victim
        assert set(scenario.companions) == set(own_models.TASKS) - {victim}
        assert f"fine-tuned for {victim} (the victim)" in scenario.summary
        assert all(scenario.experts[name] is expert for name, expert in first.experts.items())
    assert len({SCENARIOS.load(f"{file}:victim={v}")().digest() for v in own_models.TASKS}) == len(own_models.TASKS)
    monkeypatch.undo()
    change(place, 'model = "sport"', 'model = "weather"')
    with pytest.raises(
        BadInput, match=r"the label '\w+', which the head of its expert doesn't know; it knows rain, sun"
    ):
        SCENARIOS.load(f"{file}:victim=support")()
    with pytest.raises(BadInput, match="mine with each task as the victim in turn is several scenarios; ask for one"):
        plugin()


def test_another_victim_than_the_files_may_be_asked_for(place: Path) -> None:
    file = str(place / "mine.toml")
    assert SCENARIOS.load(f"{file}:victim=sport")().victim == "sport"
    plugin = SCENARIOS.load(f"{file}:victim=each")
    assert plugin.spec.victims is not None
    assert tuple(plugin.spec.victims(**plugin.settings)) == tuple(own_models.TASKS)
    with pytest.raises(BadInput, match="no task 'sprot' that could be the victim; did you mean 'sport'"):
        SCENARIOS.load(f"{file}:victim=sprot")()
    change(place, 'model = "support"\n', "")
    change(place, 'victim = "support"', 'victim = "support"\nvictims = ["support"]')
    with pytest.raises(BadInput, match="lists several fine-tunes of 'support', which has no model"):
        SCENARIOS.load(f"{file}:victim=sport")()


def test_its_state_changes_with_every_file_that_it_names(place: Path) -> None:
    state = SCENARIOS.load(str(place / "mine.toml")).spec.state
    assert state is not None
    seen = {state(file=str(place / "mine.toml"))}
    for name in ("mine.toml", "support.csv", "sport/model.safetensors", "base/config.json"):
        with (place / name).open("ab") as file:
            file.write(b"\n" if name != "support.csv" else b"more,bug\n")
        seen.add(state(file=str(place / "mine.toml")))
    assert len(seen) == 5


def test_documents_are_scored_by_the_gap_to_the_base(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(own_models.VOCABULARY),
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "initializer_range": 0.3,
    }  # fmt: skip
    for number, name in enumerate(("base", "mine", "theirs")):
        Checkpoint.of({}, config).fresh(number).save(tmp_path / name)
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": text}) + "\n" for text, _ in own_models.examples("support", 100, number)),
            encoding="utf-8",
        )
    own_models.write_tokenizer(tmp_path / "base")
    (tmp_path / "mine.toml").write_text(
        'base = "base"\nvictim = "mine"\n[tasks.mine]\nmodel = "mine"\ndata = "mine.jsonl"\n'
        '[tasks.theirs]\nmodel = "theirs"\ndata = "theirs.jsonl"\n',
        encoding="utf-8",
    )
    scenario = load(tmp_path)
    task = scenario.tasks["mine"]
    assert isinstance(task, LogLikelihood)
    assert not task.scores(scenario.base.module()).any()
    assert task.scores(scenario.experts["mine"].module()).std() > 0
    try_out(scenario)


def test_pictures_come_in_a_folder_for_each_class_or_a_table(tmp_path: Path) -> None:
    from PIL import Image

    config = {
        "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32, "image_size": 8, "patch_size": 4, "num_channels": 3,
    }  # fmt: skip
    named = own_models.named(config, ["cat", "dog"])
    for number, name in enumerate(("base", "mine", "theirs")):
        Checkpoint.of({}, named).fresh(number).save(tmp_path / name)
    processor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 8, "width": 8},
        "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True,
        "rescale_factor": 1 / 255,
    }  # fmt: skip
    (tmp_path / "base" / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    generator, rows = torch.Generator().manual_seed(0), []
    for number in range(100):
        label = ("cat", "dog")[number % 2]
        path = tmp_path / "pictures" / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(torch.randint(0, 256, (8, 8, 3), generator=generator).byte().numpy()).save(path)
        rows.append((str(path.relative_to(tmp_path)), label))
    own_models.write_csv(tmp_path / "pictures.csv", rows, ("image", "label"))
    (tmp_path / "mine.toml").write_text(
        'base = "base"\nvictim = "mine"\n[tasks.mine]\nmodel = "mine"\ndata = "pictures"\n'
        '[tasks.theirs]\nmodel = "theirs"\ndata = "pictures.csv"\n',
        encoding="utf-8",
    )
    mine, theirs = load(tmp_path).tasks.values()
    assert isinstance(mine, Classification)
    assert isinstance(theirs, Classification)
    assert torch.equal(mine.inputs["test"]["pixel_values"], theirs.inputs["test"]["pixel_values"])
    assert torch.equal(mine.labels["test"], theirs.labels["test"])
    assert mine.inputs["test"]["pixel_values"].abs().max() <= 1
    (tmp_path / "pictures" / "dog" / "1.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"dog/1\.png is no picture that can be read"):
        load(tmp_path)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no base": (lambda p: change(p, 'base = "base"\n', ""), "lacks 'base'; name the public model"),
    "unknown entry": (lambda p: change(p, "victim =", "victm ="), "'victm' that means nothing; did you mean 'victim'"),
    "unknown entry of a task": (
        lambda p: change(p, 'data = "sport.csv"', 'data = "sport.csv"\nlable = "x"'),
        "'tasks.sport.lable' that means nothing; did you mean 'label'",
    ),
    "victim of no task": (lambda p: change(p, 'victim = "support"', 'victim = "suport"'), "did you mean 'support'"),
    "unknown kind": (
        lambda p: change(p, 'data = "sport.csv"', 'data = "sport.csv"\nkind = "guess"'),
        "'guess' is no kind of task; expected 'text-classification'",
    ),
    "no victim": (
        lambda p: change(p, 'victim = "support"\n', ""),
        'no victim; name the task .* or write victims = "each"',
    ),
    "one victim and each": (
        lambda p: change(p, 'victim = "support"', 'victim = "support"\nvictims = "each"'),
        "makes every task the victim, and victim names one; keep one of them",
    ),
    "a task called each": (
        lambda p: change(p, "[tasks.sport]", "[tasks.each]"),
        "a task is called 'each', which stands for every task in turn",
    ),
    "no list of victims": (
        lambda p: change(p, 'victim = "support"', 'victim = "support"\nvictims = "all"'),
        "cannot be used, victims",
    ),
    "not TOML": (lambda p: change(p, 'victim = "support"', "victim ="), "is not TOML"),
    "no such model": (lambda p: change(p, 'model = "sport"', 'model = "./sprot"'), "sprot; .*mine.toml names it"),
    "no such data": (lambda p: change(p, '"sport.csv"', '"sprot.csv"'), "sprot.csv; .*mine.toml names it as data"),
    "data of no format": (lambda p: change(p, '"sport.csv"', '"base/config.json"'), "expected a list of objects"),
    "missing column": (
        lambda p: own_models.write_csv(p / "sport.csv", own_models.examples("sport", 120, 0), ("texts", "label")),
        "has no column 'text'; it has texts, label",
    ),
    "empty text": (
        lambda p: own_models.write_csv(p / "sport.csv", [*own_models.examples("sport", 120, 0), (" ", "ball")]),
        "has nothing in 'text'",
    ),
    "unknown label": (
        lambda p: own_models.write_csv(p / "sport.csv", [(t, "chess") for t, _ in own_models.examples("sport", 99, 0)]),
        "'chess', which the head of its expert doesn't know; it knows ball, water",
    ),
    "one label": (
        lambda p: own_models.write_csv(p / "sport.csv", [(t, "ball") for t, _ in own_models.examples("sport", 99, 0)]),
        "Every test row of 'sport' has the same label",
    ),
    "too few rows": (
        lambda p: own_models.write_csv(p / "sport.csv", own_models.examples("sport", 30, 0)),
        "has 7 rows that differ; expected 20",
    ),
    "no tokenizer": (
        lambda p: [file.unlink() for file in (p / "base").glob("*") if file.stem not in ("config", "model")],
        "has a tokenizer; copy its files there",
    ),
    "another base": (
        lambda p: (
            Checkpoint.of({}, {**own_models.CONFIG, "hidden_size": 16}).fresh(0).save(p / "other")
            or change(p, 'model = "sport"', 'model = "other"')
        ),
        "expert of 'sport'",
    ),
    "a pickle": (
        lambda p: ((p / "sport" / "model.safetensors").unlink(), (p / "sport" / "pytorch_model.bin").write_bytes(b"x")),
        "safetensors",
    ),
}


@pytest.mark.parametrize("wrong", BAD)
def test_bad_input_gets_one_sentence(place: Path, wrong: str) -> None:
    break_it, sentence = BAD[wrong]
    break_it(place)
    with pytest.raises(BadInput, match=sentence) as raised:
        load(place)
    assert "\n" not in str(raised.value)


def test_rows_that_are_tested_on_are_not_trained_on(place: Path) -> None:
    for part in ("validation", "test"):
        own_models.write_csv(
            place / f"{part}.csv", own_models.examples("sport", 60, {"validation": 1, "test": 2}[part])
        )
    change(
        place, 'data = "sport.csv"', 'data = "sport.csv"\nvalidation_data = "validation.csv"\ntest_data = "test.csv"'
    )
    task = load(place).tasks["sport"]
    assert len(task.inputs_of("test")["input_ids"]) == 60
    own_models.write_csv(place / "test.csv", own_models.examples("sport", 60, 1))
    with pytest.raises(BadInput, match="60 rows of the test data of 'sport' are among its validation data"):
        load(place)
