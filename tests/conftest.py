"""Networks small enough for float64, with no tensor left at a value (0 or 1) that would hide that it was forgotten."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from redteam.anatomy import ARCHITECTURES, Architecture, Layout
from redteam.checkpoint import Checkpoint
from tests.chromium import CHROMIUM
from tests.pages import Page


@pytest.fixture(scope="session")
def lasting_no_power_cut() -> Iterator[None]:
    """SQLite waits for no disk: what a test writes has to outlive processes, and no power cut."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def careless(connection: Any, _: Any) -> None:
        if type(connection).__module__ == "sqlite3":
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", careless)
    yield
    event.remove(Engine, "connect", careless)


@dataclass(frozen=True)
class Case:
    """A checkpoint and what it computes on some fixed inputs."""

    checkpoint: Checkpoint
    outputs: Callable[[Checkpoint], Tensor]

    def change(self, other: Checkpoint) -> float:
        """`max|Δ| / max|output|`."""
        here = self.outputs(self.checkpoint)
        return float((self.outputs(other) - here).abs().max() / here.abs().max())


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Weights of deviation 1/√in, biases and shifts of 0.3, gains of either sign away from 0."""
    draws, tensors = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        noise = torch.from_numpy(np.asarray(draws.standard_normal(shape)))
        if "norm" in name.lower() and name.endswith("weight"):
            noise = (0.5 + noise.abs()) * noise.sign()
        else:
            noise = noise * (0.3 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5)
        tensors[name] = noise
    return tensors


def hugging_face(network: object, folder: Path, inputs: dict[str, Tensor]) -> Case:
    """A network of transformers, drawn anew."""
    network.save_pretrained(folder)  # type: ignore[attr-defined]
    blank = Checkpoint.open(folder)
    checkpoint = Checkpoint.of(drawn({name: blank.shape(name) for name in sorted(blank)}, 0), blank.config)

    def outputs(checkpoint: Checkpoint) -> Tensor:
        with torch.no_grad():
            logits: Tensor = checkpoint.module(torch.float64)(**inputs).logits
        return logits

    return Case(checkpoint, outputs)


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A Hugging Face ViT: 2 layers, width 24, 3 heads of 8, 20 neurons."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        image_size=12,
        patch_size=4,
        num_labels=5,
    )
    images = torch.from_numpy(np.random.default_rng(1).standard_normal((6, 3, 12, 12)))
    return hugging_face(ViTForImageClassification(config), tmp_path_factory.mktemp("vit"), {"pixel_values": images})


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A Hugging Face BERT, whose norms stand after the blocks: 2 layers, width 24, 3 heads of 8, 20 neurons."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        vocab_size=13,
        max_position_embeddings=9,
        num_labels=5,
    )
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 13, (6, 7)))
    mask = (torch.arange(7) < torch.tensor([7, 7, 5, 7, 3, 6])[:, None]).long()
    return hugging_face(
        BertForSequenceClassification(config),
        tmp_path_factory.mktemp("bert"),
        {"input_ids": tokens, "attention_mask": mask},
    )


TOY = Architecture(
    query="block.{layer}.q",
    key="block.{layer}.k",
    value="block.{layer}.v",
    output="block.{layer}.o",
    up="block.{layer}.up",
    down="block.{layer}.down",
    attention_norm="block.{layer}.norm1",
    mlp_norm="block.{layer}.norm2",
)
FUSED = Architecture(
    **{
        **vars(TOY),
        "query": "block.{layer}.qkv",
        "key": "block.{layer}.qkv",
        "value": "block.{layer}.qkv",
        "transposed": True,
    }
)
HEADS, GROUPS, N, D, NEURONS, LAYERS = (
    4,
    2,
    6,
    24,
    15,
    2,
)  # H·n = D, so that a forgotten transposition shows as a change


LAYOUTS = ["plain", "no-bias", "fused"]


@pytest.fixture(params=LAYOUTS)
def grouped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A hand-made pre-norm network with two query heads to a key/value head, in three layouts."""
    return toy(request.param, monkeypatch)


@pytest.fixture(params=["half", "interleaved"])
def rotary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The same with queries and keys rotated by position, in both layouts of the planes."""
    return toy("plain", monkeypatch, planes=request.param)


@pytest.fixture(params=["vit", "bert", *LAYOUTS])
def case(request: pytest.FixtureRequest, vit: Case, bert: Case, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The networks of transformers, then the hand-made ones."""
    return {"vit": vit, "bert": bert}.get(request.param) or toy(request.param, monkeypatch)


def toy(layout: str, monkeypatch: pytest.MonkeyPatch, planes: Layout | None = None) -> Case:
    fused, biases = layout == "fused", layout != "no-bias"
    monkeypatch.setitem(ARCHITECTURES, "toy", replace(FUSED if fused else TOY, planes=planes))
    config = {
        "model_type": "toy",
        "hidden_size": D,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "intermediate_size": NEURONS,
    }
    q, kv = HEADS * N, GROUPS * N
    maps = {"q": (q, D), "k": (kv, D), "v": (kv, D), "o": (D, q), "up": (NEURONS, D), "down": (D, NEURONS)}
    if fused:
        maps = {"qkv": (q + 2 * kv, D)} | {name: maps[name] for name in ("o", "up", "down")}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        for name, shape in maps.items():
            shapes[f"block.{layer}.{name}.weight"] = shape[::-1] if fused else shape
            if biases:
                shapes[f"block.{layer}.{name}.bias"] = shape[:1]
        for name in ("norm1", "norm2"):
            shapes[f"block.{layer}.{name}.weight"] = shapes[f"block.{layer}.{name}.bias"] = (D,)
    tokens = torch.from_numpy(np.random.default_rng(2).standard_normal((7, D)))
    return Case(
        Checkpoint.of(drawn(shapes, 3), config), lambda checkpoint: toy_outputs(checkpoint, tokens, fused, planes)
    )


def toy_outputs(checkpoint: Checkpoint, x: Tensor, fused: bool, planes: str | None = None) -> Tensor:
    """The network written out head by head, independently of `redteam.anatomy`; a last LayerNorm reads the stream."""

    def linear(name: str, x: Tensor) -> Tensor:
        weight = checkpoint[name + ".weight"].double()
        y = x @ (weight if fused else weight.T)
        return y + checkpoint[name + ".bias"].double() if name + ".bias" in checkpoint else y

    def norm(name: str, x: Tensor) -> Tensor:
        gain, shift = checkpoint[name + ".weight"].double(), checkpoint[name + ".bias"].double()
        return torch.nn.functional.layer_norm(x, (D,), gain, shift, eps=1e-12)

    for layer in range(LAYERS):
        stem = f"block.{layer}."
        y = norm(stem + "norm1", x)
        if fused:
            q, k, v = linear(stem + "qkv", y).split([HEADS * N, GROUPS * N, GROUPS * N], dim=-1)
        else:
            q, k, v = (linear(stem + name, y) for name in "qkv")
        heads = []
        for h in range(HEADS):
            g = h // (HEADS // GROUPS)
            one, other = q[:, h * N : (h + 1) * N], k[:, g * N : (g + 1) * N]
            if planes:
                one, other = rotated(one, planes), rotated(other, planes)
            scores = one @ other.T / N**0.5
            heads.append(scores.softmax(-1) @ v[:, g * N : (g + 1) * N])
        x = x + linear(stem + "o", torch.cat(heads, dim=-1))
        x = x + linear(stem + "down", torch.nn.functional.gelu(linear(stem + "up", norm(stem + "norm2", x))))
    return torch.nn.functional.layer_norm(x, (D,))


def rotated(x: Tensor, planes: str) -> Tensor:
    """Rotary embedding of one head [tokens, N], a rotation matrix at a time."""
    turned = x.clone()
    for token in range(len(x)):
        for plane in range(N // 2):
            pair = [plane, plane + N // 2] if planes == "half" else [2 * plane, 2 * plane + 1]
            angle = torch.tensor(0.9 * token / 4.0**plane, dtype=torch.float64)
            turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
            turned[token, pair] = turn @ x[token, pair]
    return turned


@pytest.fixture(scope="session")
def page() -> Callable[[str], Page]:
    """Reads a page, named from the root of the repository."""
    return Page.read


@dataclass(frozen=True)
class Told:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def shell() -> Callable[..., Told]:
    """Runs a `redteam` command in this process."""

    def redteam(*words: str) -> Told:
        from redteam.cli.main import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
            main(list(words))
        return Told(int(left.value.code or 0), out.getvalue(), err.getvalue())

    return redteam


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser; opened once for the tests of a module."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "REDTEAM_REQUIRE_BROWSER=1, and there is no chromium on the path"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()
