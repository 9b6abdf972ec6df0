"""Folders as sentence-transformers, Mistral, llama.cpp and models with code of their own come."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.discover import find
from redteam.errors import NotACheckpoint
from tests.published.conftest import COMMANDS, SMALL, Shell, loaded, made, put, refused, tuned

POOLING = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}


@pytest.fixture(scope="module")
def encoder() -> Checkpoint:
    import transformers

    config = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
    return made("BertModel", transformers.BertConfig(**config))


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def sentence_model(root: Path, checkpoint: Checkpoint, inner: str) -> None:
    """A root with the network in a subfolder, a pooling and a dense layer with weights beside it, and an export."""
    put(str(root / inner), tuned(checkpoint), checkpoint.config)
    write(root / inner / "tokenizer.json", {"version": "1.0"})
    write(root / inner / "sentence_bert_config.json", {"max_seq_length": 16})
    modules = [{"idx": 0, "path": inner}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Dense"}]
    write(root / "modules.json", modules)
    write(root / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    write(root / "1_Pooling/config.json", POOLING)
    Checkpoint.of({"linear.weight": torch.ones(8, 32)}, {}).save(root / "2_Dense")
    write(root / "2_Dense/config.json", {"in_features": 32, "out_features": 8})
    (root / "onnx").mkdir()
    (root / "onnx/model.onnx").write_bytes(b"\x08\x07")
    (root / "train.py").write_text("raise SystemExit\n")
    (root / "README.md").write_text("# Sentences\n")


def files_of(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def test_a_sentence_model_whose_network_lies_in_a_subfolder(encoder: Checkpoint, here: Path, shell: Shell) -> None:
    """sentence-transformers#3865: locked, fitted, merged where the network is, with everything around it kept."""
    sentence_model(Path("expert"), encoder, "0_Transformer")
    sentence_model(Path("base"), encoder, "0_Transformer")
    put("base/0_Transformer", encoder, encoder.config)
    put("plain", encoder, encoder.config)
    told = {
        "locked": shell("protect", "mergelock", "expert", "--key", "key", "--out", "locked", "--check"),
        "fitted": shell("attack", "gauge-fit", "locked", "--base", "base", "--out", "fitted", "--check"),
        "merged": shell("merge", "linear", "--base", "base", "--expert", "fitted", "--out", "merged", "--load"),
    }
    kept = files_of("expert") - {"onnx/model.onnx", "train.py"}
    for out, one in told.items():
        assert one.code == 0, one.err
        assert f"Checked: {out} loads as a BertModel" in one.out
    assert files_of("locked") == files_of("fitted") == kept
    assert "onnx/" in told["locked"].out
    assert "train.py" in told["locked"].out
    assert "Protected against merging" in Path("locked/README.md").read_text()
    assert json.loads(Path("locked/1_Pooling/config.json").read_text()) == POOLING
    before, after = Checkpoint.open("expert"), Checkpoint.open("locked")
    assert list(after) == list(before) == list(Checkpoint.open("expert/0_Transformer"))
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert loaded("locked/0_Transformer")[1] == {}
    assert shell("audit", "locked", "--base", "plain").code == 0
    told_again = shell("protect", "mergelock", "expert", "--key", "key", "--out", "locked", "--force")
    assert told_again.code == 0, told_again.err


def test_a_model_of_several_networks_asks_which(encoder: Checkpoint, here: Path) -> None:
    sentence_model(Path("model"), encoder, "query_0_Transformer")
    put("model/document_0_Transformer", encoder, encoder.config)
    types = {"query_0_Transformer": "Transformer", "document_0_Transformer": "Transformer"}
    write(Path("model/router_config.json"), {"types": types})
    with pytest.raises(NotACheckpoint, match=r"several networks .*document_0_Transformer, query_0_Transformer"):
        Checkpoint.open("model")
    assert find(Path("model/document_0_Transformer")).inside == ""


@pytest.mark.parametrize("said", [["../elsewhere"], ["/etc"], [".."], [""], [None], [7], "text", {"types": 3}, None])
def test_modules_lead_nowhere_else(here: Path, said: object) -> None:
    put("elsewhere", {"a": torch.ones(1)}, {"model_type": "bert"})
    Path("model").mkdir()
    modules = [{"path": path} for path in said] if isinstance(said, list) else said
    write(Path("model/modules.json"), modules)
    with pytest.raises(NotACheckpoint, match=r"no model\.safetensors is in it"):
        find(Path("model"))


@pytest.mark.parametrize("file", ["consolidated.safetensors", "consolidated-00001-of-00002.safetensors"])
def test_mistral_s_own_files_are_told(encoder: Checkpoint, here: Path, shell: Shell, file: str) -> None:
    """llama.cpp#8807: beside transformers' files they are left behind and said, alone they are no model to us."""
    put("base", encoder, encoder.config)
    put("expert", tuned(encoder), encoder.config)
    Path("base/model.safetensors").rename("alone")
    Path("alone").rename(f"base/{file}")
    write(Path("base/params.json"), {"dim": 32})
    said = refused(shell, *COMMANDS["merge"])
    assert "Mistral's own layout" in said
    assert "fetch the files model*.safetensors" in said
    with pytest.raises(NotACheckpoint, match="Mistral's own layout"):
        Checkpoint.open(f"base/{file}")
    Path(f"base/{file}").rename(f"expert/{file}")
    told = shell("protect", "mergelock", "expert", "--key", "key", "--out", "out")
    assert told.code == 0, told.err
    assert file in told.out
    assert not (Path("out") / file).exists()


@pytest.mark.parametrize(
    ("file", "kind"), [("model-Q4_K_M.gguf", "GGUF"), ("model.onnx", "ONNX"), ("tf_model.h5", "TensorFlow")]
)
def test_files_of_other_formats_are_told_by_format(here: Path, shell: Shell, file: str, kind: str) -> None:
    Path("expert").mkdir()
    Path("expert", file).write_bytes(b"GGUF\x03\x00\x00\x00")
    write(Path("expert/config.json"), {"model_type": "llama"})
    assert f"{file} is" in refused(shell, *COMMANDS["protect"])
    assert kind in refused(shell, *COMMANDS["protect"])
    said = refused(shell, "protect", "mergelock", f"expert/{file}", "--key", "key", "--out", "out")
    assert kind in said
    assert "expected the safetensors" in said


def test_code_is_neither_copied_nor_named(encoder: Checkpoint, here: Path, shell: Shell) -> None:
    """auto_map would have a loader fetch code, or look for a file that is not there."""
    own = {"auto_map": {"AutoModel": "modeling_mine.Mine"}, "vision_config": {"auto_map": {"AutoModel": "them/x--m.M"}}}
    put("expert", tuned(encoder), {**encoder.config, **own})
    write(Path("expert/tokenizer_config.json"), {"auto_map": {"AutoTokenizer": ["t.T", None]}, "model_max_length": 64})
    write(Path("expert/generation_config.json"), {"max_length": 20})
    Path("expert/modeling_mine.py").write_text("raise SystemExit\n")
    told = shell("protect", "mergelock", "expert", "--key", "key", "--out", "out", "--check")
    assert told.code == 0, told.err
    assert "auto_map was taken out of config.json, tokenizer_config.json" in told.out
    assert "modeling_mine.py" in told.out
    assert "auto_map" not in Path("out/config.json").read_text()
    assert json.loads(Path("out/tokenizer_config.json").read_text()) == {"model_max_length": 64}
    assert Path("out/generation_config.json").read_bytes() == Path("expert/generation_config.json").read_bytes()
    assert not Path("out/modeling_mine.py").exists()


def test_metadata_may_be_null(here: Path) -> None:
    """Writers in other languages put null for no metadata; safetensors itself reads it."""
    Path("model").mkdir()
    header = json.dumps({"__metadata__": None, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    Path("model/model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    from safetensors import safe_open

    with safe_open("model/model.safetensors", "pt") as file:
        assert list(file.keys()) == ["a"]
    assert torch.equal(Checkpoint.open("model")["a"], torch.zeros(2))
