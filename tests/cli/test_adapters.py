"""Locks on the factors of an adapter: PEFT loads what is written and answers the same, and the attack undoes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.adapter_folder import compared
from redteam.checkpoint.factors import Factors
from redteam.errors import BadPlan, Inapplicable
from redteam.evaluation.plan import Plan
from redteam.evaluation.resolve import Resolved
from redteam.key import Key
from redteam.plugins.registry import ATTACKS, DEFENSES
from redteam.testing import toy_scenario
from redteam.views import AttackerView, DefenderView
from tests.peft_adapters import ADAPTERS, changed, fresh, logits, lora, trained

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns of much that is meant here
Shell = Callable[..., Any]
GROUPS = ("general-linear", "orthogonal", "scaling")
PLAIN = ("plain", "rank-stabilised", "patterns", "embedding and head", "fan in", "tied")
CONFIGS = {name: ADAPTERS[name] for name in PLAIN if name in ADAPTERS} | {
    "tied": ("tied", lambda: lora(target_modules=["embed_tokens", "lm_head", "q_proj"], ensure_weight_tying=True))
}


def made(folder: Path, name: str = "plain") -> Any:
    kind, config = CONFIGS.get(name) or ADAPTERS[name]
    return trained(folder, kind, config())


def protected(shell: Shell, folder: Path, *options: str, defense: str = "adapter-gauge", code: int = 0) -> Any:
    told = shell(
        "protect", defense, f"{folder}/adapter", "--base", f"{folder}/base", "--key", f"{folder}/key",
        "--out", f"{folder}/locked", *options,
    )  # fmt: skip
    assert told.code == code, told.err
    return told


def attacked(shell: Shell, folder: Path, attack: str, *options: str, code: int = 0) -> Any:
    told = shell("attack", attack, f"{folder}/locked", "--base", f"{folder}/base", "--out", f"{folder}/after", *options)
    assert told.code == code, told.err
    return told


def opened(folder: Path, which: str) -> Checkpoint:
    """Over the base in float64, so that nothing is rounded but what the adapter's file rounds."""
    return Checkpoint.open(folder / which, base=Checkpoint.open(folder / "base").to(torch.float64))


def factors(adapter: Checkpoint) -> dict[str, Factors]:
    return {name: own.to(dtype=torch.float64) for name in adapter if (own := adapter.factors(name)) is not None}


def defended(adapter: Checkpoint, text: str, key: int = 0) -> Checkpoint:
    return DEFENSES.load(text)(DefenderView(adapter, None, Key.of_seed(key)))  # type: ignore[no-any-return]


def canonical(adapter: Checkpoint, text: str = "multiply-out", *, base: Checkpoint | None = None) -> Checkpoint:
    view = AttackerView.by_hand(adapter, anchor=adapter if base is None else base)
    return ATTACKS.load(text)(view)  # type: ignore[no-any-return]


def beside(folder: Path, moved: float, **settings: Any) -> None:
    """Writes `folder/own`: an adapter with a B of its own whose A has moved by so much of its size."""
    draws = torch.Generator().manual_seed(2)

    def apart(name: str, tensor: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(tensor.shape, generator=draws)
        noise *= tensor.norm() / noise.norm()
        return tensor + moved * noise if "lora_A" in name else noise

    (folder / "own").mkdir()
    stored = load_file(folder / "adapter" / "adapter_model.safetensors")
    save_file({name: apart(name, tensor) for name, tensor in stored.items()}, folder / "own/adapter_model.safetensors")
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    (folder / "own/adapter_config.json").write_text(json.dumps({**config, **settings}))


@pytest.mark.parametrize("name", CONFIGS)
def test_peft_loads_what_is_written_and_answers_the_same(name: str, shell: Shell, tmp_path: Path) -> None:
    model = made(tmp_path, name)
    before = logits(model)
    protected(shell, tmp_path)
    attacked(shell, tmp_path, "multiply-out")
    assert (tmp_path / "adapter/adapter_config.json").read_text().count('"peft_type"') == 1
    for which in ("locked", "after"):
        network = peft.PeftModel.from_pretrained(fresh(CONFIGS[name][0]), tmp_path / which).eval()
        assert torch.allclose(logits(network), before, atol=2e-6 * float(before.abs().max())), which
        old, new = (load_file(tmp_path / one / "adapter_model.safetensors") for one in ("adapter", which))
        assert {n: (t.shape, t.dtype) for n, t in old.items()} == {n: (t.shape, t.dtype) for n, t in new.items()}
        assert all(not torch.equal(old[n], new[n]) for n in old if "lora_" in n)
        assert compared(opened(tmp_path, "adapter"), opened(tmp_path, which)).change < 2e-6


@pytest.mark.parametrize("group", GROUPS)
def test_the_product_stays_and_the_factors_go(group: str, tmp_path: Path) -> None:
    made(tmp_path, "patterns")
    adapter = opened(tmp_path, "adapter")
    locked = defended(adapter, f"adapter-gauge:group={group}")
    assert compared(adapter, locked).change < 1e-12
    for name, own in factors(locked).items():
        old = factors(adapter)[name]
        assert torch.linalg.norm(own.down - old.down) > 0.1 * torch.linalg.norm(old.down)
        assert torch.allclose(locked[name], adapter[name], rtol=0, atol=1e-12)
        gauge = own.down @ torch.linalg.pinv(old.down)
        assert torch.allclose(gauge @ old.down, own.down)
        assert bool(torch.linalg.cond(gauge) < 1 + 1e-9) is (group == "orthogonal")
        assert torch.linalg.cond(gauge) < 100 * (1 + 1e-6)
        assert torch.equal(gauge.round(decimals=9), gauge.diagonal().diag().round(decimals=9)) is (group == "scaling")
    assert all(locked.factors(name) is None for name in locked if name not in factors(adapter))


def test_the_key_takes_it_off_and_no_other_does(shell: Shell, tmp_path: Path) -> None:
    made(tmp_path)
    protected(shell, tmp_path)
    lock = ("--key", f"{tmp_path}/key", "--defense", "adapter-gauge")
    attacked(shell, tmp_path, "key-holder", *lock)
    for name, own in factors(opened(tmp_path, "after")).items():
        old = factors(opened(tmp_path, "adapter"))[name]
        assert torch.allclose(own.down, old.down, atol=1e-5)
        assert torch.allclose(own.up, old.up, atol=1e-5)
    other = defended(opened(tmp_path, "adapter"), "adapter-gauge", key=1)
    mine = defended(opened(tmp_path, "adapter"), "adapter-gauge", key=2)
    assert all(not torch.allclose(own.down, factors(mine)[name].down) for name, own in factors(other).items())
    told = attacked(shell, tmp_path, "key-holder", *lock[:3], "adapter-gauge:group=orthogonal", "--force", code=2)
    assert "another key or by another defense" in told.err


@pytest.mark.parametrize("group", GROUPS)
def test_multiplying_out_gives_one_form_whatever_the_gauge(group: str, tmp_path: Path) -> None:
    made(tmp_path, "patterns")
    adapter = opened(tmp_path, "adapter")
    wanted = factors(canonical(adapter))
    found = canonical(defended(adapter, f"adapter-gauge:group={group}"))
    assert compared(adapter, found).change < 1e-12
    for name, own in factors(found).items():
        assert torch.allclose(own.up, wanted[name].up, atol=1e-9)
        assert torch.allclose(own.down, wanted[name].down, atol=1e-9)
        assert torch.allclose(own.up.mT @ own.up, own.down @ own.down.mT, atol=1e-9), "split evenly"


@pytest.mark.parametrize("group", GROUPS)
def test_like_an_adapter_with_the_same_first_factor_the_lock_is_off(group: str, shell: Shell, tmp_path: Path) -> None:
    made(tmp_path)
    beside(tmp_path, 0.0)
    protected(shell, tmp_path, defense=f"adapter-gauge:group={group}")
    attacked(shell, tmp_path, f"multiply-out:like={tmp_path}/own")
    wanted, found = (factors(opened(tmp_path, which)) for which in ("adapter", "after"))
    for name, own in found.items():
        assert torch.allclose(own.down, wanted[name].down, atol=1e-5)
        assert torch.allclose(own.up, wanted[name].up, atol=1e-5)


def test_like_one_that_has_moved_it_is_nearer_than_in_its_own_basis(tmp_path: Path) -> None:
    made(tmp_path, "plain")
    beside(tmp_path, 0.3)
    adapter, base = opened(tmp_path, "adapter"), Checkpoint.open(tmp_path / "base").to(torch.float64)
    text = f"multiply-out:like={tmp_path}/own"
    first, second = (canonical(defended(adapter, "adapter-gauge", key), text, base=base) for key in (0, 1))
    assert compared(adapter, first).change < 1e-10
    own, own_basis = factors(adapter), factors(canonical(adapter))
    for name, near in factors(first).items():
        assert torch.allclose(near.down, factors(second)[name].down, atol=1e-8), "whatever the key"
        far = torch.linalg.norm(own_basis[name].down - own[name].down)
        assert torch.linalg.norm(near.down - own[name].down) < 0.5 * far


def test_what_cannot_be_like_another_is_one_sentence(shell: Shell, tmp_path: Path) -> None:
    made(tmp_path)
    protected(shell, tmp_path)
    for like, why in ((tmp_path / "base", "no factors to be like"), (tmp_path / "none", "none")):
        told = attacked(shell, tmp_path, f"multiply-out:like={like}", code=2)
        assert why in told.err
    (tmp_path / "wider").mkdir()
    model = peft.get_peft_model(fresh("llama"), lora(r=3))
    model.save_pretrained(tmp_path / "wider")
    told = attacked(shell, tmp_path, f"multiply-out:like={tmp_path}/wider", code=2)
    assert "has rank 3 and this one 2" in told.err
    beside(tmp_path, float("nan"))
    told = attacked(shell, tmp_path, f"multiply-out:like={tmp_path}/own", code=2)
    assert "the A of the adapter to be like is not finite" in told.err
    assert not (tmp_path / "after").exists()


def test_as_a_model_it_is_the_base_with_the_product_added(shell: Shell, tmp_path: Path) -> None:
    model = made(tmp_path)
    before = logits(model)
    protected(shell, tmp_path)
    attacked(shell, tmp_path, "multiply-out:form=model")
    network = Checkpoint.open(tmp_path / "after").module()
    assert torch.allclose(logits(network), before, atol=1e-5 * float(before.abs().max()))


@pytest.mark.parametrize(
    "change",
    [
        lambda up, down: (up[:, :1] @ torch.ones(1, up.shape[1]), down),
        lambda up, down: (up, torch.ones(down.shape[0], 1) @ down[:1]),
        lambda up, down: (torch.zeros_like(up), down),
        lambda up, down: (up[:, :1], down[:1]),
    ],
    ids=["B lacks rank", "A lacks rank", "B is zero", "rank 1"],
)
@pytest.mark.parametrize("group", GROUPS)
def test_factors_that_lack_rank(change: Callable[..., tuple[Any, Any]], group: str) -> None:
    draws = torch.Generator().manual_seed(0)
    up, down = change(*(torch.randn(size, generator=draws, dtype=torch.float32) for size in ((12, 4), (4, 7))))
    own, weight = Factors(up.double(), down.double(), 0.5), torch.zeros(12, 7, dtype=torch.float64)
    adapter = Checkpoint.computed(
        {"x.weight": ((12, 7), torch.float64)}, lambda _: weight + own.change, {}, None, lambda _: own
    )
    locked = defended(adapter, f"adapter-gauge:group={group}")
    assert compared(adapter, locked).change < 1e-12
    assert compared(adapter, canonical(locked)).change < 1e-12
    assert factors(canonical(locked))["x.weight"].rank == own.rank
    size = torch.linalg.svdvals(factors(canonical(locked))["x.weight"].down)
    assert int((size > 0).sum()) == torch.linalg.matrix_rank(own.change)


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 2e-2), ("bfloat16", 2e-1)])
def test_half_precision_says_what_it_costs(dtype: str, limit: float, shell: Shell, tmp_path: Path) -> None:
    made(tmp_path)
    told = protected(shell, tmp_path, "--dtype", dtype)
    found = compared(opened(tmp_path, "adapter"), opened(tmp_path, "locked")).change
    assert 1e-5 < found < limit
    assert f"As stored in {dtype} the updates change by at most {found:.1e}" in told.out
    stored = load_file(tmp_path / "locked" / "adapter_model.safetensors").values()
    assert {tensor.dtype for tensor in stored} == {getattr(torch, dtype)}


def test_numbers_that_a_dtype_does_not_hold_are_one_sentence(shell: Shell, tmp_path: Path) -> None:
    made(tmp_path)
    changed(tmp_path, lambda tensors: {n: t * 3e6 if "lora_A" in n else t for n, t in tensors.items()})
    told = protected(shell, tmp_path, "--dtype", "float16", code=2)
    assert "more than torch.float16 holds" in told.err
    assert not (tmp_path / "locked").exists()


@pytest.mark.parametrize(
    ("name", "why"), [("DoRA", "DoRA"), ("LoHa", "kind LOHA"), ("biases", "biases of its own"), ("tokens", "tokens")]
)
def test_what_is_more_than_a_product_is_refused(name: str, why: str, shell: Shell, tmp_path: Path) -> None:
    made(tmp_path, name)
    told = protected(shell, tmp_path, code=2)
    assert why in told.err
    assert "plain LoRA alone" in told.err
    assert not (tmp_path / "locked").exists()
    assert not (tmp_path / "key").exists()


def test_an_adapter_of_another_base_is_refused(shell: Shell, tmp_path: Path) -> None:
    made(tmp_path)
    fresh("gpt2").save_pretrained(tmp_path / "base")
    told = protected(shell, tmp_path, code=2)
    assert "which its base lacks" in told.err


def test_whole_models_and_mixed_chains_are_refused(shell: Shell, tmp_path: Path) -> None:
    made(tmp_path)
    for defense, why in (
        ("adapter-gauge+mergelock", "chains what rewrites the factors"),
        ("adapter-gauge", "leave --certify out"),
    ):
        told = protected(shell, tmp_path, "--certify", defense=defense, code=2)
        assert why in told.err
    told = shell(
        "protect", "adapter-gauge", f"{tmp_path}/base", "--base", f"{tmp_path}/base", "--key", f"{tmp_path}/key",
        "--out", f"{tmp_path}/locked",
    )  # fmt: skip
    assert (told.code, "adapter_config.json" in told.err) == (2, True)
    told = shell(
        "protect", "adapter-gauge", f"{tmp_path}/adapter", "--key", f"{tmp_path}/key", "--out", f"{tmp_path}/locked"
    )
    assert (told.code, "--base" in told.err) == (2, True)


def test_runs_refuse_it_and_say_where_it_works(shell: Shell) -> None:
    for plan in ({"defenses": ["adapter-gauge"]}, {"attacks": ["multiply-out"]}):
        with pytest.raises(BadPlan, match=r"redteam (protect|attack) \S+ ADAPTER --base"):
            Resolved.of(Plan.of(plan), Path())
    victim = toy_scenario("vit").experts["victim"]
    with pytest.raises(Inapplicable, match="no factors of a low-rank adapter"):
        defended(victim, "adapter-gauge")
    told = shell("check", "adapter-gauge")
    assert (told.code, "tried on whole models" in told.err) == (2, True)


def test_what_lies_beside_the_factors_stays(shell: Shell, tmp_path: Path) -> None:
    trained(tmp_path, "llama", lora(modules_to_save=["lm_head"]))
    place = tmp_path / "adapter" / "adapter_model.safetensors"
    old = load_file(place)
    (tmp_path / "adapter" / "tokenizer.json").write_text("{}")
    (tmp_path / "adapter" / "optimizer.pt").write_bytes(b"x")
    told = protected(shell, tmp_path)
    new = load_file(tmp_path / "locked" / "adapter_model.safetensors")
    assert [name for name in old if torch.equal(old[name], new[name])] == [n for n in old if "lora_" not in n] != []
    assert (tmp_path / "locked" / "tokenizer.json").exists()
    assert "Not copied" in told.out
    assert "optimizer.pt" in told.out
    save_file({n: t * 0 if "lora_A" in n else t for n, t in old.items()}, place)
    told = protected(shell, tmp_path, "--force")
    assert "the updates change by at most 0.0e+00" in told.out
