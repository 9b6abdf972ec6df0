"""`redteam merge` on folders and shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.registry import MERGERS
from redteam.testing import toy_scenario
from redteam.views import MergerView

Shell = Callable[..., Any]
TEXTS = ("task-arithmetic:coefficient=0.5", "linear:weights=[[left,2.0]]", "ties:density=0.4", "dare:elect=true")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the free-rider stands."""
    scenario = toy_scenario("vit")
    scenario.base.save(tmp_path / "base")
    for name, expert in scenario.experts.items():
        expert.save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experts(*names: str) -> list[str]:
    return [word for name in names for word in ("--expert", name)]


@pytest.mark.parametrize(("text", "seed"), [*((text, 0) for text in TEXTS), ("dare:elect=true", 3)])
def test_it_is_what_the_plugin_makes(shell: Shell, here: Path, text: str, seed: int) -> None:
    seeded = ("--seed", str(seed)) if seed else ()
    told = shell("merge", text, "--base", "base", *experts("left", "right", "victim"), *seeded, "--out", "merged")
    assert told.code == 0, told.err
    base = Checkpoint.open("base")
    plugin = MERGERS.load(text)
    view = MergerView(
        {name: Checkpoint.open(name) for name in ("left", "right", "victim")},
        base,
        Key.derive(seed=seed, index=0, name=f"merger {plugin.spec.name}"),
        plugin.spec.needs_base,
    )
    wanted, merged = plugin(view), Checkpoint.open("merged")
    assert list(merged) == list(base)
    assert all(torch.equal(merged[name], wanted[name]) for name in base)
    assert merged.config == base.config
    card = Path("merged/README.md").read_text()
    assert "left, right, victim" in card
    assert text.partition(":")[0] in card
    assert ("| seed | 3 |" in card) == bool(seed)


class TestMoreThanOneCheckpoint:
    def test_each_expert_has_a_folder_with_what_runs_on_its_task(self, shell: Shell, here: Path) -> None:
        told = shell("merge", "emr", "--base", "base", *experts("left", "right"), "--out", "merged", "--load")
        assert told.code == 0, told.err
        assert "a folder for the task of each" in told.out
        base, plugin = Checkpoint.open("base"), MERGERS.load("emr")
        key = Key.derive(seed=0, index=0, name="merger emr")
        wanted = plugin(MergerView({name: Checkpoint.open(name) for name in ("left", "right")}, base, key))
        for name in ("left", "right"):
            made, there = Checkpoint.open(f"merged/{name}"), wanted.of(name)
            assert all(torch.equal(made[tensor], there[tensor]) for tensor in base)
            assert f"| runs on the task of | {name} |" in Path(f"merged/{name}/README.md").read_text()
        assert not torch.equal(*(Checkpoint.open(f"merged/{name}")[sorted(base)[-1]] for name in ("left", "right")))

    def test_nothing_is_there_unless_all_are(self, shell: Shell, here: Path) -> None:
        Checkpoint.open("base").save(here / "still")
        told = shell("merge", "emr", "--base", "base", *experts("left", "still"), "--out", "merged")
        assert told.code == 2
        assert "equals the base" in told.err
        assert not Path("merged").exists()

    @pytest.mark.parametrize(
        ("text", "told"),
        [("smile", "layers that route what they are given"), ("neulig", "takes data of every expert's task")],
    )
    def test_what_is_more_than_weights_or_needs_data_is_refused(
        self, shell: Shell, here: Path, text: str, told: str
    ) -> None:
        found = shell("merge", text, "--base", "base", *experts("left", "right"), "--out", "merged")
        assert (found.code, found.err.count("\n")) == (2, 1)
        assert told in found.err
        assert not Path("merged").exists()

    def test_a_name_that_is_no_folder_is_one_sentence(self, shell: Shell, here: Path) -> None:
        told = shell("merge", "emr", "--base", "base", *experts("..=left", "right"), "--out", "merged")
        assert told.code == 2
        assert "gets a folder of its name, which '..' cannot be" in told.err
        assert not Path("merged").exists()


def test_shards_and_dtypes_are_those_of_the_base(shell: Shell, here: Path) -> None:
    base = Checkpoint.open("base").to(torch.bfloat16)
    names = sorted(base)
    shards = {f"model-0000{i}-of-00003.safetensors": names[i - 1 :: 3] for i in (1, 2, 3)}
    (here / "sharded").mkdir()
    for file, held in shards.items():
        save_file({name: base[name] for name in held}, here / "sharded" / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {name: f for f, held in shards.items() for name in held}}
    (here / "sharded/model.safetensors.index.json").write_text(json.dumps(index))
    (here / "sharded/config.json").write_bytes((here / "base/config.json").read_bytes())
    assert shell("merge", "linear", "--base", "sharded", *experts("left", "right"), "--out", "merged").code == 0
    merged = Checkpoint.open("merged")
    assert {merged.dtype(name) for name in merged} == {torch.bfloat16}
    assert json.loads(Path("merged/model.safetensors.index.json").read_text())["weight_map"] == index["weight_map"]
    mean = (Checkpoint.open("left")[names[0]].double() + Checkpoint.open("right")[names[0]].double()) / 2
    assert torch.equal(merged[names[0]], mean.float().bfloat16())


def test_a_tensor_is_read_when_it_is_written(shell: Shell, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads further ahead than the next one holds a whole model."""
    read: list[str] = []
    written: list[str] = []
    original = Checkpoint.__getitem__

    def reading(self: Checkpoint, name: str) -> torch.Tensor:
        assert len(set(read) - set(written)) <= 2
        read.append(name)
        return original(self, name)

    import redteam.cli.checkpoint_options as home

    class Watching(home.Progress):
        def advanced(self, done: int, total: int, what: str) -> None:
            written.append(what)

    monkeypatch.setattr(Checkpoint, "__getitem__", reading)
    monkeypatch.setattr(home, "Progress", Watching)
    told = shell("merge", "task-arithmetic", "--base", "base", *experts("left", "right"), "--out", "merged")
    assert told.code == 0, told.err
    assert len(written) == len(set(read)) == 38


def test_what_no_expert_has_is_told(shell: Shell, here: Path) -> None:
    victim = Checkpoint.open("victim")
    name = "vit.embeddings.position_embeddings"
    for expert in ("left", "right"):
        Checkpoint.open(expert).replace({name: torch.zeros(1, 17, 32)}).save(here / f"{expert}-large")
    told = shell("merge", "ties", "--base", "base", *experts("left-large", "right-large"), "--out", "merged")
    assert told.code == 0, told.err
    assert name in told.out
    assert torch.equal(Checkpoint.open("merged")[name], Checkpoint.open("base")[name])
    assert "classifier.weight" in victim
    assert "classifier.weight" not in Checkpoint.open("merged"), "heads belong to tasks"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ties", *experts("left", "bert")], "architecture"),
        (["ties", *experts("left", "wide")], "shape-restore"),
        (["ties", *experts("left", "left")], "Two experts"),
        (["ties", *experts("left", "elsewhere/left")], "Two experts"),
        (["ties", *experts("left", "nowhere")], "nowhere"),
        (["tise", *experts("left", "right")], "did you mean"),
        (["ties:density=7.0", *experts("left", "right")], "density"),
        (["ties+linear", *experts("left", "right")], "chains"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(shell: Shell, here: Path, words: list[str], says: str) -> None:
    toy_scenario("bert").base.save(here / "bert")
    Checkpoint.open("left").save(here / "elsewhere" / "left")
    shell("protect", "split-neurons", "victim", "--key", "key", "--out", "wide")
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    told = shell("merge", *words, "--base", "base", "--out", "out")
    assert (told.code, told.out) == (2, "")
    assert says in told.err.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


def test_neither_the_base_nor_an_expert_is_overwritten(shell: Shell, here: Path) -> None:
    digest = Checkpoint.open("base").digest()
    for out in ("base", "left", "."):
        told = shell("merge", "ties", "--base", "base", *experts("left"), "--out", out, "--force")
        assert told.code == 2
    assert Checkpoint.open("base").digest() == digest


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("text", TEXTS)
def test_on_a_gpu_it_is_the_same_within_rounding(shell: Shell, here: Path, text: str) -> None:
    for device in ("cpu", "cuda"):
        words = ("--base", "base", *experts("left", "right"), "--device", device, "--out", device)
        assert shell("merge", text, *words).code == 0
    one, other = Checkpoint.open("cpu"), Checkpoint.open("cuda")
    for name in one:
        torch.testing.assert_close(one[name], other[name])


def test_reading_ahead_gives_the_same_in_any_order() -> None:
    import redteam.cli.checkpoint_options as home

    read: list[str] = []

    def load(name: str) -> torch.Tensor:
        read.append(name)
        return torch.tensor([int(name)])

    given = Checkpoint.computed({str(i): ((1,), torch.int64) for i in range(6)}, load)
    with home.read_ahead(given) as ready:
        assert [int(ready[str(i)]) for i in range(6)] == list(range(6))
        assert read == [str(i) for i in range(6)], "each is computed once"
        assert [int(ready[str(i)]) for i in (5, 2, 2, 0)] == [5, 2, 2, 0]


def test_experts_whose_weights_mean_something_else_are_refused(shell: Shell, here: Path) -> None:
    """One with other positions, heads, epsilon, activation or tying in its config than the base has."""
    words = ("merge", "task-arithmetic", "--base", "base", *experts("left", "right"), "--out", "out")
    path = here / "right/config.json"
    settings = json.loads(path.read_text())
    for key, value in (
        ("layer_norm_eps", 0.5),
        ("num_attention_heads", 1),
        ("hidden_act", "relu"),
    ):
        path.write_text(json.dumps({**settings, key: value}))
        told = shell(*words)
        assert told.code == 2, key
        assert key in told.err
        assert "right" in told.err
        assert not (here / "out").exists()
    path.write_text(json.dumps({**settings, "id2label": {"0": "x"}, "hidden_dropout_prob": 0.4, "_name_or_path": "x"}))
    assert shell(*words).code == 0, "what training may change is not asked about"


def test_a_name_in_the_weights_that_no_expert_has_is_a_sentence(shell: Shell, here: Path) -> None:
    words = ("--base", "base", *experts("left", "right"), "--out", "out")
    told = shell("merge", "linear:weights=[[lefd,2.0]]", *words)
    assert told.code == 2
    assert "lefd" in told.err
    assert "did you mean 'left'" in told.err
    assert shell("merge", "linear:weights=[[left,2.0]]", *words).code == 0


def test_a_head_that_the_base_ties_and_stores_stays_tied(shell: Shell, tmp_path: Path, monkeypatch: Any) -> None:
    """The base's file holds the head as well, the experts' do not."""
    monkeypatch.chdir(tmp_path)
    draws = torch.Generator().manual_seed(0)
    table, matrix = torch.randn(7, 4, generator=draws), torch.randn(4, 4, generator=draws)
    config = {"model_type": "llama", "tie_word_embeddings": True, "vocab_size": 7}
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")
    Checkpoint.of({"lm_head.weight": table, **dict(zip(names, (table, matrix), strict=True))}, config).save("base")
    Checkpoint.of(dict(zip(names, (table + 0.5, matrix - 1), strict=True)), config).save("expert")
    told = shell("merge", "task-arithmetic:coefficient=1.0", "--base", "base", "--expert", "expert", "--out", "out")
    assert told.code == 0, told.err
    merged = Checkpoint.open("out")
    assert torch.equal(merged["lm_head.weight"], merged[names[0]])
    torch.testing.assert_close(merged[names[0]], table + 0.5)
    assert "lm_head.weight is what model.embed_tokens.weight became" in told.out
    assert "Taken from the base" not in told.out


def test_experts_may_be_named_and_those_of_the_hub_are_called_by_their_model(shell: Shell, here: Path) -> None:
    for who, commit in (("team--left-model", "0123abcd"), ("team--right-model", "4567abcd")):
        snapshot = here / f"hub/models--{who}/snapshots/{commit}"
        snapshot.parent.mkdir(parents=True)
        shutil.copytree(who[6:].removesuffix("-model"), snapshot)
    paths = [str(path) for path in sorted(here.glob("hub/*/snapshots/*"))]
    words = ("--base", "base", "--expert", paths[0], "--expert", paths[1], "--out")
    assert shell("merge", "linear:weights=[[left-model,2.0]]", *words, "hub-merge").code == 0
    assert (
        shell("merge", "linear:weights=[[left,2.0]]", "--base", "base", *experts("left", "right"), "--out", "m").code
        == 0
    )
    assert Checkpoint.open("hub-merge").digest() == Checkpoint.open("m").digest()
    told = shell("merge", "linear", "--base", "base", *experts("left", f"{here}/hub/../left"), "--out", "twice")
    assert told.code == 2
    assert "--expert other-left=" in told.err
    told = shell("merge", "linear:weights=[[a,2.0]]", "--base", "base", *experts("a=left", "b=right"), "--out", "named")
    assert told.code == 0, told.err
    assert Checkpoint.open("named").digest() == Checkpoint.open("m").digest()
    assert "a, b" in Path("named/README.md").read_text()


def with_bystanders(folder: str, mask: float = -torch.inf, **more: torch.Tensor) -> None:
    """A causal mask and a tensor in 8 bits, which no merger should trip over."""
    masks = {"mask": torch.full((4, 4), mask).triu(1), "scale8": torch.ones(3).to(torch.float8_e4m3fn)}
    tensors = {**Checkpoint.open(folder), **masks, **more}
    save_file({n: t.contiguous() for n, t in tensors.items()}, f"{folder}/model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("merger", ["linear", "task-arithmetic", "ties", "tsv-m", "cart"])
def test_masks_and_narrow_floats_stand_by(shell: Shell, here: Path, merger: str) -> None:
    for name in ("base", "left", "right"):
        with_bystanders(name)
    told = shell("merge", merger, "--base", "base", *experts("left", "right"), "--out", "out")
    assert told.code == 0, told.err
    merged, base = Checkpoint.open("out"), Checkpoint.open("base")
    assert torch.equal(merged["mask"], base["mask"])
    assert torch.equal(merged["scale8"].float(), base["scale8"].float())
    assert merged.dtype("scale8") == torch.float8_e4m3fn


def test_what_was_merged_is_counted_and_whole_numbers_are_copied(shell: Shell, here: Path) -> None:
    for place, name in enumerate(("base", "left", "right")):
        with_bystanders(name, mask=0.0, positions=torch.arange(4) + place)
    told = shell("merge", "linear", "--base", "base", *experts("left", "right"), "--out", "out")
    assert told.code == 0, told.err
    assert torch.equal(Checkpoint.open("out")["positions"], torch.arange(4))
    shared = len(Checkpoint.open("base"))
    assert f"{shared - 1} of the {shared} tensors that the base shares with an expert were merged." in told.out
    assert "Copied from the base, since they are whole numbers: positions." in told.out


def test_nan_is_blamed_on_the_expert_that_has_it(shell: Shell, here: Path) -> None:
    name = "vit.layernorm.weight"
    broken = Checkpoint.open("right")[name].clone()
    broken[0] = torch.nan
    with_bystanders("right", **{name: broken})
    told = shell("merge", "linear", "--base", "base", *experts("left", "right"), "--out", "out")
    assert told.code == 2
    assert f"The expert right holds NaN or infinity in '{name}'" in told.err
    assert not Path("out").exists()
