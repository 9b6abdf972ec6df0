"""What `redteam check mine.toml` says of models and data before they are read as a whole, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.cli.main import main
from redteam.cli.show import found
from redteam.errors import BadInput
from redteam.plugins.registry import SCENARIOS
from redteam.plugins.remarks import Remark
from tests.scenarios import own_models


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A base, experts a little away from it, and data."""
    fresh = Checkpoint.of({}, own_models.CONFIG).fresh(0)
    body = {name: tensor for name, tensor in fresh.items() if not name.startswith("classifier")}
    Checkpoint.of(body, {**own_models.CONFIG, "architectures": ["BertModel"]}).save(tmp_path / "base")
    for number, task in enumerate(own_models.TASKS, start=1):
        config = own_models.named(own_models.CONFIG, list(own_models.TASKS[task]))
        generator = torch.Generator().manual_seed(number)
        moved = {name: x + 1e-3 * torch.randn(x.shape, generator=generator) for name, x in body.items()}
        Checkpoint.of({}, config).fresh(number).replace(moved).save(tmp_path / task)
        own_models.write_tokenizer(tmp_path / task)
        own_models.write_csv(tmp_path / f"{task}.csv", own_models.examples(task, 120, 0))
    own_models.write_tokenizer(tmp_path / "base")
    own_models.write_scenario(tmp_path)
    return tmp_path


def remarks(place: Path) -> list[Remark]:
    plugin = SCENARIOS.load(str(place / "mine.toml"))
    assert plugin.spec.check is not None
    return list(plugin.spec.check(**plugin.settings))


def said(place: Path, about: str) -> Remark:
    (found,) = [remark for remark in remarks(place) if remark.about == about and remark.state != "ok"]
    return found


def check(place: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["check", str(place / "mine.toml"), *options])
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out, told.err


def test_nothing_is_wrong(place: Path) -> None:
    found = remarks(place)
    assert {remark.state for remark in found} == {"ok"}
    assert [remark.about for remark in found] == ["architecture", "vocabulary", "dtype", *["tokenizer"] * 3]
    assert "the base and 3 experts are bert of one shape" in found[0].told


def test_every_task_as_the_victim_in_turn_is_looked_at_alike(place: Path) -> None:
    before = remarks(place)
    file = place / "mine.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('victim = "support"', 'victims = "each"'), encoding="utf-8")
    told = str(found(str(file))[0])
    assert "each in turn: support, weather, sport" in told
    assert remarks(place) == before


def test_tokenizers_that_cut_otherwise(place: Path) -> None:
    words = (place / "sport" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert "goal" in words
    (place / "sport" / "vocab.txt").write_text("\n".join([*words[:4], *words[:3:-1]]), encoding="utf-8")
    from transformers import BertTokenizerFast

    BertTokenizerFast(vocab=str(place / "sport" / "vocab.txt")).save_pretrained(place / "sport")
    wrong = said(place, "tokenizer")
    assert wrong.state == "WRONG"
    assert wrong.told.startswith("the tokenizers of 'sport' and of the base cut 64 of 64 texts otherwise")


def test_vocabularies_of_other_lengths(place: Path) -> None:
    sport = Checkpoint.open(place / "sport")
    name = "bert.embeddings.word_embeddings.weight"
    longer = sport.replace({name: torch.cat([sport[name], sport[name][:2]])})
    longer.configured({"vocab_size": len(longer[name])}).save(place / "longer")
    (place / "mine.toml").write_text(
        (place / "mine.toml").read_text().replace('model = "sport"', 'model = "longer"'), encoding="utf-8"
    )
    wrong = said(place, "vocabulary")
    assert wrong.state == "WRONG"
    count = len(own_models.VOCABULARY)
    assert f"the expert of 'sport' knows {count + 2} tokens and the base {count}" in wrong.told


def test_other_dtypes_are_a_note(place: Path) -> None:
    sport = Checkpoint.open(place / "sport").to(torch.bfloat16)
    sport.save(place / "rounded")
    (place / "mine.toml").write_text(
        (place / "mine.toml").read_text().replace('model = "sport"', 'model = "rounded"'), encoding="utf-8"
    )
    note = said(place, "dtype")
    assert (note.state, note.told) == (
        "note",
        "the base float32, support float32, weather float32, sport bfloat16; all are read in the base's",
    )


def test_an_expert_of_another_shape(place: Path) -> None:
    Checkpoint.of({}, {**own_models.CONFIG, "intermediate_size": 32}).fresh(0).save(place / "other")
    (place / "mine.toml").write_text(
        (place / "mine.toml").read_text().replace('model = "sport"', 'model = "other"'), encoding="utf-8"
    )
    wrong = said(place, "shapes")
    assert wrong.state == "WRONG"
    assert "the expert of 'sport' does not have its base's shape" in wrong.told


def test_every_victim_is_looked_at(place: Path) -> None:
    Checkpoint.of({}, {**own_models.CONFIG, "intermediate_size": 32}).fresh(0).save(place / "other")
    text = (place / "mine.toml").read_text().replace('model = "support"\n', "")
    text = text.replace('victim = "support"', 'victim = "support"\nvictims = ["support", "other"]')
    (place / "mine.toml").write_text(text, encoding="utf-8")
    wrong = said(place, "shapes")
    assert wrong.told.startswith("the expert of 'support, other' does not have its base's shape")


def test_rows_that_say_the_same(place: Path) -> None:
    rows = own_models.examples("sport", 120, 0)
    own_models.write_csv(place / "sport.csv", [*rows, *rows[:5]])
    note = said(place, "data")
    assert note.state == "note"
    assert note.told == "5 of 125 rows for 'sport' say what another says too, and are left out"


def test_pictures_that_are_read_otherwise(place: Path) -> None:
    for name, mean in (("base", 0.5), ("sport", 0.4)):
        (place / name / "preprocessor_config.json").write_text(json.dumps({"image_mean": [mean] * 3}), encoding="utf-8")
    note = said(place, "pictures")
    assert (note.state, note.told) == (
        "note",
        "pictures of 'sport' are read otherwise than the base reads them (image_mean)",
    )


def test_an_expert_that_is_to_be_trained_is_told(place: Path) -> None:
    text = (place / "mine.toml").read_text().replace('model = "sport"', 'train = true\nkind = "text-classification"')
    (place / "mine.toml").write_text(text, encoding="utf-8")
    assert said(place, "training").told.startswith("'sport' is fine-tuned from the base first, 300 steps")


WRONG: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "a label that the head lacks": (
        lambda p: own_models.write_csv(p / "sport.csv", [(t, "chess") for t, _ in own_models.examples("sport", 99, 0)]),
        1,
        "WRONG  data          The data of 'sport' have the label 'chess'",
    ),
    "no such model": (
        lambda p: (p / "mine.toml").write_text((p / "mine.toml").read_text().replace('"sport"', '"./sprot"')),
        2,
        "sprot; ",
    ),
    "no such data": (lambda p: (p / "sport.csv").unlink(), 2, "names it as data"),
    "an entry": (
        lambda p: (p / "mine.toml").write_text("victm = 3\n" + (p / "mine.toml").read_text()),
        2,
        "did you mean 'victim' or 'victims'?",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_exit_codes(place: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    break_it, expected, sentence = WRONG[what]
    break_it(place)
    code, out, err = check(place, capsys)
    assert code == expected
    assert sentence in (out if code == 1 else err)
    if code == 1:
        assert out.splitlines()[-1] == "One thing is wrong; a verdict would say nothing, so mend that before the run."
        code, out, err = check(place, capsys, "--json", "--quiet")
        assert (code, err) == (1, "")
        (wrong,) = [one for one in json.loads(out)["remarks"] if one["state"] == "WRONG"]
        assert sentence in f"{wrong['state']:<5}  {wrong['about']:<12}  {wrong['told']}"


def test_what_is_not_there_is_bad_input(place: Path) -> None:
    (place / "sport.csv").unlink()
    with pytest.raises(BadInput, match="names it as data"):
        remarks(place)


def test_show_says_what_is_in_a_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "base" / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# Base\n", encoding="utf-8")
    card = "---\nlicense: other\nlicense_name: 'house-1'\n---\n"
    (place / "sport" / "README.md").write_text(card, encoding="utf-8")
    (place / "weather.csv").write_text("text,label\n", encoding="utf-8")
    monkeypatch.setenv("REDTEAM_CACHE", str(place / "cache"))
    told = str(found(str(place / "mine.toml"))[0])
    said: dict[str, str] = dict(line.split(maxsplit=1) for line in told.splitlines()[1:])  # type: ignore[misc]
    assert said["base"].startswith("base, BertModel of 0.02")
    assert said["base"].endswith("million weights, licence apache-2.0")
    assert said["victim"] == "support"
    assert said["support"].startswith("BertForSequenceClassification of 0.02")
    assert ", no licence named; text-classification: 30 train, 30 validation, 60 test; 3 classes, " in said["support"]
    assert "licence house-1" in said["sport"]
    assert "weather.csv has no rows" in said["weather"]
    assert said["cache"].startswith(str(place / "cache" / "folder"))
    own_models.write_csv(place / "weather.csv", own_models.examples("weather", 120, 0))
    chance = SCENARIOS.load(str(place / "mine.toml"))().tasks["sport"].chance
    assert said["sport"].endswith(f"2 classes, guessing {chance:.2f}")


@pytest.mark.slow
def test_trained_models_are_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_models.make(tmp_path)
    own_models.write_scenario(tmp_path)
    code, out, _ = check(tmp_path, capsys)
    assert code == 0
    *lines, last = out.splitlines()
    assert last.startswith("Nothing is wrong. Next: redteam run --scenario ")
    assert all(line.split()[0] in ("ok", "note") for line in lines)
    for what in ("scores", "gain", "items", "time", "memory", "disk"):
        assert any(line.split()[1] == what for line in lines)
