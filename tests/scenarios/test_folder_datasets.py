"""Datasets as Hugging Face's library and its hub keep them: their splits, their names of classes, their pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.plugins.registry import SCENARIOS
from redteam.tasks import Classification, Scenario
from tests.scenarios import own_models
from tests.scenarios.own_models import TASKS, examples
from tests.test_hub import SHA, Hub, model, server  # noqa: F401

NAMES = sorted(TASKS["support"])
"""In another order than the head has them."""
Rows = Sequence[Mapping[str, Any]]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Models and data of the task whose data a test keeps otherwise, and of another."""
    place = tmp_path / "place"
    base = Checkpoint.of({}, own_models.CONFIG).fresh(0)
    body = {name: tensor for name, tensor in base.items() if not name.startswith("classifier")}
    Checkpoint.of(body, {**own_models.CONFIG, "architectures": ["BertModel"]}).save(place / "base")
    own_models.write_tokenizer(place / "base")
    for number, task in enumerate(("support", "sport"), start=1):
        expert = Checkpoint.of({}, own_models.named(own_models.CONFIG, list(TASKS[task]))).fresh(number)
        expert.save(place / task)
        own_models.write_csv(place / f"{task}.csv", examples(task, 120, 0))
    return place


def load(place: Path, data: str = "support.csv", more: str = "") -> Scenario:
    (place / "own.toml").write_text(
        f'base = "base"\nvictim = "support"\n[tasks.support]\nmodel = "support"\ndata = "{data}"\n{more}\n'
        '[tasks.sport]\nmodel = "sport"\ndata = "sport.csv"\n',
        encoding="utf-8",
    )
    return SCENARIOS.load(str(place / "own.toml"))()  # type: ignore[no-any-return]


def rows(count: int, seed: int) -> Rows:
    return [{"text": text, "label": NAMES.index(label)} for text, label in examples("support", count, seed)]


def features(names: Sequence[str] = NAMES) -> dict[str, Any]:
    return {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": list(names), "_type": "ClassLabel"}}


def saved(folder: Path, made: Rows, split: str = "train", files: int = 2) -> None:
    """As `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    table = pyarrow.Table.from_pylist(list(made))
    step = -(-len(made) // files)
    for number, name in enumerate(names):
        part = table.slice(number * step, step)
        with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": split}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"features": features()}), encoding="utf-8")


def saved_splits(folder: Path, splits: Mapping[str, Rows]) -> None:
    """As `DatasetDict.save_to_disk` writes it."""
    for split, made in splits.items():
        saved(folder / split, made, split)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}), encoding="utf-8")


def sizes(scenario: Scenario) -> dict[str, int]:
    task = scenario.tasks["support"]
    assert isinstance(task, Classification)
    return {split: len(labels) for split, labels in task.labels.items()}


def test_a_saved_dataset_reads_as_the_table_does_its_numbers_under_their_names(place: Path) -> None:
    expected = load(place).tasks["support"].digest()
    saved(place / "saved", rows(120, 0))
    assert load(place, "saved").tasks["support"].digest() == expected


def test_numbers_are_the_heads_where_it_has_no_such_names(place: Path) -> None:
    saved(place / "saved", rows(120, 0))
    (place / "saved" / "dataset_info.json").write_text(json.dumps({"features": features("abc")}), encoding="utf-8")
    task = load(place, "saved").tasks["support"]
    assert isinstance(task, Classification)
    words = own_models.VOCABULARY
    expected = {row["text"]: row["label"] for row in rows(120, 0)}
    for ids, label in zip(task.inputs["test"]["input_ids"], task.labels["test"], strict=True):
        assert expected[" ".join(words[token] for token in ids if words[token][0] != "[")] == label


def test_the_splits_of_a_dataset_are_kept_and_share_nothing(place: Path) -> None:
    test = rows(60, 2)
    saved_splits(
        place / "saved", {"train": [*rows(90, 0), *test[:10]], "validation": [*rows(40, 1), test[11]], "test": test}
    )
    assert sizes(load(place, "saved")) == {"train": 90, "validation": 40, "test": 60}
    assert sizes(load(place, "saved", "limit = 30")) == {"train": 30, "validation": 30, "test": 30}


def test_a_test_split_without_labels_gives_way_to_the_validation_split(place: Path) -> None:
    hidden = [{**row, "label": -1} for row in rows(50, 2)]
    saved_splits(place / "saved", {"train": rows(100, 0), "validation": rows(40, 1), "test": hidden})
    assert sizes(load(place, "saved")) == {"train": 75, "validation": 25, "test": 40}


def test_a_limit_takes_some_of_every_class_where_rows_are_sorted_by_class(place: Path) -> None:
    made = {split: sorted(rows(200, n), key=lambda row: row["label"]) for n, split in enumerate(("train", "test"))}
    saved_splits(place / "saved", made)
    task = load(place, "saved", "limit = 40").tasks["support"]
    assert isinstance(task, Classification)
    assert all(len(labels.unique()) == 3 for labels in task.labels.values())


def test_splits_may_be_named_one_by_one(place: Path) -> None:
    saved_splits(place / "saved", {"train": rows(60, 0), "validation": rows(30, 1), "test": rows(40, 2)})
    more = 'validation_data = "saved/test"\ntest_data = "saved/validation"'
    assert sizes(load(place, "saved/train", more)) == {"train": 60, "validation": 40, "test": 30}


def parquets(folder: Path, splits: Mapping[str, Rows], about: Mapping[str, Any] | None = None) -> None:
    """As a dataset lies on the hub."""
    folder.mkdir(parents=True)
    for split, made in splits.items():
        table = pyarrow.Table.from_pylist(list(made))
        told = json.dumps({"info": {"features": about or features()}}).encode()
        parquet.write_table(
            table.replace_schema_metadata({b"huggingface": told}), folder / f"{split}-00000-of-00001.parquet"
        )


def test_parquet_is_read_in_the_splits_that_its_files_are_named_by(place: Path) -> None:
    made = {"train": rows(100, 0), "validation": rows(40, 1), "test": rows(50, 2)}
    saved_splits(place / "saved", made)
    parquets(place / "flat" / "data", made)
    assert sizes(load(place, "flat")) == {"train": 100, "validation": 40, "test": 50}
    assert load(place, "flat").tasks["support"].digest() == load(place, "saved").tasks["support"].digest()


def test_splits_beside_train_and_test_are_left_out(place: Path) -> None:
    made = {"train": rows(100, 0), "validation": rows(40, 1), "test": rows(50, 2)}
    noisy = [{**row, "text": row["text"] + " word0"} for row in made["test"]]
    parquets(place / "flat", {**made, "gaussian_noise": noisy})
    assert sizes(load(place, "flat")) == {"train": 100, "validation": 40, "test": 50}
    parquets(place / "named", {"part-a": made["train"], "part-b": made["validation"]})
    assert sizes(load(place, "named")) == {"train": 35, "validation": 35, "test": 70}


def test_pictures_in_tables_are_bytes(tmp_path: Path) -> None:
    config = own_models.named(
        {
            "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 16,
            "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 8, "patch_size": 4,
        },
        ["dog", "cat"],
    )  # fmt: skip
    for number, name in enumerate(("base", "support", "sport")):
        Checkpoint.of({}, config).fresh(number).save(tmp_path / name)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (tmp_path / "base" / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    draws, made = torch.Generator().manual_seed(0), []
    for number in range(140):
        pixels = torch.randint(0, 256, (8, 8, 3), generator=draws).byte().numpy()
        pixels[..., 0] = 255 * (number % 2)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        made.append({"img": {"bytes": stream.getvalue(), "path": None}, "label": number % 2})
    about = {"img": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    parquets(tmp_path / "pictures", {"train": made[:100], "test": made[100:]}, about)
    text = 'base = "base"\nvictim = "support"\n'
    for task in ("support", "sport"):
        text += f'[tasks.{task}]\nmodel = "{task}"\ndata = "pictures"\nimage = "img"\n'
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    scenario = SCENARIOS.load(str(tmp_path / "own.toml"))()
    task = scenario.tasks["support"]
    red = task.inputs["test"]["pixel_values"][:, 0].mean((1, 2)) > 0
    assert torch.equal(task.labels["test"], 1 - red.long())  # the head calls its first output dog
    made[0]["img"] = {"bytes": b"none", "path": None}
    (tmp_path / "pictures" / "train-00000-of-00001.parquet").unlink()
    (tmp_path / "pictures" / "test-00000-of-00001.parquet").unlink()
    (tmp_path / "pictures").rmdir()
    parquets(tmp_path / "pictures", {"train": made}, about)
    with pytest.raises(BadInput, match="A picture of 4 bytes in the data is no picture that can be read"):
        SCENARIOS.load(str(tmp_path / "own.toml"))()


def test_a_dataset_of_the_hub_is_fetched_by_name(place: Path, tmp_path: Path, server: Hub) -> None:  # noqa: F811
    made = {"train": rows(100, 0), "validation": rows(40, 1), "test": rows(50, 2)}
    parquets(tmp_path / "remote" / "one", made)
    server.repositories["org/data"] = tmp_path / "remote"
    parquets(place / "flat", made)
    expected = load(place, "flat").tasks["support"].digest()
    assert load(place, "org/data").tasks["support"].digest() == expected
    assert load(place, "org/data:one", f'data_revision = "{SHA}"').tasks["support"].digest() == expected
    with pytest.raises(BadInput, match="There is no dataset org/absent on"):
        load(place, "org/absent")
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    server.repositories["org/script"] = tmp_path / "script"
    with pytest.raises(BadInput, match="org/script has no Parquet on the hub, and a loading script is never run"):
        load(place, "org/script")


def test_what_is_no_dataset_is_one_sentence(place: Path) -> None:
    def refused(sentence: str, data: str = "saved") -> None:
        with pytest.raises(BadInput, match=sentence) as raised:
            load(place, data)
        assert "\n" not in str(raised.value)

    (place / "saved").mkdir()
    (place / "saved" / "own.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    refused(r"saved has a loading script \(own.py\), which is never run; save the dataset once")
    saved(place / "other", rows(60, 0))
    (place / "other" / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}', encoding="utf-8")
    refused("names no data files of its folder", "other")
    (place / "other" / "state.json").write_text("{", encoding="utf-8")
    refused("state.json cannot be read", "other")
    state = {
        "_data_files": [{"filename": "data-00000-of-00002.arrow"}],
        "_indices_data_files": [{"filename": "i.arrow"}],
    }
    (place / "other" / "state.json").write_text(json.dumps(state), encoding="utf-8")
    refused("holds rows and an order of them apart", "other")
    saved(place / "broken", rows(60, 0))
    (place / "broken" / "data-00000-of-00002.arrow").write_bytes(b"no arrow")
    refused(r"data-00000-of-00002.arrow cannot be read as .arrow", "broken")
    saved_splits(place / "splits", {"first": rows(30, 0), "second": rows(30, 1)})
    refused("none of them train, validation or test; name one's folder", "splits")
