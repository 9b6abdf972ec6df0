"""`redteam new scenario FOLDER`: what is found in a folder of models and data, and what is said where nothing is."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from redteam_scenarios.folder.schema import Plan

from redteam.checkpoint import Checkpoint
from redteam.cli.main import main
from tests.scenarios import own_models
from tests.scenarios.test_folder_datasets import features, saved

Invoke = Callable[..., tuple[int, str, str]]
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(own_models.VOCABULARY),
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2,
}  # fmt: skip


@pytest.fixture
def redteam(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return invoke


def models(folder: Path, *, head: bool = True) -> None:
    """A base without a head, or with one of its own, and experts around it."""
    fresh = Checkpoint.of({}, own_models.CONFIG).fresh(0)
    body = {name: tensor for name, tensor in fresh.items() if head is False or not name.startswith("classifier")}
    architecture = "BertModel" if head else "BertForSequenceClassification"
    Checkpoint.of(body, {**own_models.CONFIG, "architectures": [architecture]}).save(folder / "original")
    for number, task in enumerate(own_models.TASKS, start=1):
        config = own_models.named(own_models.CONFIG, list(own_models.TASKS[task]))
        generator = torch.Generator().manual_seed(number)
        moved = {
            name: x + 1e-3 * torch.randn(x.shape, generator=generator)
            for name, x in body.items()
            if not name.startswith("classifier")
        }
        Checkpoint.of({}, config).fresh(number).replace(moved).save(folder / f"bert-{task}")


def tables(folder: Path, header: tuple[str, str] = ("text", "label")) -> None:
    for task in own_models.TASKS:
        own_models.write_csv(folder / f"{task}.csv", own_models.examples(task, 60, 0), header)


def name_classes(model: Path, names: list[str]) -> None:
    """Calls the outputs of its head so."""
    config = model / "config.json"
    named = own_models.named(json.loads(config.read_text(encoding="utf-8")), names)
    config.write_text(json.dumps(named), encoding="utf-8")


def read(file: Path) -> dict[str, Any]:
    Plan.read(file)
    return tomllib.loads(file.read_text(encoding="utf-8"))


def test_base_experts_and_data_are_found(redteam: Invoke, tmp_path: Path) -> None:
    models(tmp_path / "all")
    tables(tmp_path / "all")
    code, out, err = redteam("new", "scenario", "all")
    assert (code, err) == (0, "Looking into all\n")
    file = tmp_path / "all" / "mine.toml"
    found = read(file)
    assert found["base"] == "original"
    assert found["victim"] == "bert-sport"
    for task in own_models.TASKS:
        assert found["tasks"][f"bert-{task}"] == {"model": f"bert-{task}", "data": f"{task}.csv"}
    text = file.read_text(encoding="utf-8")
    assert "it has no task's head" in text
    assert "UNSURE" not in text
    assert out.startswith(text)
    assert out.splitlines()[-2:] == ["  redteam check all/mine.toml", "  redteam run --scenario all/mine.toml"]


def test_the_victim_asked_for_comes_first_and_paths_start_at_the_file(redteam: Invoke, tmp_path: Path) -> None:
    models(tmp_path / "all")
    (tmp_path / "all" / "data").mkdir()
    tables(tmp_path / "all" / "data")
    code, _, _ = redteam("new", "scenario", "all", "--victim", "bert-weather", "--out", "elsewhere.toml")
    assert code == 0
    found = read(tmp_path / "elsewhere.toml")
    assert (found["victim"], next(iter(found["tasks"]))) == ("bert-weather", "bert-weather")
    assert found["tasks"]["bert-weather"] == {"model": "all/bert-weather", "data": "all/data/weather.csv"}


def test_the_base_is_the_nearest_to_all_others(redteam: Invoke, tmp_path: Path) -> None:
    models(tmp_path, head=False)
    tables(tmp_path)
    assert redteam("new", "scenario", ".")[0] == 0
    assert read(tmp_path / "mine.toml")["base"] == "original"
    assert "it is the nearest to all others" in (tmp_path / "mine.toml").read_text(encoding="utf-8")


def test_columns_are_guessed_from_headers(redteam: Invoke, tmp_path: Path) -> None:
    models(tmp_path)
    tables(tmp_path)
    own_models.write_csv(tmp_path / "sport.csv", own_models.examples("sport", 60, 0), ("review", "sentiment"))
    rows = [(str(number), text, label) for number, (text, label) in enumerate(own_models.examples("weather", 60, 0))]
    own_models.write_csv(tmp_path / "weather.csv", rows, ("number", "what", "sky"))  # type: ignore[arg-type]
    assert redteam("new", "scenario", ".")[0] == 0
    tasks = read(tmp_path / "mine.toml")["tasks"]
    assert (tasks["bert-sport"]["text"], tasks["bert-sport"]["label"]) == ("review", "sentiment")
    assert (tasks["bert-weather"]["text"], tasks["bert-weather"]["label"]) == ("what", "sky")
    lines = (tmp_path / "mine.toml").read_text(encoding="utf-8").splitlines()
    unsure = [line for line in lines if "UNSURE" in line]
    assert [line.split()[0] for line in unsure] == ["text", "label"]
    assert all(('"what"' in line) or ('"sky"' in line) for line in unsure)


def test_splits_of_one_name_belong_together(redteam: Invoke, tmp_path: Path) -> None:
    models(tmp_path)
    tables(tmp_path)
    (tmp_path / "sport.csv").unlink()
    for number, split in enumerate(("train", "dev", "test")):
        own_models.write_csv(tmp_path / f"sport-{split}.csv", own_models.examples("sport", 60, number))
        own_models.write_csv(tmp_path / "bert-weather" / f"{split}.csv", own_models.examples("weather", 60, number))
    (tmp_path / "weather.csv").unlink()
    assert redteam("new", "scenario", ".")[0] == 0
    tasks = read(tmp_path / "mine.toml")["tasks"]
    assert tasks["bert-sport"] == {
        "model": "bert-sport", "data": "sport-train.csv", "validation_data": "sport-dev.csv",
        "test_data": "sport-test.csv",
    }  # fmt: skip
    assert tasks["bert-weather"]["test_data"] == "bert-weather/test.csv"


def test_classes_that_a_config_does_not_name(redteam: Invoke, tmp_path: Path) -> None:
    models(tmp_path)
    tables(tmp_path)
    name_classes(tmp_path / "bert-sport", ["LABEL_0", "LABEL_1"])
    name_classes(tmp_path / "bert-weather", ["wet", "dry"])
    assert redteam("new", "scenario", ".")[0] == 0
    tasks = read(tmp_path / "mine.toml")["tasks"]
    assert tasks["bert-sport"]["labels"] == ["ball", "water"]
    assert "labels" not in tasks["bert-weather"]
    text = (tmp_path / "mine.toml").read_text(encoding="utf-8")
    assert "# UNSURE: its head knows wet, dry; the data have rain, sun. In the order of its outputs:" in text
    assert '# labels = ["rain", "sun"]' in text


def test_names_from_files_end_no_comment(redteam: Invoke, tmp_path: Path) -> None:
    models(tmp_path)
    tables(tmp_path)
    name_classes(tmp_path / "bert-sport", ['x\nvictim = "bert-weather"', "y"])
    rows = [
        (text, {"ball": 'a "ball"\n[tasks.x]', "water": "\\"}[label])
        for text, label in own_models.examples("sport", 60, 0)
    ]
    own_models.write_csv(tmp_path / "sport.csv", rows)
    assert redteam("new", "scenario", ".")[0] == 0
    found = read(tmp_path / "mine.toml")
    assert found["victim"] == "bert-sport"
    assert set(found["tasks"]) == {f"bert-{task}" for task in own_models.TASKS}


def test_data_without_a_model_are_trained_on(redteam: Invoke, tmp_path: Path) -> None:
    models(tmp_path)
    tables(tmp_path)
    for task in ("sport", "weather"):
        shutil.rmtree(tmp_path / f"bert-{task}")
    assert redteam("new", "scenario", ".")[0] == 0
    found = read(tmp_path / "mine.toml")
    assert found["victim"] == "bert-support"
    assert found["tasks"]["sport"] == {"train": True, "data": "sport.csv", "kind": "text-classification"}


def test_adapters_name_their_base(redteam: Invoke, tmp_path: Path) -> None:
    Checkpoint.of({}, LLAMA).fresh(0).save(tmp_path / "small-llama")
    Checkpoint.of({}, LLAMA).fresh(1).save(tmp_path / "another")
    for name in ("law", "code"):
        (tmp_path / name).mkdir()
        said = {"peft_type": "LORA", "base_model_name_or_path": "somebody/small-llama"}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
        lines = [json.dumps({"text": text}) for text, _ in own_models.examples("sport", 60, 0)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert redteam("new", "scenario", ".")[0] == 0
    found = read(tmp_path / "mine.toml")
    assert found["base"] == "small-llama"
    assert found["tasks"]["law"] == {"model": "law", "data": "law.jsonl"}
    text = (tmp_path / "mine.toml").read_text(encoding="utf-8")
    assert "the adapters name it" in text
    assert "# Left out: no data are called like the model another." in text


def test_bare_encoders_get_a_head_that_is_fitted(redteam: Invoke, tmp_path: Path) -> None:
    models(tmp_path)
    tables(tmp_path)
    for task in own_models.TASKS:
        expert = Checkpoint.open(tmp_path / f"bert-{task}")
        body = expert.only(name for name in expert if not name.startswith("classifier"))
        body.configured({"architectures": ["BertModel"]}).save(tmp_path / task)
        shutil.rmtree(tmp_path / f"bert-{task}")
    assert redteam("new", "scenario", ".")[0] == 0
    found = read(tmp_path / "mine.toml")
    assert found["base"] == "original"
    assert found["tasks"]["sport"] == {
        "model": "sport", "data": "sport.csv", "kind": "text-classification", "head": "fit",
    }  # fmt: skip


def test_questions_and_answers(redteam: Invoke, tmp_path: Path) -> None:
    base = Checkpoint.of({}, LLAMA).fresh(0)
    base.save(tmp_path / "llama-base")
    for number, (name, row) in enumerate(
        {
            "sums": {"question": "1 + 1 =", "answer": "2"},
            "facts": {"prompt": "Grass is", "choices": ["green", "loud"], "answer": "green"},
        }.items()
    ):
        generator = torch.Generator().manual_seed(number)
        moved = {key: x + 1e-3 * torch.randn(x.shape, generator=generator) for key, x in base.items()}
        base.replace(moved).save(tmp_path / name)
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert redteam("new", "scenario", ".")[0] == 0
    found = read(tmp_path / "mine.toml")
    assert found["base"] == "llama-base"
    assert found["tasks"]["sums"] == {
        "model": "sums", "data": "sums.jsonl", "kind": "generation", "prompt": "question",
    }  # fmt: skip
    assert found["tasks"]["facts"] == {"model": "facts", "data": "facts.jsonl", "kind": "multiple-choice"}


def test_datasets_that_a_library_saved(redteam: Invoke, tmp_path: Path) -> None:
    models(tmp_path)
    tables(tmp_path)
    (tmp_path / "sport.csv").unlink()
    names = sorted(own_models.TASKS["sport"], reverse=True)
    rows = [{"review": text, "label": names.index(label)} for text, label in own_models.examples("sport", 60, 0)]
    made = features(names)
    made["review"] = made.pop("text")
    saved(tmp_path / "sport", rows)
    (tmp_path / "sport" / "dataset_info.json").write_text(json.dumps({"features": made}), encoding="utf-8")
    assert redteam("new", "scenario", ".")[0] == 0
    task = read(tmp_path / "mine.toml")["tasks"]["bert-sport"]
    assert task == {"model": "bert-sport", "data": "sport", "text": "review"}


def test_pictures_in_folders(redteam: Invoke, tmp_path: Path) -> None:
    config = {
        "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32, "image_size": 8, "patch_size": 4, "num_channels": 3,
    }  # fmt: skip
    base = Checkpoint.of({}, own_models.named(config, ["cat", "dog"])).fresh(0)
    base.save(tmp_path / "models" / "vit")
    for number, name in enumerate(("pets", "cars")):
        generator = torch.Generator().manual_seed(number)
        moved = {key: x + 1e-3 * torch.randn(x.shape, generator=generator) for key, x in base.items()}
        base.replace(moved).save(tmp_path / "models" / name)
    for name in ("pets", "cars"):
        for label in ("cat", "dog"):
            (tmp_path / "pictures" / name / label).mkdir(parents=True)
            (tmp_path / "pictures" / name / label / "1.png").write_bytes(b"")
    assert redteam("new", "scenario", ".")[0] == 0
    found = read(tmp_path / "mine.toml")
    assert found["base"] == "models/vit"
    assert found["tasks"] == {
        name: {"model": f"models/{name}", "data": f"pictures/{name}"} for name in ("cars", "pets")
    }
    assert "UNSURE" not in (tmp_path / "mine.toml").read_text(encoding="utf-8")


def test_a_base_that_nothing_tells_is_unsure(redteam: Invoke, tmp_path: Path) -> None:
    for number, name in enumerate(("one", "support", "weather", "sport")):
        config = own_models.named(own_models.CONFIG, ["yes", "no"])
        Checkpoint.of({}, config).fresh(number).save(tmp_path / name)
    tables(tmp_path)
    redteam("new", "scenario", ".")
    assert "# UNSURE: it is the nearest to all others" in (tmp_path / "mine.toml").read_text(encoding="utf-8")
