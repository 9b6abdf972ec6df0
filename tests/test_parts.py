"""Towers that are published by themselves, and the network that they are a part of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.parts import in_place, part_names, part_of, settings_of

Shell = Callable[..., Any]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**SMALL, "vocab_size": 60, "max_position_embeddings": 32, "projection_dim": 16}
VISION = {**SMALL, "image_size": 16, "patch_size": 8, "projection_dim": 16}
TOWERS = {"vision_model.": "CLIPVision", "text_model.": "CLIPText"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip, whose towers have one size; a fine-tuned tower of each kind, under its own names and under the whole's."""
    import transformers

    folder = tmp_path_factory.mktemp("towers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
        clip = transformers.CLIPModel(config)
        clip.save_pretrained(folder / "clip")
        for prefix, kind in TOWERS.items():
            tower = getattr(transformers, f"{kind}Model")(getattr(clip, prefix[:-1]).config)
            tower.save_pretrained(folder / f"{kind}-blank")
            blank, whole = Checkpoint.open(folder / f"{kind}-blank"), Checkpoint.open(folder / "clip")
            trained = {
                name: whole[prefix + name.removeprefix(prefix)] + 0.01 * torch.randn(blank.shape(name))
                for name in blank
            }
            plain = {name.removeprefix(prefix): tensor for name, tensor in trained.items()}
            Checkpoint.of(plain, blank.config).save(folder / f"{kind}-plain")
            Checkpoint.of({prefix + n: t for n, t in plain.items()}, blank.config).save(folder / f"{kind}-prefixed")
    return folder


@pytest.mark.parametrize("named", ["plain", "prefixed"])
@pytest.mark.parametrize("prefix", TOWERS)
def test_a_tower_is_found_in_the_whole_though_another_has_its_shapes(home: Path, prefix: str, named: str) -> None:
    tower, whole = Checkpoint.open(home / f"{TOWERS[prefix]}-{named}"), Checkpoint.open(home / "clip")
    names = part_names(tower, whole)
    assert names == {name: prefix + name.removeprefix(prefix) for name in tower}
    assert set(part_of(whole, tower)) == set(tower)
    assert part_of(whole, tower).config == tower.config
    assert set(in_place(tower, whole)) == set(names.values())
    assert settings_of(whole.config, tower.architecture)["model_type"] == tower.architecture


def test_what_could_be_either_is_neither(home: Path) -> None:
    tower, whole = Checkpoint.open(home / "CLIPVision-plain"), Checkpoint.open(home / "clip")
    blocks = tower.only([name for name in tower if ".layers." in name])
    assert part_names(blocks, whole) == {}
    assert part_of(whole, blocks) is whole
    assert part_names(tower.configured({"model_type": "bert"}), whole) == {}, "the whole has no such part"


@pytest.mark.parametrize("named", ["plain", "prefixed"])
@pytest.mark.parametrize("prefix", TOWERS)
def test_every_command_takes_a_tower_and_its_whole_for_a_base(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell, prefix: str, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    expert, base = str(home / f"{TOWERS[prefix]}-{named}"), str(home / "clip")
    told = shell("merge", "task-arithmetic:coefficient=1.0", "--base", base, "--expert", expert, "--out", "merged")
    assert told.code == 0, told.err
    merged, tower, whole = (Checkpoint.open(path) for path in ("merged", expert, base))
    for name in whole:
        own = name.removeprefix(prefix) if named == "plain" else name
        expected = tower[own] if name.startswith(prefix) else whole[name]
        torch.testing.assert_close(merged[name], expected)
    told = shell("protect", "mergelock", expert, "--key", "key", "--out", "locked")
    assert told.code == 0, told.err
    assert "Proven" in told.out
    told = shell("attack", "gauge-fit", "locked", "--base", base, "--out", "fitted")
    assert told.code == 0, told.err
    assert list(Checkpoint.open("fitted")) == list(tower)
    assert "hardly nearer" not in told.out
    told = shell("audit", "locked", "--base", base)
    assert told.code == 0, told.err
    assert "general-linear" in told.out


def test_a_tower_with_other_settings_than_the_whole_s_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell
) -> None:
    monkeypatch.chdir(tmp_path)
    Checkpoint.open(home / "CLIPVision-plain").configured({"hidden_act": "gelu"}).save("other")
    told = shell("merge", "task-arithmetic", "--base", str(home / "clip"), "--expert", "other", "--out", "merged")
    assert told.code == 2
    assert "hidden_act is 'gelu'" in told.err


@pytest.mark.parametrize(
    ("network", "config", "settings"),
    [
        ("SiglipVisionModel", "SiglipVisionConfig", VISION),
        ("SiglipTextModel", "SiglipTextConfig", TEXT),
        ("CLIPTextModelWithProjection", "CLIPTextConfig", TEXT),
    ],
)
def test_other_towers_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shell: Shell,
    network: str,
    config: str,
    settings: dict[str, Any],
) -> None:
    import transformers

    monkeypatch.chdir(tmp_path)
    settings = {key: value for key, value in settings.items() if "Siglip" not in network or key != "projection_dim"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, network)(getattr(transformers, config)(**settings)).save_pretrained("tower")
    told = shell("protect", "mergelock+permutation", "tower", "--key", "key", "--out", "locked")
    assert told.code == 0, told.err
    told = shell("attack", "gauge-fit", "locked", "--base", "tower", "--out", "fitted")
    assert told.code == 0, told.err
    fitted, tower = Checkpoint.open("fitted"), Checkpoint.open("tower")
    for name in tower:
        torch.testing.assert_close(fitted[name], tower[name], rtol=1e-4, atol=1e-5)
