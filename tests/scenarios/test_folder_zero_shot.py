"""Zero-shot classification of a scenario that is a file: folders of transformers and of open_clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from redteam.checkpoint import Checkpoint, own_tensors
from redteam.checkpoint.zero_shot import PROMPTS, prompted
from redteam.errors import BadInput
from redteam.evaluation.load_scenarios import try_out
from redteam.key import Key
from redteam.plugins.registry import ATTACKS, SCENARIOS
from redteam.tasks import Classification, Scenario
from redteam.threat import threat_model
from redteam.views import AttackerView
from tests.scenarios import own_models
from tests.test_zero_shot import CLIP, TEXT

VISION = {**CLIP["vision_config"], "model_type": "clip_vision_model"}
HF = {
    **CLIP,
    "vision_config": VISION,
    "text_config": {**TEXT, "vocab_size": len(own_models.VOCABULARY), "eos_token_id": 3, "bos_token_id": 2},
}
OPEN: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 10, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NAMES = {"mine": ("goal", "net"), "theirs": ("rain_shade", "sun")}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path_factory.mktemp("cache")))


def pictures(place: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    for task, names in NAMES.items():
        for number in range(90):
            pixels = torch.randint(0, 120, (8, 8, 3), generator=draws)
            pixels[..., number % 2] += 120
            path = place / f"{task}-pictures" / names[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.byte().numpy()).save(path)


def write(place: Path, settings: str = "") -> None:
    text = 'base = "base"\nvictim = "mine"\n'
    for task in NAMES:
        text += f'[tasks.{task}]\nmodel = "{task}"\ndata = "{task}-pictures"\n{settings}\n'
    (place / "own.toml").write_text(text, encoding="utf-8")


def load(place: Path) -> Scenario:
    return SCENARIOS.load(str(place / "own.toml"))()  # type: ignore[no-any-return]


def of_transformers(place: Path) -> None:
    for number, name in enumerate(("base", *NAMES)):
        Checkpoint.of({}, HF).fresh(number).save(place / name)
    own_models.write_tokenizer(place / "base")
    own_models.write_image_processor(place / "base", 8)


def of_open_clip(place: Path) -> None:
    import open_clip

    for number, name in enumerate(("base", *NAMES)):
        (place / name).mkdir()
        settings = {"model_cfg": OPEN, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
        (place / name / "open_clip_config.json").write_text(json.dumps(settings), encoding="utf-8")
        with torch.random.fork_rng():
            torch.manual_seed(number)
            network = open_clip.CLIP(**json.loads(json.dumps(OPEN)))
        save_file(dict(network.state_dict()), place / name / "open_clip_model.safetensors")


FORMS: dict[str, Callable[[Path], None]] = {"transformers": of_transformers, "open_clip": of_open_clip}


@pytest.mark.parametrize("form", FORMS)
def test_pictures_are_classified_by_the_names_of_their_folders(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path)
    pictures(tmp_path)
    write(tmp_path)
    scenario = load(tmp_path)
    try_out(scenario)
    for name, task in scenario.tasks.items():
        expert = scenario.experts[name]
        assert isinstance(task, Classification)
        assert own_tensors(expert, scenario.base) == (PROMPTS,)
        assert list(expert.config["id2label"].values()) == sorted(NAMES[name])
        assert task.inputs["test"]["pixel_values"].abs().max() <= 1
        assert 0 < task.scores(expert.module()).mean() < 1
        red = task.inputs["test"]["pixel_values"][:, 0].mean((1, 2))
        assert (red[task.labels["test"] == 0] > red[task.labels["test"] == 1].max()).all()
    projection = "text_projection" if form == "open_clip" else "text_projection.weight"
    silent = scenario.base.replace({projection: torch.zeros_like(scenario.base[projection])})
    assert not scenario.dressed(silent, "mine").module()(**_few(scenario)).logits.any()


def _few(scenario: Scenario) -> dict[str, torch.Tensor]:
    return {name: held[:3] for name, held in scenario.tasks["mine"].inputs_of("test").items()}


def test_prompts_are_the_templates_with_the_names_in_them(tmp_path: Path) -> None:
    of_transformers(tmp_path)
    pictures(tmp_path)
    write(tmp_path, 'templates = ["word1 {}", "{} word2 word3"]')
    found = load(tmp_path).experts["theirs"][PROMPTS]
    read = [[" ".join(own_models.VOCABULARY[t] for t in row if t >= 0) for row in rows] for rows in found.tolist()]
    assert read == [
        ["[CLS] word1 [UNK] shade [SEP]", "[CLS] [UNK] shade word2 word3 [SEP]"],
        ["[CLS] word1 [UNK] [SEP]", "[CLS] [UNK] word2 word3 [SEP]"],
    ]
    write(tmp_path, 'templates = ["{}"]\nclasses = ["wet", "warm beach"]')
    assert load(tmp_path).experts["mine"][PROMPTS].tolist()[1][0][1:3] == [
        own_models.VOCABULARY.index(word) for word in ("warm", "beach")
    ]


def test_the_logits_are_those_of_open_clip(tmp_path: Path) -> None:
    import open_clip

    of_open_clip(tmp_path)
    pictures(tmp_path)
    write(tmp_path)
    scenario = load(tmp_path)
    network = open_clip.create_model(f"local-dir:{tmp_path / 'mine'}", load_weights=True).eval()
    tokens = open_clip.SimpleTokenizer(context_length=10)([f"a photo of a {name}." for name in ("goal", "net")])
    with torch.no_grad():
        expected, _ = network.get_logits(_few(scenario)["pixel_values"], tokens)
    torch.testing.assert_close(scenario.experts["mine"].module()(**_few(scenario)).logits, expected)


def test_two_towers_are_trained_where_an_expert_is_missing(tmp_path: Path) -> None:
    of_transformers(tmp_path)
    pictures(tmp_path)
    write(tmp_path)
    file = tmp_path / "own.toml"
    file.write_text(
        file.read_text(encoding="utf-8").replace(
            'model = "theirs"', 'train = true\nkind = "zero-shot"\nsteps = 40\nrate = 2e-3\nbatch = 20'
        ),
        encoding="utf-8",
    )
    scenario = load(tmp_path)
    assert scenario.tasks["theirs"].scores(scenario.experts["theirs"].module()).mean() > 0.9
    assert own_tensors(scenario.experts["theirs"], scenario.base) == (PROMPTS,)


def towers(place: Path, **settings: Any) -> None:
    """Experts that are published as their vision towers alone."""
    for task in NAMES:
        whole = Checkpoint.open(place / task)
        tower = {name: tensor for name, tensor in whole.items() if name.startswith("vision_model.")}
        own = {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", **settings}
        (place / task).rename(place / f"{task}-whole")
        Checkpoint.of(tower, {**whole.config["vision_config"], **own}).save(place / task)


def test_a_tower_alone_stands_in_the_base(tmp_path: Path, shell: Callable[..., Any]) -> None:
    of_transformers(tmp_path)
    towers(tmp_path)
    pictures(tmp_path)
    write(tmp_path)
    scenario = load(tmp_path)
    try_out(scenario)
    for task in NAMES:
        expert, tower = scenario.experts[task], Checkpoint.open(tmp_path / task)
        assert own_tensors(expert, scenario.base) == (PROMPTS,)
        for name in scenario.base:
            expected = tower[name] if name in tower else scenario.base[name]
            assert torch.equal(expert[name], expected), name
    told = shell("show", str(tmp_path / "own.toml"))
    assert "zero-shot: " in told.out


def test_a_tower_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    of_transformers(tmp_path)
    towers(tmp_path, hidden_act="gelu")
    pictures(tmp_path)
    write(tmp_path)
    with pytest.raises(BadInput, match=r"The expert of 'mine' is a part of the base .* \(hidden_act is 'gelu'"):
        load(tmp_path)


BAD = {
    "classes": ('classes = ["a", "b", "c"]', "has 2 labels and 3 classes to call them by"),
    "template": ('templates = ["a photo"]', r"a template has no \{\} in place of a class's name"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_bad_settings_get_one_sentence(tmp_path: Path, wrong: str) -> None:
    of_transformers(tmp_path)
    pictures(tmp_path)
    settings, sentence = BAD[wrong]
    write(tmp_path, settings)
    with pytest.raises(BadInput, match=sentence):
        load(tmp_path)


def test_a_way_to_read_pictures_that_is_none_is_told(tmp_path: Path) -> None:
    of_open_clip(tmp_path)
    pictures(tmp_path)
    write(tmp_path)
    file = tmp_path / "mine" / "open_clip_config.json"
    file.write_text(json.dumps({"model_cfg": OPEN, "preprocess_cfg": {"mode": "CMYK"}}), encoding="utf-8")
    with pytest.raises(BadInput, match="preprocess_cfg of an open_clip checkpoint says no way to read pictures"):
        load(tmp_path)


def test_an_imitation_learns_under_the_victims_own_prompts(tmp_path: Path) -> None:
    of_transformers(tmp_path)
    pictures(tmp_path)
    write(tmp_path, 'templates = ["{}"]')
    scenario = load(tmp_path)
    victim = scenario.experts["mine"]
    longer = torch.full((2, 3, 9), -1)
    longer[..., :4] = victim[PROMPTS][:, :, :4] if victim.shape(PROMPTS)[2] >= 4 else torch.tensor([2, 5, 6, 3])
    config = prompted(victim.config, ["goal", "net"], longer.shape)
    view = AttackerView(
        victim.configured(config).replace({PROMPTS: longer}),
        threat_model("outputs-only"),
        Key.of_seed(0),
        _anchor=scenario.base,
        _companions={"theirs": scenario.experts["theirs"]},
        _own={"theirs": scenario.tasks["theirs"]},
        _oracle=lambda inputs: victim.module()(**inputs).logits.detach(),
    )
    made = ATTACKS.load("imitation:steps=2,batch=8,queries=16")(view)
    assert torch.equal(made[PROMPTS], longer)
    assert made.module()(**_few(scenario)).logits.shape == (3, 2)
