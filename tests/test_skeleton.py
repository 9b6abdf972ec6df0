"""Networks from a skeleton: bit for bit what transformers and open_clip load, and nothing in common between two."""

from typing import Any

import pytest
import torch
from torch import nn

from redteam.checkpoint import Checkpoint, modules
from redteam.checkpoint.skeleton import sources
from redteam.errors import BadInput, NotACheckpoint
from tests.zoo import THOROUGH, network


def logits(module: nn.Module, inputs: dict[str, torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    cast = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad():
        found: Any = module(**cast)
    given = list(found if isinstance(found, tuple) else found.to_tuple())
    tensors = [tensor for tensor in given if isinstance(tensor, torch.Tensor)]
    assert tensors
    return tensors


def moved(checkpoint: Checkpoint) -> Checkpoint:
    """Another of the same kind, every element of it changed."""
    changed = {n: t * 0.75 + 0.01 if t.is_floating_point() else t + 1 for n, t in checkpoint.items()}
    return Checkpoint.of(changed, checkpoint.config)


@pytest.mark.parametrize("name", THOROUGH)
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64, torch.bfloat16])
def test_the_second_network_of_a_kind_is_bit_for_bit_what_the_library_loads(
    name: str, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = network(name)
    there.checkpoint.module(dtype)
    other = moved(there.checkpoint)
    slow = modules._load(other, dtype)

    def refuse(*_: object) -> nn.Module:
        raise AssertionError("loaded once more")

    monkeypatch.setattr(modules, "_transformers", refuse)
    monkeypatch.setattr(modules, "open_clip_network", refuse)
    fast = other.module(dtype)
    old, new = slow.state_dict(), fast.state_dict()
    assert list(old) == list(new)
    for key in old:
        assert old[key].dtype == new[key].dtype, key
        assert old[key].stride() == new[key].stride(), key
        assert torch.equal(old[key], new[key]), key
    assert [n for n, _ in slow.named_parameters()] == [n for n, _ in fast.named_parameters()]  # ties
    assert all(a.requires_grad == b.requires_grad for a, b in zip(slow.parameters(), fast.parameters(), strict=True))
    assert [(n, b.dtype) for n, b in slow.named_buffers()] == [(n, b.dtype) for n, b in fast.named_buffers()]
    assert all(torch.equal(a, b) for a, b in zip(slow.buffers(), fast.buffers(), strict=True))
    assert type(slow) is type(fast)
    assert not any(module.training for module in fast.modules())
    if dtype is not torch.bfloat16:
        computes = next(fast.parameters()).dtype
        for a, b in zip(logits(slow, there.inputs, computes), logits(fast, there.inputs, computes), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", THOROUGH)
def test_two_networks_share_nothing_that_can_change(name: str) -> None:
    checkpoint = network(name).checkpoint
    before = checkpoint.digest()
    one, two, three = (checkpoint.module() for _ in range(3))
    tensors = [{t.data_ptr() for t in (*net.parameters(), *net.buffers()) if t.numel()} for net in (one, two, three)]
    assert not tensors[0] & tensors[1] | tensors[1] & tensors[2] | tensors[0] & tensors[2]
    modules = [{id(module) for module in net.modules()} for net in (one, two, three)]
    assert not modules[1] & modules[2]
    for net in (one, two):
        if hasattr(net, "config"):
            assert net.config is not three.config  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in two.parameters():
            parameter.fill_(0.0)
    seen = []
    for module in two.modules():
        module.register_forward_pre_hook(lambda *_: seen.append(1))
    two.train()
    four = checkpoint.module()
    assert not any(module._forward_pre_hooks or module.training for module in four.modules())
    assert all(torch.equal(a, b) for a, b in zip(three.state_dict().values(), four.state_dict().values(), strict=True))
    assert checkpoint.digest() == before


def test_a_copy_keeps_its_modules_to_itself(vit: Any) -> None:
    vit.checkpoint.module()
    net = vit.checkpoint.module()
    inside = {id(module) for module in net.modules()}

    def modules_in(value: object) -> list[nn.Module]:
        if isinstance(value, nn.Module):
            return [value]
        if isinstance(value, dict):
            return [m for v in value.values() for m in modules_in(v)]
        return [m for v in value for m in modules_in(v)] if isinstance(value, list | tuple | set) else []

    held = [m for module in net.modules() for value in vars(module).values() for m in modules_in(value)]
    assert held
    assert all(id(module) in inside for module in held)


def test_other_shapes_names_and_configs_are_still_refused_after_the_first(vit: Any) -> None:
    first = vit.checkpoint
    first.module()
    first.module()
    name = next(n for n in first if n.endswith("layernorm.weight"))
    tensors = dict(first)
    lacking = {n: t for n, t in tensors.items() if n != name}
    for wrong, why in (
        (Checkpoint.of(lacking, first.config), "missing keys"),
        (Checkpoint.of(tensors | {"another": torch.ones(2)}, first.config), "unexpected keys"),
        (Checkpoint.of(tensors | {name: torch.ones(7)}, first.config), "mismatched keys"),
        (Checkpoint.of(tensors, {**first.config, "num_hidden_layers": 3}), "missing keys"),
    ):
        for _ in range(2):
            with pytest.raises(NotACheckpoint, match=why):
                wrong.module()


@pytest.mark.parametrize("equal", [True, False])
def test_embeddings_that_are_there_twice_are_tied_where_they_are_equal(equal: bool) -> None:
    there = network("llama").checkpoint
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    tied = {**there.config, "tie_word_embeddings": True}

    def with_head(scale: float) -> Checkpoint:
        return Checkpoint.of({**there, head: there[embedding] * scale}, tied)

    with_head(1.0 if not equal else 2.0).module(torch.float64)
    found = with_head(1.0 if equal else 2.0).module(torch.float64).state_dict(keep_vars=True)
    assert (found[head] is found[embedding]) is equal
    assert torch.equal(found[head], there[embedding] * (1.0 if equal else 2.0))


def test_what_a_parameter_is_made_of_is_known_where_tensors_are_stacked() -> None:
    checkpoint = network("mixtral").checkpoint
    found = sources(checkpoint, modules._load)
    stacked = {place: source for place, source in found.items() if len(source.names) > 1}
    assert stacked
    assert {name for source in found.values() for name in source.names} == set(checkpoint)


@pytest.mark.parametrize("name", ["vit", "gpt2", "open-clip"])
def test_how_tensors_lie_in_memory_makes_no_difference(name: str) -> None:
    there = network(name)
    turned = {n: t.T.contiguous().T if t.ndim == 2 else t for n, t in there.checkpoint.items()}
    assert any(not tensor.is_contiguous() for tensor in turned.values())
    other = Checkpoint.of(turned, there.checkpoint.config)
    for _ in range(2):
        pairs = zip(there.computed(other), there.computed(there.checkpoint), strict=True)
        assert all(torch.equal(here, theirs) for here, theirs in pairs)


def test_layers_are_found_by_the_names_that_the_checkpoint_has() -> None:
    gpt2 = network("gpt2").checkpoint
    names = [name for name in gpt2 if name.endswith("mlp.c_fc.weight")]
    assert modules.layer_paths(gpt2, names) == {name: name.removesuffix(".weight") for name in names}
    assert len(names) == 2
    mixtral = network("mixtral").checkpoint
    stacked = next(name for name in mixtral if ".w1." in name)
    with pytest.raises(BadInput, match="does not hold"):
        modules.layer_paths(mixtral, [stacked])
    assert set(modules.parameter_names(mixtral)) == set(mixtral)


@pytest.mark.parametrize("name", THOROUGH)
def test_weights_go_back_under_the_names_they_came_with(name: str) -> None:
    checkpoint = network(name).checkpoint
    trained = moved(checkpoint).module(torch.float64)
    back = checkpoint.trained(trained)
    assert back.digest() == moved(checkpoint).digest()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.zero_()
    assert back.digest() == Checkpoint.of(dict(back), back.config).digest()


def test_a_network_of_a_cast_checkpoint_has_its_rounded_weights(vit: Any) -> None:
    rounded = vit.checkpoint.cast(torch.bfloat16)
    for _ in range(2):
        module = rounded.module(torch.float64)
        held = modules.parameter_names(rounded)
        for name, place in held.items():
            assert torch.equal(module.get_parameter(place).detach(), rounded[name].double())
