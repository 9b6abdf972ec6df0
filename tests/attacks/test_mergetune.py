"""MERGETUNE against its release's loss written out, and what it does to a lock."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from redteam_attacks.mergetune import apart, points_of, pulled
from torch import Tensor, nn
from torch.func import functional_call

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.symmetry import Orthogonal, sample_gauges
from redteam.tasks import Scenario
from redteam.testing import toy_scenario
from redteam.threat import threat_model
from redteam.views import AttackerView

KEY = Key.derive(seed=0, index=0, name="mergetune")


def attacked(text: str, scenario: Scenario, protected: Checkpoint, threat: str = "data-rich") -> Checkpoint:
    attack = ATTACKS.load(text)
    view = AttackerView(
        protected,
        threat_model(threat),
        KEY,
        needs=attack.spec.needs,
        _anchor=scenario.base,
        _task=scenario.tasks["victim"],
        _owner=KEY.child("owner"),
    )
    returned: Checkpoint = attack(view)
    return Checkpoint.of(dict(returned.items()), returned.config)


def released(
    text: Tensor,
    tuned: Tensor,
    zero_shot: Tensor,
    image: Tensor,
    label: Tensor,
    *,
    trainer: str,
    samples: int,
    **how: Any,
) -> Tensor:
    """`forward_backward` of the release's two trainers, from the features on; `text` is what is learned."""

    def logits(features: Tensor) -> Tensor:
        image_features = image / image.norm(dim=-1, keepdim=True)
        text_features = features / features.norm(dim=-1, keepdim=True)
        return 100.0 * image_features @ text_features.t()

    loss_main = F.cross_entropy(logits(text), label)
    start, end = text, zero_shot
    if trainer == "kgcoop_coop_LMC":
        old = zero_shot / zero_shot.norm(dim=-1, keepdim=True)
        here = text / text.norm(dim=-1, keepdim=True)
        if how["loss_type"] == "cosine":
            score = 1.0 - torch.mean(torch.nn.CosineSimilarity(dim=1, eps=1e-07)(here, old))
        else:
            score = torch.mean(torch.norm(here - old, p=2, dim=1))
        loss_main = loss_main + how["w"] * score
        start, end = tuned, text
    total_loss_lmc = torch.zeros(())
    line_samples = np.arange(0.1, 1.01, 1.0 / float(samples))
    for t in line_samples:
        feature_mid = start + (end - start) * t
        total_loss_lmc = total_loss_lmc + nn.CrossEntropyLoss()(logits(feature_mid), label) / len(line_samples)
    return loss_main + how["w_lmc"] * total_loss_lmc


@pytest.mark.parametrize("samples", [1, 5, 10])
@pytest.mark.parametrize(
    ("trainer", "loss_type"), [("kgcoop_coop_LMC", "cosine"), ("kgcoop_coop_LMC", "l2"), ("mma_LMC", "")]
)
def test_the_loss_is_the_releases(trainer: str, loss_type: str, samples: int) -> None:
    draws = torch.Generator().manual_seed(samples)
    text, tuned, zero_shot = (F.normalize(torch.randn(7, 16, generator=draws, dtype=torch.float64)) for _ in range(3))
    image, label = torch.randn(9, 16, generator=draws, dtype=torch.float64), torch.arange(9) % 7
    text.requires_grad_()
    line, pull = 1.5, 8.0
    wanted = released(
        text, tuned, zero_shot, image, label, trainer=trainer, samples=samples, loss_type=loss_type, w=pull, w_lmc=line
    )

    to, origin = ("protected", tuned) if trainer == "kgcoop_coop_LMC" else ("base", zero_shot)
    found = torch.zeros(())
    for share, weight in points_of(line, samples, to):
        at = F.normalize(origin + share * (text - origin))
        found = found + weight * F.cross_entropy(100.0 * F.normalize(image) @ at.t(), label)
    if loss_type:
        found = found + pulled(pull, loss_type)([text], [zero_shot])  # type: ignore[arg-type,list-item]
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-12)
    one, other = (torch.autograd.grad(loss, text)[0] for loss in (found, wanted))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("to", ["protected", "base"])
def test_steps_go_down_that_loss_in_the_weights(to: str, scenario: Scenario) -> None:
    """Two steps, so that an end of the line that moved along would show."""
    victim, base, rate, pull, line, epsilon = scenario.experts["victim"], scenario.base, 1e-3, 3.0, 2.0, 1.0
    settings = f"steps=2,rate={rate},epsilon={epsilon},batch=64,samples=2,line={line},pull={pull},to={to}"
    found = dict(attacked(f"mergetune:{settings}", scenario, victim).module().named_parameters())

    names = shared_tensors(victim, base)
    own = {n: p.detach() for n, p in victim.module().named_parameters()}
    start = {n: p.detach() for n, p in victim.replace({n: base[n] for n in names}).module().named_parameters()}
    (batch,) = scenario.tasks["victim"].batches("train", 64, np.random.default_rng(0))
    module, origin = victim.module(), own if to == "protected" else start
    trained = [n for n in own if not torch.equal(own[n], start[n])]
    weights = {n: own[n].clone() for n in trained}
    first, second = ({n: torch.zeros_like(w) for n, w in weights.items()} for _ in "mv")
    for t in (1, 2):
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        total = torch.zeros(())
        for share in (1.0, 0.1, 0.6) if to == "protected" else (1.0, 0.9, 0.4):
            point = own | {n: origin[n] + share * (w - origin[n]) for n, w in leaves.items()}
            total = total + F.cross_entropy(functional_call(module, point, (), dict(batch[0])).logits, batch[1])
        rows = [w.reshape(len(w) if w.ndim > 1 else 1, -1) for w in leaves.values()]
        others = [start[n].reshape(r.shape) for n, r in zip(leaves, rows, strict=True)]
        apart = torch.cat([1 - F.cosine_similarity(r, o, dim=1, eps=1e-7) for r, o in zip(rows, others, strict=True)])
        slopes = torch.autograd.grad(total + pull * apart.mean(), list(leaves.values()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in slopes))
        due = rate * 0.5 * (1 + math.cos(math.pi * (t - 1 - 0.2) / 1.8)) if t > 1 else rate
        for (n, w), g in zip(weights.items(), slopes, strict=True):
            g = g * min(1.0, 1 / norm)
            first[n] = 0.9 * first[n] + 0.1 * g
            second[n] = 0.999 * second[n] + 0.001 * g**2
            m, v = first[n] / (1 - 0.9**t), second[n] / (1 - 0.999**t)
            weights[n] = w - due * m / (v.sqrt() + epsilon)
    moved = sum(float((weights[n] - own[n]).square().sum()) for n in trained)
    off = sum(float((found[n].detach() - weights[n]).square().sum()) for n in trained)
    assert off < (2e-3) ** 2 * moved


def test_the_pull_turns_a_locked_model_towards_the_base_and_the_line_keeps_it_working() -> None:
    scenario = toy_scenario("vit")
    victim, base = scenario.experts["victim"], scenario.base
    lazy = sample_gauges(victim, ("qk", "vo"), Orthogonal(), KEY.child("lock").generator)
    protected = Checkpoint.of(dict(lazy.items()), lazy.config)

    def turned(checkpoint: Checkpoint) -> float:
        names = [n for n in shared_tensors(victim, base) if base[n].ndim == 2]
        return float(torch.cat([apart(checkpoint[n], base[n], "cosine") for n in names]).mean())

    def loss(checkpoint: Checkpoint) -> float:
        task = scenario.tasks["victim"]
        (batch,) = task.batches("train", 64, np.random.default_rng(0))
        with torch.inference_mode():
            return float(task.loss(checkpoint.module(), batch))

    how = "steps=30,rate=0.02,samples=2"
    without, pulled_back = (attacked(f"mergetune:{how},pull={pull}", scenario, protected) for pull in (0, 100))
    assert turned(pulled_back) < 0.8 * min(turned(protected), turned(without))
    assert max(loss(without), loss(pulled_back)) < 1.1 * loss(victim) + 0.05


def test_labels_and_steps_are_metered(scenario: Scenario) -> None:
    attack = ATTACKS.load("mergetune:steps=3,samples=1")
    few = AttackerView(
        scenario.experts["victim"],
        threat_model("few-shot:samples=6"),
        KEY,
        needs=attack.spec.needs,
        _anchor=scenario.base,
        _task=scenario.tasks["victim"],
        _owner=KEY.child("owner"),
    )
    attack(few)
    assert (few.meter.labels, few.meter.steps) == (6, 3)
