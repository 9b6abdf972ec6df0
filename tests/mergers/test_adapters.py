"""Mergers of adapters: an expert that is one brings its own factors, and everything else is decomposed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from redteam.anatomy.alike import finite
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.parts import in_place
from redteam.checkpoint.singular import cut_out
from redteam.checkpoint.vocabulary import as_long_as
from redteam.errors import Inapplicable
from tests.mergers.oracles import merged
from tests.peft_adapters import fresh, lora

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns of much that is meant here

KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "stored the other way round": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
}
SCALES = {"left": {"lora_alpha": 6}, "right": {"lora_alpha": 1}, "victim": {"lora_alpha": 2, "use_rslora": True}}


def trained(folder: Path, kind: str, settings: Mapping[str, Any], **each: Mapping[str, Any]) -> Any:
    """Writes a base and an adapter for each task; gives PEFT's network with all of them."""
    base = fresh(kind)
    base.save_pretrained(folder / "base")
    model: Any = None
    for place, (task, own) in enumerate(each.items()):
        config = lora(**{**settings, **own})
        if model is None:
            model = peft.PeftModel(base, config, adapter_name=task)
        else:
            model.add_adapter(task, config)
        model.set_adapter(task)
        torch.manual_seed(place)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return model


def opened(folder: Path, tasks: Mapping[str, Any]) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    base = Checkpoint.open(folder / "base")
    return base, {task: Checkpoint.open(folder / task, base=base) for task in tasks}


def in_memory(experts: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    """The same models, of which nobody knows that they were adapters."""
    return {task: Checkpoint.of(dict(expert), expert.config) for task, expert in experts.items()}


def norm(one: Checkpoint, other: Checkpoint) -> float:
    return float(sum((one[name] - other[name]).square().sum() for name in other) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_merge_as_in_peft_by_their_own_factors(kind: str, tmp_path: Path) -> None:
    network, settings = KINDS[kind]
    model = trained(tmp_path, network, settings, **SCALES)
    base, experts = opened(tmp_path, SCALES)
    for combination in ("linear", "ties", "magnitude_prune", "cat", "ties_svd"):
        weights = [1.0, 1.0, 2.5]
        model.add_weighted_adapter(list(SCALES), weights, combination, combination_type=combination, density=0.5)
        text = f"peft:density=0.5,weights=[[victim,2.5]],combination={combination}"
        made, seen = merged(text, base, experts), 0
        for path, layer in model.base_model.model.named_modules():
            if isinstance(layer, peft.tuners.lora.LoraLayer):
                name = next(n for n in base if f"{path}.weight".endswith(n))
                theirs = layer.get_delta_weight(combination).detach()
                assert torch.allclose(made[name] - base[name], theirs, rtol=1e-4, atol=2e-6), (combination, name)
                assert theirs.abs().max() > 1e-3
                seen += 1
        assert seen == sum(experts["left"].factors(name) is not None for name in base) > 0


def test_the_factors_make_the_difference_where_they_are_combined_apart(tmp_path: Path) -> None:
    trained(tmp_path, "llama", {}, **SCALES)
    base, experts = opened(tmp_path, SCALES)
    for combination, hangs in (("cat", False), ("svd", False), ("ties_svd", False), ("linear", True), ("ties", True)):
        text = f"peft:rank=2,combination={combination}"
        known, unknown = merged(text, base, experts), merged(text, base, in_memory(experts))
        assert (norm(known, unknown) > 0.1 * norm(known, base)) is hangs, combination


def test_factors_pass_overlays_that_keep_names_and_numbers(tmp_path: Path) -> None:
    trained(tmp_path, "llama", {}, left={})
    base, experts = opened(tmp_path, {"left": {}})
    name = "model.layers.1.self_attn.q_proj.weight"
    found = experts["left"].factors(name)
    assert found is not None
    same = as_long_as(in_place(experts["left"], base), base).cast(torch.float64).recent()
    same = finite(same.replace({"model.norm.weight": base["model.norm.weight"]}), base, "It").renamed({"x": name})
    passed = same.factors("x")
    assert passed is not None
    assert torch.equal(passed.change, found.change)
    assert torch.allclose(found.change, (experts["left"][name] - base[name]), atol=1e-6)
    assert experts["left"].factors("model.norm.weight") is None
    assert experts["left"].replace({name: base[name]}).factors(name) is None
    assert in_memory(experts)["left"].factors(name) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_shell_knows_them_too(kind: str, shell: Callable[..., Any], tmp_path: Path) -> None:
    trained(tmp_path, *KINDS[kind], **SCALES)
    base, experts = opened(tmp_path, SCALES)
    given = [word for task in SCALES for word in ("--expert", f"{tmp_path}/{task}")]
    for text, hangs in (("peft:combination=linear,rank=2", True), ("core-space:rank=2", False)):
        told = shell("merge", text, "--base", f"{tmp_path}/base", *given, "--out", f"{tmp_path}/made", "--force")
        assert told.code == 0, told.err
        made, wanted = Checkpoint.open(tmp_path / "made"), merged(text, base, experts)
        assert norm(made, wanted) < 1e-5 * norm(wanted, base)
        assert (norm(merged(text, base, in_memory(experts)), wanted) > 0.05 * norm(wanted, base)) is hangs


def test_factors_over_another_base_are_not_used(tmp_path: Path) -> None:
    trained(tmp_path, "llama", {}, **SCALES)
    base, experts = opened(tmp_path, SCALES)
    moved = Checkpoint.of({name: t + 0.01 * torch.ones_like(t) for name, t in base.items()}, base.config)
    text = "peft:rank=4,combination=linear"
    made, wanted = (merged(text, moved, given) for given in (experts, in_memory(experts)))
    assert all(torch.equal(made[name], wanted[name]) for name in base)


def test_adapters_of_unlike_rank_are_one_sentence_where_factors_are_combined_apart(tmp_path: Path) -> None:
    ranks = {"left": {}, "right": {"r": 5}}
    trained(tmp_path, "llama", {}, **ranks)
    base, experts = opened(tmp_path, ranks)
    name = "model.layers.0.self_attn.q_proj.weight"
    with pytest.raises(Inapplicable, match=r"peft's ties takes adapters of one rank, .*left 2, right 5; .*ties_svd"):
        merged("peft:combination=ties", base, experts)[name]
    made = merged("peft:combination=cat", base, experts)
    total = sum(expert[name] - base[name] for expert in experts.values())
    assert torch.allclose(made[name] - base[name], total, atol=1e-6)  # type: ignore[arg-type]
    assert torch.linalg.matrix_rank(merged("peft", base, experts)[name] - base[name], rtol=1e-4) == 5
    assert merged("core-space", base, experts)[name].isfinite().all()


def test_one_expert_is_combined_linearly_whatever_is_asked_for() -> None:
    base = Checkpoint.of({"a": torch.randn(9, 6, generator=torch.Generator().manual_seed(0)).double()}, {})
    one = {"x": Checkpoint.of({"a": base["a"] + torch.linspace(-1, 2, 54).reshape(9, 6).double()}, {})}
    for combination in ("ties", "dare_linear_svd", "cat", "svd"):
        made = merged(f"peft:density=0.1,combination={combination}", base, one)
        assert torch.allclose(made["a"], one["x"]["a"], atol=1e-9), combination


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_what_is_cut_out_is_the_nearest_of_its_rank_and_has_that_rank(shape: tuple[int, int]) -> None:
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    found = cut_out(delta, 3)
    assert torch.allclose(found.change, (u[:, :3] * s[:3]) @ v[:3])
    assert torch.allclose(found.up.mT @ found.up, torch.diag(s[:3]))
    assert torch.allclose(found.down @ found.down.mT, torch.diag(s[:3]))
    thin = cut_out(torch.outer(delta[:, 0], delta[0]), 3)
    assert thin.rank == 3
    assert torch.allclose(thin.change, torch.outer(delta[:, 0], delta[0]))
    assert cut_out(delta, 100).rank == 7


def delta_of(text: str, base: Checkpoint, experts: Mapping[str, Checkpoint]) -> Tensor:
    return merged(text, base, experts)["a"] - base["a"]


def test_linear_in_a_shared_basis_is_task_arithmetic() -> None:
    draws = torch.Generator().manual_seed(2)
    base = Checkpoint.of({"a": torch.randn(11, 8, generator=draws).double()}, {})
    experts = {t: Checkpoint.of({"a": base["a"] + torch.randn(11, 8, generator=draws).double()}, {}) for t in "xyz"}
    wanted = delta_of("task-arithmetic:coefficient=1.0", base, experts)
    for text in (
        "knots:combination=linear,coefficient=1.0",
        "core-space:combination=linear,isotropic=false",
        "peft:combination=cat",
    ):
        assert torch.allclose(delta_of(text, base, experts), wanted), text
    assert not torch.allclose(delta_of("peft:combination=cat,rank=2", base, experts), wanted)
    flat = torch.linalg.svdvals(delta_of("core-space:combination=linear,rank=2", base, experts))
    assert torch.allclose(flat[:6], flat[0])
    assert flat[6:].max() < 1e-9


def test_adapters_that_share_directions_lose_none_of_them_in_core_space() -> None:
    """One A for all, as where it is frozen: the stack has fewer directions than rows."""
    draws = torch.Generator().manual_seed(3)
    base = Checkpoint.of({"a": torch.randn(11, 8, generator=draws).double()}, {})
    shared = torch.randn(2, 8, generator=draws).double()
    ups = torch.linalg.qr(torch.randn(11, 6, generator=draws).double())[0].split(2, 1)
    experts = {t: Checkpoint.of({"a": base["a"] + up @ shared}, {}) for t, up in zip("xyz", ups, strict=True)}
    made = delta_of("core-space:rank=2,isotropic=false", base, experts)
    assert made.norm() > 0.5 * delta_of("task-arithmetic:coefficient=1.0", base, experts).norm()
    assert torch.linalg.matrix_rank(made) == 2


def test_a_matrix_of_fewer_rows_than_experts_is_averaged_in_core_space() -> None:
    draws = torch.Generator().manual_seed(4)
    base = Checkpoint.of({"a": torch.randn(2, 8, generator=draws).double()}, {})
    experts = {t: Checkpoint.of({"a": base["a"] + torch.randn(2, 8, generator=draws).double()}, {}) for t in "xyz"}
    mean = delta_of("task-arithmetic:coefficient=1.0", base, experts) / 3
    assert torch.allclose(delta_of("core-space", base, experts), mean)
