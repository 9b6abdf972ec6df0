"""Networks are built from what transformers and open_clip know; a checkpoint brings no code and no server."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.save import write
from redteam.errors import NotACheckpoint

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2},
}


def changed(case: Any, **settings: Any) -> Checkpoint:
    return Checkpoint.of(dict(case.checkpoint.items()), {**case.checkpoint.config, **settings})


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_config_cannot_name_code_on_a_server(vit: Any, key: str) -> None:
    network = changed(vit, **{key: "someone/kernel@main:attend", "trust_remote_code": True}).module()
    assert network.config._attn_implementation in {"sdpa", "eager"}
    assert "someone" not in network.config.to_json_string()


def test_code_that_came_along_is_not_imported(vit: Any, tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    evil = changed(vit, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Network"})
    evil.save(tmp_path / "model")
    (tmp_path / "model" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert isinstance(Checkpoint.open(tmp_path / "model").module(), ViTForImageClassification)
    unknown = changed(vit, architectures=["EvilNetwork"], auto_map={"AutoModel": "evil.EvilNetwork"})
    with pytest.raises(NotACheckpoint, match="auto_map asks for code of its own, which is never run"):
        unknown.module()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": "wide"},
        {"hidden_size": -1},
        {"num_attention_heads": 7},
        {"model_type": "no-such-network"},
        {"model_type": ["vit"]},
        {"architectures": {"a": 1}},
        {"architectures": [["ViTModel"]]},
        {"architectures": "ViTForImageClassification\n"},
        {"quantization_config": {"quant_method": "gptq"}},
        {"intermediate_size": 2**40},
        {"num_hidden_layers": 3},
        {"patch_size": 6},
    ],
)
def test_a_config_that_does_not_belong_is_one_sentence(vit: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(NotACheckpoint) as caught:
        changed(vit, **settings).module()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of open_clip, as its own tools write it."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    text = json.dumps({"model_cfg": CLIP, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}})
    (folder / "open_clip_config.json").write_text(text)
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x04")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.CLIP(**json.loads(json.dumps(CLIP)))
    save_file(dict(network.state_dict()), folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    return folder


def features(network: Any) -> torch.Tensor:
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        images = network.encode_image(torch.randn(3, 3, 16, 16, generator=draws, dtype=network.logit_scale.dtype))
        return torch.cat([images, network.encode_text(torch.randint(0, 50, (3, 8), generator=draws))])


def test_a_folder_and_a_file_of_open_clip_are_read(clip: Path) -> None:
    there = Checkpoint.open(clip)
    assert there.architecture == "open_clip"
    assert there.config["model_cfg"] == CLIP
    assert Checkpoint.open(clip / "open_clip_model.safetensors").config == there.config
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in there


def test_open_clip_loads_what_was_written_and_its_features_agree(clip: Path, tmp_path: Path) -> None:
    import open_clip

    there = Checkpoint.open(clip)
    logit = there["logit_scale"]
    written = write(there.replace({"logit_scale": logit + 1}), tmp_path / "out", like=clip, card="## Card\n\nText.")
    assert written.left_out == ("open_clip_pytorch_model.bin",)
    assert (tmp_path / "out" / "open_clip_config.json").read_bytes() == (clip / "open_clip_config.json").read_bytes()
    before, after = (open_clip.create_model(f"local-dir:{folder}").eval() for folder in (clip, tmp_path / "out"))
    assert torch.equal(features(before), features(after))
    assert after.logit_scale.item() == pytest.approx(logit.item() + 1)


def test_another_dtype_leaves_the_config_of_open_clip_as_it_was(clip: Path, tmp_path: Path) -> None:
    write(Checkpoint.open(clip).cast(torch.float16), tmp_path / "out", like=clip)
    assert Checkpoint.open(tmp_path / "out").config == Checkpoint.open(clip).config


def test_a_network_of_open_clip_is_built_and_goes_back(clip: Path) -> None:
    state, handlers, seed = logging.root.manager.disable, list(logging.root.handlers), torch.random.get_rng_state()
    there = Checkpoint.open(clip)
    network = there.module()
    assert there.trained(network).digest() == there.digest()
    wide = features(there.module(torch.float64))
    assert wide.dtype == torch.float64
    assert not network.training
    assert (logging.root.manager.disable, list(logging.root.handlers)) == (state, handlers)
    assert torch.equal(torch.random.get_rng_state(), seed)


def test_a_scale_with_an_axis_too_many_fits(clip: Path) -> None:
    there = Checkpoint.open(clip)
    other = there.replace({"logit_scale": there["logit_scale"].reshape(1)})
    assert torch.equal(features(other.module()), features(there.module()))


@pytest.mark.parametrize(
    ("model_cfg", "why"),
    [
        (None, "no model_cfg"),
        ({"embed_dim": 16}, "lacks a tower"),
        ({**CLIP, "text_cfg": {**CLIP["text_cfg"], "hf_model_name": "someone/text"}}, "from a server"),
        ({**CLIP, "vision_cfg": {"timm_model_name": "hf-hub:someone/vision"}}, "from a server"),
        ({**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "unknown": 1}}, "does not describe"),
        ({**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "width": 2**40}}, "do(es)? not (fit|describe)"),
        ({**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "layers": 3}}, "do not fit"),
        ({**CLIP, "embed_dim": 17}, "do not fit"),
    ],
)
def test_a_config_of_open_clip_that_does_not_belong_is_refused(clip: Path, model_cfg: Any, why: str) -> None:
    there = Checkpoint.open(clip)
    with pytest.raises(NotACheckpoint, match=why):
        Checkpoint.of(dict(there.items()), {"model_type": "open_clip", "model_cfg": model_cfg}).module()


def test_without_open_clip_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(
        NotACheckpoint, match=r"open_clip, which is not installed; pip install 'merge-redteam\[open-clip\]'"
    ):
        Checkpoint.of({"w": torch.ones(1)}, {"model_type": "open_clip", "model_cfg": CLIP}).module()
