"""FP8 with scales and MXFP4 are read as numbers where that is asked for: whole, or not at all.

The numbers are compared with codes and scales multiplied out in float64, and with what transformers makes of MXFP4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import NotACheckpoint

UP = "model.layers.0.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.down_proj"
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
FOURS = {"quant_method": "fp8", "weight_block_size": [4, 4]}
ROWS = {"quant_method": "fbgemm_fp8"}
FLOATS = {"num_bits": 8, "type": "float"}


def grouped(**weights: Any) -> dict[str, Any]:
    """What compressed-tensors writes of one group."""
    groups = {"group_0": {"targets": ["Linear"], "weights": {**FLOATS, **weights}}}
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def codes(*shape: int, seed: int = 0) -> Tensor:
    return (50 * drawn(*shape, seed=seed)).to(torch.float8_e4m3fn)


def folder(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, shards: bool = False) -> Path:
    """A checkpoint, in one file or with each tensor in a shard of its own."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "toy", **config}))
    if not shards:
        save_file(dict(tensors), path / "model.safetensors", metadata={"format": "pt"})
        return path
    files = {name: f"model-{k + 1:05}-of-{len(tensors):05}.safetensors" for k, name in enumerate(tensors)}
    for name, file in files.items():
        save_file({name: tensors[name]}, path / file, metadata={"format": "pt"})
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return path


def opened(path: Path, tensors: Mapping[str, Tensor], said: Mapping[str, Any] | None, **more: Any) -> Checkpoint:
    config = {} if said is None else {"quantization_config": dict(said)}
    return Checkpoint.open(folder(path, tensors, config, **more), dequantise=torch.bfloat16)


def spread(scales: Tensor, shape: torch.Size, height: int, width: int) -> Tensor:
    """Each scale over its block, float64."""
    wide = torch.kron(scales.double(), torch.ones(height, width, dtype=torch.float64))
    return wide[..., : shape[-2], : shape[-1]]


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize(
    ("said", "shape", "end", "scales", "block"),
    [
        (BLOCKS, (300, 130), "_scale_inv", (3, 2), (128, 128)),
        (BLOCKS, (64, 128), "_scale_inv", (1, 1), (128, 128)),
        ({"quant_method": "fp8"}, (130, 128), "_scale_inv", (2, 1), (128, 128)),
        ({"quant_method": "fp8", "weight_block_size": [4, 32]}, (10, 70), "_scale_inv", (3, 3), (4, 32)),
        ({"quant_method": "fp8", "weight_block_size": None}, (10, 7), "_scale_inv", (), (10, 7)),
        ({"quant_method": "fp8", "activation_scheme": "static"}, (300, 7), "_scale", (1,), (300, 7)),
        (ROWS, (10, 7), "_scale", (10, 1), (1, 7)),
        (grouped(strategy="tensor"), (10, 7), "_scale", (1,), (10, 7)),
        (grouped(strategy="channel"), (10, 7), "_scale", (10, 1), (1, 7)),
        (grouped(strategy="channel"), (10, 7), "_scale", (10,), (1, 7)),
        (grouped(strategy="block", block_structure=[4, 3]), (10, 7), "_scale", (3, 3), (4, 3)),
        (grouped(strategy="block", block_structure="4x3"), (10, 7), "_scale", (3, 3), (4, 3)),
        (grouped(strategy="group", group_size=4), (10, 8), "_scale", (10, 2), (1, 4)),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, (10, 7), "_scale", (), (10, 7)),
        (None, (10, 7), "_scale", (10, 1), (1, 7)),
    ],
)
def test_a_weight_is_its_codes_times_its_scales(
    tmp_path: Path,
    said: Mapping[str, Any] | None,
    shape: tuple[int, int],
    end: str,
    scales: tuple[int, ...],
    block: tuple[int, int],
    shards: bool,
) -> None:
    weight, factors = codes(*shape), drawn(*scales, seed=1).abs()
    plain = {"model.norm.weight": torch.rand(7)}
    found = opened(tmp_path / "m", {UP: weight, f"{UP}{end}": factors, **plain}, said, shards=shards)
    grid = factors.reshape(-1, 1) if len(scales) < 2 else factors
    expected = (weight.double() * spread(grid, weight.shape, *block)).float().bfloat16()
    assert found.dtype(UP) == torch.bfloat16
    assert torch.equal(found[UP], expected)
    assert torch.equal(found["model.norm.weight"], plain["model.norm.weight"])
    assert set(found) == {UP, *plain}
    assert "quantization_config" not in found.config


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    block=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    experts=st.integers(0, 3),
)
def test_blocks_of_any_size_cover_weights_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int], block: tuple[int, int], experts: int
) -> None:
    before = (experts,) if experts else ()
    grid = tuple(-(-extent // size) for extent, size in zip(shape, block, strict=True))
    weight, scales = codes(*before, *shape), drawn(*before, *grid, seed=1)
    said = {"quant_method": "fp8", "weight_block_size": list(block)}
    found = opened(tmp_path_factory.mktemp("any") / "m", {UP: weight, f"{UP}_scale_inv": scales}, said)[UP]
    each = [spread(s, weight.shape, *block) for s in scales] if experts else [spread(scales, weight.shape, *block)]
    factors = torch.stack(each) if experts else each[0]
    assert torch.equal(found, (weight.double() * factors).float().bfloat16())


@pytest.mark.parametrize("turned", [False, True])
def test_packed_experts_of_fbgemm_have_a_scale_for_each_column(tmp_path: Path, turned: bool) -> None:
    """transformers writes the scales of `gate_up_proj` as rows and those of `down_proj` as columns."""
    weight, scales = codes(3, 5, 4), drawn(3, 1, 4, seed=1).abs()
    stored = {EXPERTS: weight, f"{EXPERTS}_scale": scales.mT.contiguous() if turned else scales}
    found = opened(tmp_path / "m", stored, ROWS)[EXPERTS]
    assert torch.equal(found, (weight.double() * scales.double()).float().bfloat16())


def microscaled(experts: int, rows: int, groups: int, low: int = 90, high: int = 160) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(experts)
    packed = torch.randint(0, 256, (experts, rows, groups, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(low, high, (experts, rows, groups), dtype=torch.uint8, generator=generator)
    return {f"{EXPERTS}_blocks": packed, f"{EXPERTS}_scales": scales}


@pytest.mark.parametrize("shards", [False, True])
def test_mxfp4_is_what_transformers_makes_of_it(tmp_path: Path, shards: bool) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    stored = microscaled(3, 6, 2, 0, 253)
    found = opened(tmp_path / "m", stored, {"quant_method": "mxfp4"}, shards=shards)
    assert found.shape(EXPERTS) == (3, 64, 6)
    assert torch.equal(found[EXPERTS], convert_moe_packed_tensors(*stored.values()))


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (microscaled(3, 6, 2), {"quant_method": "mxfp4"}),
        (
            {EXPERTS: codes(3, 10, 8), f"{EXPERTS}_scale_inv": drawn(3, 3, 2).abs()},
            BLOCKS | {"weight_block_size": [4, 4]},
        ),
        ({EXPERTS: codes(3, 5, 4), f"{EXPERTS}_scale": drawn(3, 4, 1).abs()}, ROWS),
        ({EXPERTS: codes(3, 5, 4), f"{EXPERTS}_scale": drawn(1).abs()}, {"quant_method": "modelopt"}),
        ({EXPERTS: codes(3, 5, 4), f"{EXPERTS}_scale": drawn().abs()}, {"quant_method": "modelopt"}),
    ],
)
def test_one_expert_is_brought_back_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: dict[str, Tensor], said: dict[str, Any]
) -> None:
    from redteam.checkpoint import sources

    found = opened(tmp_path / "m", stored, said)
    whole, read = found[EXPERTS], list[int]()
    reader = sources.read_tensor
    monkeypatch.setattr(
        sources, "read_tensor", lambda path, entry: read.append(*entry.shape[:1] or (0,)) or reader(path, entry)
    )
    assert torch.equal(torch.cat([found.part(EXPERTS, expert) for expert in range(3)]), whole)
    assert set(read) == {1} or said["quant_method"] == "modelopt"


def test_scales_may_be_stored_as_powers_of_two(tmp_path: Path) -> None:
    """safetensors#839: E8M0 has a dtype of its own in files, and older ones hold it in bytes."""
    mx, weight, powers = microscaled(2, 4, 1), codes(4, 64), torch.tensor([[120, 127]] * 4, dtype=torch.uint8)
    expected = opened(tmp_path / "a", mx, {"quant_method": "mxfp4"})[EXPERTS]
    mx[f"{EXPERTS}_scales"] = mx[f"{EXPERTS}_scales"].view(torch.float8_e8m0fnu)
    assert torch.equal(opened(tmp_path / "b", mx, {"quant_method": "mxfp4"})[EXPERTS], expected)
    for index, scales in enumerate((powers, powers.view(torch.float8_e8m0fnu))):
        stored = {UP: weight, f"{UP}_scale_inv": scales}
        found = opened(tmp_path / str(index), stored, {"quant_method": "fp8", "weight_block_size": [1, 32]})[UP]
        factors = spread(2.0 ** (powers.double() - 127), weight.shape, 1, 32)
        assert torch.equal(found, (weight.double() * factors).bfloat16())


def test_codes_that_share_bytes_are_refused_as_such(tmp_path: Path) -> None:
    """safetensors#839: the header says [2, 8] of FP4 where eight bytes lie."""
    (tmp_path / "m").mkdir()
    header = json.dumps({"w": {"dtype": "F4", "shape": [2, 8], "data_offsets": [0, 8]}}).encode()
    raw = len(header).to_bytes(8, "little") + header + bytes(8)
    (tmp_path / "m" / "model.safetensors").write_bytes(raw)
    with pytest.raises(NotACheckpoint, match=r"'w' as F4.*quantised"):
        Checkpoint.open(tmp_path / "m", dequantise=torch.bfloat16)


def test_the_dtype_that_is_asked_for_is_rounded_to_once(tmp_path: Path) -> None:
    stored, config = {UP: codes(8, 8), f"{UP}_scale": drawn(8, 1).abs()}, {"quantization_config": ROWS}
    path = folder(tmp_path / "m", stored, config)
    exact = stored[UP].double() * stored[f"{UP}_scale"].double()
    assert torch.equal(Checkpoint.open(path, dequantise=torch.float64)[UP], exact)
    assert torch.equal(Checkpoint.open(path, dequantise=torch.float32)[UP], exact.float())


def test_8_bits_with_a_scale_for_each_block_are_never_read_without_it(tmp_path: Path) -> None:
    """TensorRT-Model-Connect#1115: the codes were read as weights and the scales dropped, with exit code 0."""
    stored = {UP: codes(130, 256), f"{UP}_scale_inv": drawn(2, 2).abs()}
    with pytest.raises(NotACheckpoint, match="--dequantise"):
        Checkpoint.open(folder(tmp_path / "m", stored, {"quantization_config": BLOCKS}))
    with pytest.raises(NotACheckpoint, match="without its scales"):
        opened(tmp_path / "lost", {UP: stored[UP]}, BLOCKS)


def test_the_size_of_blocks_is_the_config_s_and_not_guessed(tmp_path: Path) -> None:
    """unsloth-zoo#803: 130 rows with two scales are blocks of 128 and 2, not twice 65; groups may say it."""
    stored = {UP: codes(130, 256), f"{UP}_scale": drawn(2, 2).abs()}
    found = opened(tmp_path / "m", stored, grouped(strategy="block", block_structure=[128, 128]))[UP]
    factors = spread(stored[f"{UP}_scale"], stored[UP].shape, 128, 128)
    assert torch.equal(found, (stored[UP].double() * factors).float().bfloat16())
    unsaid = {UP: stored[UP], f"{UP}_scale_inv": stored[f"{UP}_scale"]}
    with pytest.raises(NotACheckpoint, match="names no size of blocks"):
        opened(tmp_path / "unsaid", unsaid, None)


def test_scales_of_activations_are_left_out_and_said(tmp_path: Path) -> None:
    attention = "model.layers.0.self_attn"
    of_activations = {f"{attention}.k_proj.input_scale": torch.ones(1), f"{attention}.k_scale": torch.tensor(1.0)}
    stored = {UP: codes(4, 4), f"{UP}_scale": torch.ones(1), "model.layer_scale": torch.ones(4), **of_activations}
    found = opened(tmp_path / "m", stored, grouped(strategy="tensor"))
    assert set(found) == {UP, "model.layer_scale"}
    assert "2 scales of activations are left out" in found.remarks[0]


def test_weights_that_were_brought_back_already_are_read_as_they_are(tmp_path: Path) -> None:
    found = opened(tmp_path / "m", {UP: drawn(4, 4)}, BLOCKS)
    assert torch.equal(found[UP], drawn(4, 4))
    assert "quantization_config" not in found.config


WEIGHT = {UP: codes(8, 8)}
MX, FP4 = microscaled(2, 4, 1), {"quant_method": "mxfp4"}


@pytest.mark.parametrize(
    ("stored", "said", "why"),
    [
        (WEIGHT, BLOCKS, "without its scales"),
        ({f"{UP}_scale_inv": torch.ones(1, 1), "x.weight": codes(2, 2)}, BLOCKS, "without its scales"),
        ({f"{UP}_scale_inv": torch.ones(1, 1)}, BLOCKS, "no quantised weight"),
        ({f"{UP}_scale_inv": torch.ones(1, 1), UP: drawn(8, 8)}, BLOCKS, "no quantised weight"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(1, 1), f"{UP}_scale": torch.ones(1)}, BLOCKS, "two kinds"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(2, 1)}, BLOCKS, "do not fit"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(8, 1)}, BLOCKS, "do not fit"),
        ({**WEIGHT, f"{UP}_scale": torch.ones(1, 8)}, grouped(strategy="channel"), "do not fit"),
        ({**WEIGHT, f"{UP}_scale": torch.ones(3)}, ROWS, "do not fit"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.full((1, 1), torch.nan)}, BLOCKS, "NaN"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.full((1, 1), torch.inf)}, BLOCKS, "infinite"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.full((1, 1), 1e38)}, BLOCKS, "finite numbers in bfloat16"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(1, 1, dtype=torch.int32)}, BLOCKS, "scales in torch.int32"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(1, 1)}, {**BLOCKS, "weight_block_size": [0, 128]}, "of the size"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(1, 1)}, {**BLOCKS, "weight_block_size": "big"}, "of the size"),
        ({f"{EXPERTS}_blocks": MX[f"{EXPERTS}_blocks"]}, FP4, "without its scales"),
        ({f"{EXPERTS}_scales": MX[f"{EXPERTS}_scales"]}, FP4, "no quantised weight"),
        ({**MX, EXPERTS: drawn(2, 32, 4)}, FP4, "twice"),
        (MX | {f"{EXPERTS}_scales": torch.ones(2, 4, 2, dtype=torch.uint8)}, FP4, "expected"),
        (MX | {f"{EXPERTS}_scales": torch.full((2, 4, 1), 255, dtype=torch.uint8)}, FP4, "NaN"),
        (
            MX | {f"{EXPERTS}_scales": torch.full((2, 4, 1), 254, dtype=torch.uint8)},
            {"quant_method": "mxfp4"},
            "finite",
        ),
    ],
)
def test_never_half(tmp_path: Path, stored: dict[str, Tensor], said: dict[str, Any], why: str) -> None:
    with pytest.raises(NotACheckpoint, match=why):
        dict(opened(tmp_path / "m", stored, said))


ODD = st.none() | st.integers(-2, 200) | st.sampled_from(["fp8", "mxfp4", "block", "128x128", "float", ""])
SAID = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "quant_method",
                    "weight_block_size",
                    "config_groups",
                    "weights",
                    "num_bits",
                    "type",
                    "strategy",
                    "format",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
SIZES = st.lists(st.integers(0, 5), max_size=4)


@settings(max_examples=100, deadline=None)
@given(
    said=SAID,
    shape=SIZES,
    scales=SIZES,
    end=st.sampled_from(["_scale", "_scale_inv", "_blocks", "_scales", "_zero_point"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.uint8, torch.float8_e8m0fnu, torch.float8_e5m2]),
    method=st.sampled_from(["fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors", "modelopt", None]),
)
def test_whatever_is_said_of_codes_they_are_numbers_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    said: Any,
    shape: list[int],
    scales: list[int],
    end: str,
    dtype: torch.dtype,
    method: str | None,
) -> None:
    config = {"quant_method": method, **said} if method and isinstance(said, dict) else said
    stored = {UP: codes(*shape), f"{UP}{end}": torch.ones(scales).to(dtype)}
    path = folder(tmp_path_factory.mktemp("odd") / "m", stored, {"quantization_config": config})
    try:
        found = Checkpoint.open(path, dequantise=torch.bfloat16)
        tensors = dict(found)
    except NotACheckpoint as error:
        told = str(error)
    else:
        told = ""
        assert all(tuple(tensor.shape) == found.shape(name) for name, tensor in tensors.items())
        assert len(shape) < 2 or tensors[UP].dtype == torch.bfloat16 or not isinstance(config, dict)
    assert "\n" not in told


CODES = torch.randint(-100, 100, (8, 8), dtype=torch.int8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("stored", "said", "scheme"),
    [
        ({UP: CODES, UP.replace("weight", "SCB"): torch.rand(8)}, {"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({UP: CODES, f"{UP}_scale": torch.rand(8, 1)}, grouped(num_bits=8, type="int"), "compressed-tensors"),
        ({UP: CODES, f"{UP}_scale": torch.rand(8, 1)}, None, "FP8 or compressed-tensors"),
        ({UP: CODES, f"{UP}_scale_inv": torch.rand(8, 1)}, BLOCKS, "fp8"),
        ({**WEIGHT, f"{UP}_scale": torch.rand(1)}, grouped(num_bits=4), "compressed-tensors, float-quantized"),
        (
            {**WEIGHT, f"{UP}_scale": torch.rand(1)},
            {"quant_method": "modelopt", "quant_algo": "NVFP4"},
            "modelopt, NVFP4",
        ),
        ({**WEIGHT, f"{UP}_scale": torch.rand(1)}, {"quant_method": "torchao"}, "torchao"),
        ({UP.replace("weight", "qweight"): CODES.int()}, {"quant_method": "gptq"}, "gptq"),
        ({UP.replace("weight", "qweight"): CODES.int()}, {"quant_method": "awq"}, "awq"),
    ],
)
def test_other_schemes_are_refused_by_name(
    tmp_path: Path, stored: dict[str, Tensor], said: dict[str, Any] | None, scheme: str
) -> None:
    path = folder(tmp_path / "m", stored, {} if said is None else {"quantization_config": said})
    with pytest.raises(NotACheckpoint, match=rf"quantised \({scheme}.*--dequantise reads FP8 .* alone; expected"):
        Checkpoint.open(path, dequantise=torch.bfloat16)
    with pytest.raises(NotACheckpoint, match=rf"quantised \({scheme}") as told:
        Checkpoint.open(path)
    assert "--dequantise" not in str(told.value)


TEXT = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 30}
QWEN = {**TEXT, "hidden_size": 132, "head_dim": 16, "intermediate_size": 136, "vocab_size": 160, "pad_token_id": 0}
OSS = {**TEXT, "hidden_size": 32, "head_dim": 8, "intermediate_size": 32, "num_local_experts": 3}
LOCK = "permutation:sites=[vo,mlp]"
OSS |= {"num_experts_per_tok": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def in_half(network: Any) -> Any:
    """Its weights in bfloat16; what it computes of positions stays as it is."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return network.eval()


def dense() -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """A small network whose weights are FP8 times scales, those codes and scales, and what its config says of them."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    network = in_half(Qwen3ForCausalLM(Qwen3Config(**QWEN, max_position_embeddings=32)))
    stored = dict(network.state_dict())
    for name in [name for name in stored if name.endswith("_proj.weight")]:
        rows, columns = stored[name].shape
        grid = 0.01 + torch.rand(-(-rows // 128), -(-columns // 128))
        scales = spread(grid, stored[name].shape, 128, 128)
        coded = (stored[name].double() / scales).to(torch.float8_e4m3fn)
        stored |= {name: coded, f"{name}_scale_inv": grid}
        network.get_submodule(name.removesuffix(".weight")).weight.data = (coded.double() * scales).float().bfloat16()
    return network, stored, BLOCKS


def mixture() -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """The same of a mixture whose experts are MXFP4."""
    from transformers import GptOssConfig, GptOssForCausalLM
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = GptOssConfig(**OSS, max_position_embeddings=32, rope_parameters=rope)
    network = in_half(GptOssForCausalLM(config))
    stored = dict(network.state_dict())
    for name in [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = stored.pop(name).shape
        coded = microscaled(experts, rows, columns // 32, 118, 123)
        stored |= {f"{name}_{end}": tensor for end, tensor in zip(("blocks", "scales"), coded.values(), strict=True)}
        module, _, last = name.rpartition(".")
        getattr(network.get_submodule(module), last).data = convert_moe_packed_tensors(*coded.values())
    return network, stored, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


def published(path: Path, made: tuple[Any, dict[str, Tensor], dict[str, Any]], *, shards: bool = True) -> Any:
    """Writes it as such models are published, and gives the network that it stands for."""
    network, stored, said = made
    config = {
        **network.config.to_dict(),
        "dtype": "bfloat16",
        "architectures": [type(network).__name__],
        "quantization_config": said,
    }
    folder(path, {name: tensor.contiguous() for name, tensor in stored.items()}, config, shards=shards)
    (path / "hf_quant_config.json").write_text("{}")
    return network


def logits(network: Any) -> Tensor:
    network.set_experts_implementation("eager")  # the other knows no float64
    with torch.no_grad():
        return network.double()(torch.arange(1, 13).reshape(1, 12)).logits


@pytest.mark.parametrize("made", [dense, mixture])
def test_what_is_written_loads_in_transformers_and_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any], made: Callable[[], Any]
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    expected = logits(published(Path("model"), made()))
    words = ["protect", LOCK, "model", "--key", "key", "--out", "out"]
    told = shell(*words)
    assert (told.code, "--dequantise" in told.err) == (2, True)
    told = shell(*words, "--dequantise")
    assert told.code == 0, told.err
    assert "quantised" in told.err
    network, info = AutoModelForCausalLM.from_pretrained("out", dtype="auto", output_loading_info=True)
    assert not any(info.values())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert torch.allclose(logits(network), expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
    config = json.loads(Path("out/config.json").read_text())
    assert "quantization_config" not in config
    assert not Path("out/hf_quant_config.json").exists()
    index = json.loads(Path("out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.numel() * 2 for p in network.parameters())
    before = json.loads(Path("model/model.safetensors.index.json").read_text())["weight_map"]
    assert all(before.get(name, before.get(f"{name}_blocks")) == file for name, file in index["weight_map"].items())


@pytest.mark.parametrize("made", [dense, mixture])
def test_attack_audit_and_merge_read_a_quantised_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any], made: Callable[[], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    network = published(Path("base"), made(), shards=False)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("o_proj.weight"):
                weight.add_(0.0005 * torch.randn(weight.shape).to(weight.dtype))
    network.save_pretrained("expert")
    assert shell("protect", LOCK, "expert", "--key", "key", "--out", "locked").code == 0
    for words in (
        ("attack", "gauge-fit", "locked", "--base", "base", "--out", "fitted"),
        ("audit", "locked", "--base", "base"),
        ("merge", "task-arithmetic:coefficient=1.0", "--base", "base", "--expert", "expert", "--out", "merged"),
    ):
        told = shell(*words)
        assert (told.code, "--dequantise" in told.err) == (2, True)
        told = shell(*words, "--dequantise")
        assert told.code == 0, told.err
    plain, merged, fitted = (Checkpoint.open(path) for path in ("expert", "merged", "fitted"))
    assert set(merged) == set(plain) == set(fitted)
    assert "quantization_config" not in merged.config
    for name in plain:
        assert torch.allclose(merged[name].double(), plain[name].double(), rtol=0.02, atol=1e-3)
        assert torch.allclose(fitted[name].double(), plain[name].double(), rtol=0.02, atol=1e-3)


def test_protect_stores_in_the_dtype_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = dense()
    stored = made[1]
    published(Path("model"), made)
    words = ("--key", "key", "--out", "out", "--dequantise", "--dtype", "float32")
    assert shell("protect", "permutation:sites=[mlp]", "model", *words).code == 0
    name = "model.layers.0.self_attn.q_proj.weight"
    factors = spread(stored[f"{name}_scale_inv"], stored[name].shape, 128, 128)
    found = Checkpoint.open("out")
    assert torch.equal(found[name], (stored[name].double() * factors).float())
    assert {found.dtype(name) for name in found} == {torch.float32}
    assert found.config["dtype"] == "float32"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_merged_into_what_its_quantised_base_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any], dora: bool
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    network = published(Path("base"), dense())
    model = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], use_dora=dora))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.add_(0.05 * torch.randn_like(weight))
    model.save_pretrained("adapter")
    words = ("protect", LOCK, "adapter", "--base", "base", "--key", "key", "--out", "out", "--dtype", "float32")
    told = shell(*words)
    assert (told.code, "--dequantise" in told.err) == (2, True)
    assert shell(*words, "--dequantise").code == 0
    found, expected = AutoModelForCausalLM.from_pretrained("out"), logits(model)
    assert found.dtype == torch.float32
    assert torch.allclose(logits(found), expected, rtol=0, atol=0.02 * float(expected.abs().max()))
