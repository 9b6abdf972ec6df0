"""Whatever is registered computes where its inputs are, on a pretended GPU that refuses what a real one does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from redteam.audit import audit as look
from redteam.checkpoint import Checkpoint, in_memory
from redteam.errors import Inapplicable
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS
from redteam.tasks import Scenario
from redteam.testing.attacks import _locked as locked
from redteam.testing.toys import toy_scenario
from redteam.testing.views import KEY, Stand, attacker_view, defender_view, merger_view
from tests.pretended import Away, pretended_gpu

OF_ADAPTERS = {"adapter-gauge", "multiply-out"}
ON_A_LLAMA = {"aloepri", "vocabulary", "wide-stream", "plane-assignment", "planar", "vocabulary-match"}
"""Made for rotary embeddings, RMSNorms or vocabularies."""
PAIRS = {"arcee-fusion", "nearswap"}
"""Mergers of one expert into the base."""
BRIEF = {
    **dict.fromkeys(("adamerging", "distill-own", "distillation", "fine-tune", "imitation"), "steps=2"),
    **dict.fromkeys(("mergetune", "neulig", "path-fit", "pseudo-rehearsal", "train-anew"), "steps=2"),
}
LONG = {
    "arf",
    "average-releases",
    "balance",
    "coefficient-search",
    "collusion",
    "companion-anchor",
    "fisher",
    "gauge-fit",
    "head-matching",
    "invariant-space",
    "learned-linear",
    "learned-rotation",
    "mergeguard",
    "optimal-transport",
    "path-fit",
    "pseudo-rehearsal",
    "rebasin",
    "regmean-regression",
    "seed-regeneration",
    "trap2",
    "unseal",
}  # half a second and more: a pretended GPU takes ten times a CPU's time
CLOSE = 1e-4
"""‖Δ‖ ÷ ‖W‖ by tensor. Fits are the CPU's to the last bit; networks are computed by other kernels, in float32, and
whatever is trained makes more of that."""
PLUGINS = [
    pytest.param(registry, name, marks=[pytest.mark.slow] if name in LONG else [])
    for registry in (ATTACKS, DEFENSES, MERGERS)
    for name in registry
    if name not in OF_ADAPTERS and name != "mergekit"
]


@pytest.mark.parametrize(("registry", "name"), PLUGINS)
def test_plugins_follow_their_inputs(registry: Any, name: str) -> None:
    plugin = registry.load(f"{name}:{BRIEF[name]}" if name in BRIEF else name)
    kind = "llama" if name in ON_A_LLAMA else "vit"
    call = {"attack": attacked, "defense": defended, "merger": merged}[registry.kind]
    here = dict(call(plugin, kind, lambda checkpoint: checkpoint).items())
    with pretended_gpu() as gpu:
        found = call(plugin, kind, there)
        back = {name: tensor.cpu() for name, tensor in found.items()}
        assert gpu.ran > 100, "nothing was computed on it"
    assert set(back) == set(here)
    far = {n: float((back[n].double() - x.double()).norm() / x.double().norm()) for n, x in here.items() if x.any()}
    assert {n: size for n, size in far.items() if not size <= CLOSE} == {}


@pytest.mark.parametrize("name", ["gauge-fit", "procrustes", "head-matching"])
@pytest.mark.parametrize("kind", [pytest.param("llama", marks=pytest.mark.slow)])
def test_fits_are_the_same_to_the_last_bit(name: str, kind: str) -> None:
    plugin = ATTACKS.load(name)
    here = attacked(plugin, kind, lambda checkpoint: checkpoint)
    with pretended_gpu():
        found = attacked(plugin, kind, there)
        assert all(isinstance(tensor, Away) for tensor in found.values())
        assert all(torch.equal(tensor.cpu(), here[n]) for n, tensor in found.items())


def there(checkpoint: Checkpoint) -> Checkpoint:
    return in_memory(checkpoint.cast(device="cuda"))  # type: ignore[no-any-return]


def attacked(plugin: Any, kind: str, placed: Any) -> Checkpoint:
    stand = locked(kind)
    protected = placed(stand.protected())
    view, _ = attacker_view(Stand(moved(stand.scenario, placed), stand.locks), protected, plugin.spec.needs)
    return in_memory(plugin(view))  # type: ignore[no-any-return]


def defended(plugin: Any, kind: str, placed: Any) -> Checkpoint:
    view, _ = defender_view(moved(toy_scenario(kind), placed), KEY)
    return in_memory(plugin(view))  # type: ignore[no-any-return]


def merged(plugin: Any, kind: str, placed: Any) -> Checkpoint:
    scenario = moved(toy_scenario(kind), placed)
    for order in (("victim", "left", "right"), ("victim", "left"), ("left",)):
        view, _ = merger_view(scenario, order, spec=plugin.spec, change=lambda _, expert: expert)
        try:
            made = plugin.function(view, **plugin.settings)
            return in_memory(made.of("left") if plugin.spec.whole else made)  # type: ignore[no-any-return]
        except Inapplicable:
            continue
    raise AssertionError("it takes no number of experts")


def moved(scenario: Scenario, placed: Any) -> Scenario:
    experts = {name: placed(expert) for name, expert in scenario.experts.items()}
    return replace(scenario, base=placed(scenario.base), experts=experts)


class TestThePretendedGpu:
    """It can fail: what a GPU refuses, it refuses."""

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda x: x + torch.eye(3),
            lambda x: x @ torch.eye(3),
            lambda x: torch.where(torch.eye(3).bool(), x, x),
            lambda x: x.mul_(torch.ones(3)),
            lambda x: torch.stack([x, torch.eye(3)]),
            lambda x: x.long() @ x.long(),
            lambda x: torch.nn.functional.linear(x, torch.eye(3)),
            lambda x: x[torch.arange(2), :].index_put_((torch.arange(2),), torch.ones(2, 3)),
        ],
    )
    def test_devices_do_not_mix(self, wrong: Any) -> None:
        with pretended_gpu(), pytest.raises(RuntimeError, match=r"same device|not implemented"):
            wrong(torch.eye(3).to("cuda"))

    def test_numpy_has_to_be_told(self) -> None:
        with pretended_gpu(), pytest.raises(TypeError, match=r"Use Tensor.cpu\(\) first"):
            torch.eye(3, device="cuda").numpy()

    def test_what_a_gpu_allows(self) -> None:
        with pretended_gpu():
            x = torch.eye(3, device="cuda")
            assert x[torch.tensor([0, 2])].device == x.device
            assert float((x * torch.tensor(2.0)).sum()) == 6
            assert torch.tensor([1.0], device=x.device).device == x.device != torch.device("cpu")
            w = torch.ones(3, 3, device="cuda", requires_grad=True)
            (w @ x).square().sum().backward()
            assert torch.equal(w.grad.cpu(), 2 * torch.ones(3, 3))  # type: ignore[union-attr]


def test_an_audit_finds_the_same() -> None:
    stand = locked("vit")
    protected, base = stand.protected(), stand.scenario.base
    here = look(protected, base)
    with pretended_gpu() as gpu:
        found = look(protected, base, device="cuda")
        assert gpu.ran > 1000, "it was computed there"
    assert found == here
    assert any(site.state == "locked" for site in found.sites)
