"""Classification by class names: logits are those of the network's own two towers, and change with either."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.zero_shot import PROMPTS, ZERO_SHOT, prompted
from redteam.errors import NotACheckpoint
from tests.test_networks import CLIP as OPEN

TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50,
    "max_position_embeddings": 12, "eos_token_id": 49, "bos_token_id": 48, "pad_token_id": 0, "projection_size": 16,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
CLIP = {
    "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 8, "text_config": TEXT,
    "vision_config": VISION,
}  # fmt: skip
SIGLIP = {
    "architectures": ["SiglipModel"], "model_type": "siglip", "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
OPEN_CLIP = {"model_type": "open_clip", "model_cfg": OPEN}
NETWORKS: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "clip": (CLIP, 6, 50, 8),
    "siglip": (SIGLIP, 12, 50, 8),
    "open_clip": (OPEN_CLIP, OPEN["text_cfg"]["context_length"], OPEN["text_cfg"]["vocab_size"], 16),
}
"""Config, tokens of a prompt, vocabulary, pixels."""


def prompts(network: str) -> torch.Tensor:
    """Three classes under two templates of different lengths, as tokenizers write them."""
    _, length, vocabulary, _ = NETWORKS[network]
    held = torch.zeros(3, 2, length, dtype=torch.int64)
    held[:, :, :3] = torch.randint(1, vocabulary - 2, (3, 2, 3), generator=torch.Generator().manual_seed(0))
    held[:, 0, 3], held[:, 1, 2] = vocabulary - 1, vocabulary - 1
    if network == "clip":
        held[:, 0, 4:], held[:, 1, 3:] = -1, -1
    return held


def pictures(network: str) -> torch.Tensor:
    size = NETWORKS[network][3]
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


def made(network: str) -> Checkpoint:
    held = prompts(network)
    weights = Checkpoint.of({}, prompted(NETWORKS[network][0], ["a", "b", "c"], held.shape)).fresh(0)
    return weights.replace({PROMPTS: held})


def vectors(network: str, weights: Checkpoint, template: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the plain network makes of the pictures, and of the prompts under a template."""
    plain = Checkpoint.of({n: t for n, t in weights.items() if n != PROMPTS}, NETWORKS[network][0]).module()
    held, seen = prompts(network)[:, template], pictures(network)
    if network == "open_clip":
        images, texts = plain.encode_image(seen), plain.encode_text(held)
    else:
        mask = (held >= 0).long()
        images = plain.get_image_features(seen).pooler_output
        texts = plain.get_text_features(held * mask, attention_mask=mask).pooler_output
    return torch.nn.functional.normalize(images, dim=-1), torch.nn.functional.normalize(texts, dim=-1)


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_are_scaled_cosines_with_the_mean_prompt_of_a_class(network: str) -> None:
    weights = made(network)
    (images, one), (_, two) = (vectors(network, weights, template) for template in (0, 1))
    mean = torch.nn.functional.normalize(one + two, dim=-1)
    expected = weights["logit_scale"].exp() * images @ mean.T + (weights["logit_bias"] if network == "siglip" else 0)
    torch.testing.assert_close(weights.module()(pixel_values=pictures(network)).logits, expected)
    assert expected.std(0).min() > 0


@pytest.mark.parametrize("network", NETWORKS)
def test_the_text_tower_is_part_of_the_classifier(network: str) -> None:
    weights = made(network)
    name = max(n for n in weights if ("text" in n or n.startswith("transformer")) and "fc" in n and "weight" in n)
    other = weights.replace({name: weights[name] + torch.randn_like(weights[name])})
    seen = pictures(network)
    assert not torch.allclose(other.module()(pixel_values=seen).logits, weights.module()(pixel_values=seen).logits)
    module = weights.module()
    module(pixel_values=seen).logits[0, 0].backward()
    assert sum(p.grad is not None and bool(p.grad.any()) for p in module.parameters()) > len(weights) / 2


@pytest.mark.parametrize("network", NETWORKS)
def test_prompts_stay_whatever_happens_to_the_weights(network: str) -> None:
    weights = made(network)
    for other in (weights.fresh(5), weights.trained(weights.module()), weights.to(torch.bfloat16)):
        assert torch.equal(other[PROMPTS], prompts(network))
        assert other.outline().keys() == weights.outline().keys()
    name = max(n for n in weights if "fc" in n and "weight" in n)
    assert not torch.equal(weights.fresh(5)[name], weights[name])
    double = weights.module(torch.float64)(pixel_values=pictures(network).double()).logits
    torch.testing.assert_close(double.float(), weights.module()(pixel_values=pictures(network)).logits)


def test_with_texts_it_is_the_network_that_it_was() -> None:
    weights = made("clip")
    plain = Checkpoint.of({n: t for n, t in weights.items() if n != PROMPTS}, CLIP).module()
    held = prompts("clip")[:, 1, :3]
    given = {"input_ids": held, "pixel_values": pictures("clip")}
    assert torch.equal(weights.module()(**given).logits_per_image, plain(**given).logits_per_image)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({**CLIP, ZERO_SHOT: [3, 2]}, r"redteam_zero_shot = \[3, 2\]; expected \[classes, templates, tokens\]"),
        ({**OPEN_CLIP, ZERO_SHOT: "many"}, "redteam_zero_shot = 'many'; expected"),
        (
            {**TEXT, "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", ZERO_SHOT: [1, 1, 1]},
            "names a CLIPTextModel; expected a network with an image and a text tower",
        ),
    ],
)
def test_a_config_that_asks_for_no_such_network_is_refused(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(NotACheckpoint, match=sentence):
        Checkpoint.of({}, config).fresh(0)
