"""Bare networks with a linear head on pooled states: padding counts for nothing; else they are like any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.known import NETWORK
from redteam.checkpoint.pooling import HEAD, POOLINGS, headed
from redteam.key import Key
from redteam.plugins.registry import DEFENSES
from redteam.symmetry import Lock
from redteam.symmetry.groups import largest_legal_group
from redteam.views import DefenderView

BERT: dict[str, Any] = {
    "architectures": ["BertModel"], "model_type": "bert", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 24, "hidden_act": "gelu",
    "initializer_range": 0.3,
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaModel"], "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.3,
}  # fmt: skip
VIT = {
    "architectures": ["Dinov2Model"], "model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "image_size": 8, "patch_size": 4,
}  # fmt: skip
CONV = {
    "architectures": ["ConvNextModel"], "model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1],
    "num_stages": 2, "image_size": 16,
}  # fmt: skip
PLAIN_VIT = {**VIT, "architectures": ["ViTModel"], "model_type": "vit"}
NETWORKS = {"vit": PLAIN_VIT, "bert": BERT, "llama": LLAMA, "dinov2": VIT, "convnext": CONV}


def inputs(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if "vocab_size" not in config:
        return {"pixel_values": torch.randn(3, 3, config["image_size"], config["image_size"], generator=generator)}
    mask = (torch.arange(9)[None] < torch.tensor([9, 4, 6])[:, None]).long()
    return {"input_ids": torch.randint(1, 50, (3, 9), generator=generator) * mask, "attention_mask": mask}


def states(weights: Checkpoint, given: dict[str, torch.Tensor]) -> torch.Tensor:
    bare = {name: tensor for name, tensor in weights.items() if name not in HEAD}
    config = {key: value for key, value in weights.config.items() if key != "redteam_pooling"}
    with torch.inference_mode():
        return Checkpoint.of(bare, config).module()(**given).last_hidden_state  # type: ignore[no-any-return]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_head_sees_the_pooled_states_of_the_bare_network(network: str, pooling: str) -> None:
    config, given = NETWORKS[network], inputs(NETWORKS[network])
    weights = Checkpoint.of({}, headed(config, ["a", "b", "c"], pooling)).fresh(0)
    found = weights.module()(**given).logits
    expected = []
    for row, state in enumerate(states(weights, given)):
        kept = state if state.ndim == 2 else state.flatten(1).T
        if "attention_mask" in given:
            kept = kept[: int(given["attention_mask"][row].sum())]
        pooled = {"mean": kept.mean(0), "cls": kept[0], "last": kept[-1]}[pooling]
        expected.append(pooled @ weights["classifier.weight"].T + weights["classifier.bias"])
    torch.testing.assert_close(found, torch.stack(expected))
    headless = Checkpoint.of(
        {name: tensor for name, tensor in weights.items() if name not in HEAD}, headed(config, [], pooling)
    )
    vectors = headless.module()(**given).logits
    torch.testing.assert_close(vectors @ weights["classifier.weight"].T + weights["classifier.bias"], found)


@pytest.mark.parametrize("network", NETWORKS)
def test_it_is_drawn_trained_and_reduced_as_its_library_does(network: str) -> None:
    config = headed(NETWORKS[network], ["a", "b"], "mean")
    weights = Checkpoint.of({}, config).fresh(0)
    assert set(HEAD) < set(weights)
    assert weights.fresh(1).outline() == weights.outline()
    assert not torch.equal(weights.fresh(1)[HEAD[0]], weights[HEAD[0]])
    module = weights.module()
    module(**inputs(NETWORKS[network])).logits.sum().backward()
    with torch.no_grad():
        module.classifier.weight.add_(1.0)
    trained = weights.trained(module)
    torch.testing.assert_close(trained[HEAD[0]], weights[HEAD[0]] + 1)
    assert all(torch.equal(trained[name], weights[name]) for name in weights if name != HEAD[0])


def test_a_defense_with_a_network_of_its_own_keeps_the_pooling() -> None:
    weights = Checkpoint.of({}, headed(BERT, ["a", "b", "c"], "mean")).fresh(0)
    base = Checkpoint.of({name: tensor for name, tensor in weights.items() if name not in HEAD}, BERT)
    locked = DEFENSES.load("mergebarrier")(DefenderView(weights, base, Key.of_seed(0)))
    assert locked.config[NETWORK] == "expanded-mlp"
    assert locked.config["redteam_pooling"] == "mean"
    with torch.inference_mode():
        found, expected = (each.module()(**inputs(BERT)).logits for each in (locked, weights))
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 0.2 * float(expected.abs().max())


KINDS = ("qk", "vo", "heads", "mlp", "residual", "norm", "norm-scale")


@pytest.mark.parametrize("labels", [("a", "b", "c"), ()])
@pytest.mark.parametrize("network", ["bert", "llama", "vit"])
def test_a_lock_goes_on_with_the_head_that_reads_the_states(network: str, labels: tuple[str, ...]) -> None:
    config, given = NETWORKS[network], inputs(NETWORKS[network])
    weights = Checkpoint.of({}, headed(config, labels, "mean")).fresh(0).to(torch.float64)
    weights = weights.replace({n: t + 0.1 * torch.randn_like(t) for n, t in weights.items() if t.ndim == 1})
    double = {name: held.double() if held.is_floating_point() else held for name, held in given.items()}
    before = weights.module()(**double).logits.detach()
    sites = anatomy_of(weights).sites(KINDS)
    kinds = {site.kind for site in sites} & set(KINDS)
    assert {"qk", "vo", "mlp"} <= kinds
    assert ("residual" in kinds) == bool(labels)
    for kind in sorted(kinds):
        for site in (site for site in sites if site.kind == kind):
            gauge = largest_legal_group(site).sample(site.heads, site.width, np.random.default_rng(0))
            group = largest_legal_group(site).name
            lock = Lock((site,), lambda _, gauge=gauge: gauge, {site.label: group}, group)
            after = lock.put_on(weights).module()(**double).logits.detach()
            change = float((after - before).abs().max() / before.abs().max())
            assert change < (1e-3 if kind == "norm-scale" else 1e-5), (
                site.label
            )  # norms have an eps, and count in float32
