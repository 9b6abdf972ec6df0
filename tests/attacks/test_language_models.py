"""Attacks on language models: every token has logits, and what is padding counts for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from redteam_attacks.coefficient_search import _Merge

from redteam.checkpoint import Checkpoint
from redteam.imitation import imitating
from redteam.key import Key
from redteam.plugins.contracts import Needs
from redteam.plugins.registry import ATTACKS
from redteam.symmetry import GeneralLinear, Planar, sample_gauges
from redteam.tasks import Generation, LogLikelihood, Scenario
from redteam.threat import OWNER
from redteam.views import AttackerView, Oracle

KEY = Key.derive(seed=0, index=0, name="language models")
TOKENS, VOCABULARY = 10, 40
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
WITH_DATA = (
    "fine-tune",
    "distillation",
    "distill-own",
    "train-anew",
    "pseudo-rehearsal",
    "coefficient-search:samples=8,rounds=1",
)
BY_ACTIVATIONS = ("activation-procrustes:sites=[vo,mlp]", "regmean-regression")


def documents(name: str) -> dict[str, torch.Tensor]:
    """24 documents of 4 to 10 tokens, padded behind."""
    draws = KEY.generator(name)
    lengths = torch.from_numpy(draws.integers(4, TOKENS + 1, 24))
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    ids = torch.from_numpy(draws.integers(1, VOCABULARY, (24, TOKENS)))
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture(scope="module")
def scenario() -> Iterator[Scenario]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    base = Checkpoint.of({}, CONFIG).fresh(0)
    experts, tasks = {}, {}
    for name in ("victim", "left", "right"):
        draws = KEY.generator(f"expert {name}")
        moved = {n: t + 0.03 * torch.from_numpy(draws.standard_normal(tuple(t.shape))).float() for n, t in base.items()}
        experts[name] = Checkpoint.of(moved, CONFIG)
        inputs = {split: documents(f"{name}/{split}") for split in ("train", "validation", "test")}
        tasks[name] = LogLikelihood.of(name, inputs, base.module())
    yield Scenario("causal toy", 0, base, experts, tasks, "victim")
    torch.set_num_threads(threads)


def view(text: str, scenario: Scenario, protected: Checkpoint) -> tuple[Any, AttackerView]:
    attack = ATTACKS.load(text)
    made = AttackerView(
        protected,
        OWNER,
        KEY.child("attack"),
        needs=attack.spec.needs,
        _anchor=scenario.base,
        _companions={task: scenario.experts[task] for task in scenario.companions},
        _own={task: scenario.tasks[task] for task in scenario.companions},
        _task=scenario.tasks["victim"],
        _owner=KEY.child("owner"),
    )
    return attack, made


def locked(scenario: Scenario) -> Checkpoint:
    victim = sample_gauges(scenario.experts["victim"], ("qk",), Planar(), KEY.child("qk").generator)
    victim = sample_gauges(victim, ("vo",), GeneralLinear(), KEY.child("vo").generator)
    return Checkpoint.of(dict(victim.items()), victim.config)


@pytest.mark.parametrize("name", [*WITH_DATA, *BY_ACTIVATIONS])
def test_an_attack_with_data_works_on_documents(scenario: Scenario, name: str) -> None:
    protected = locked(scenario)
    steps = ":steps=2" if name in WITH_DATA[:5] else ""
    attack, made = view(name + steps, scenario, protected)
    found = attack(made)
    assert found.outline() == protected.outline()
    assert all(bool(found[n].isfinite().all()) for n in found)
    assert any(not torch.equal(found[n], protected[n]) for n in found)


def test_coefficients_are_chosen_by_the_documents_loss_and_every_token_that_is_one(scenario: Scenario) -> None:
    victim, base = scenario.experts["victim"], scenario.base
    merge = _Merge.of(view("coefficient-search", scenario, victim)[1], 24)
    merged = {
        n: base[n]
        + 0.4 * (1.5 * (victim[n] - base[n]) + sum(scenario.experts[t][n] - base[n] for t in ("left", "right")))
        for n in base
    }
    module, teacher, expected, alone = Checkpoint.of(merged, CONFIG).module(), victim.module(), 0.0, 0.0
    rows = sum(one.size for one in merge.looked_at)
    for one in merge.looked_at:
        inputs, labels = one.batch
        kept = inputs["attention_mask"] == 1
        with torch.inference_mode():
            alone += float(scenario.tasks[scenario.companions[0]].loss(module, (inputs, labels))) * one.size / rows
            ours, theirs = (m(**inputs).logits[kept].double().log_softmax(-1) for m in (module, teacher))
        expected += float((theirs.exp() * (theirs - ours)).sum(1).mean()) * one.size / rows
    assert merge.loss(0.4, [1.5] * len(merge.layers)) == pytest.approx(alone + expected, rel=1e-4)
    assert merge.loss(0.4, [1.5] * len(merge.layers), own=True) == pytest.approx(alone, rel=1e-4)


def test_coefficients_are_chosen_where_the_loss_reads_more_than_what_was_asked(scenario: Scenario) -> None:
    tasks = dict(scenario.tasks)
    for name in scenario.companions:
        prompts = {split: documents(f"{name}/{split}") for split in ("train", "validation", "test")}
        answers = {split: documents(f"{name}/answers/{split}")["input_ids"][:, :3] for split in prompts}
        tasks[name] = Generation(name=name, chance=0.01, inputs=prompts, labels=answers, tokens=3)
    asking = replace(scenario, tasks=tasks)
    victim, base = scenario.experts["victim"], scenario.base
    merge = _Merge.of(view("coefficient-search", asking, victim)[1], 24)
    merged = {n: base[n] + 0.4 * sum(scenario.experts[t][n] - base[n] for t in ("left", "right")) for n in base}
    module = Checkpoint.of(merged, CONFIG).module()
    rows = sum(one.size for one in merge.looked_at)
    with torch.inference_mode():
        expected = sum(float(tasks[scenario.companions[0]].loss(module, o.batch)) * o.size for o in merge.looked_at)
    assert merge.loss(0.4, [0.0] * len(merge.layers), own=True) == pytest.approx(expected / rows, rel=1e-4)
    assert merge.loss(0.4, [1.0] * len(merge.layers)) < float("inf")


def test_answers_are_learned_though_batches_have_less_padding_than_what_was_asked(scenario: Scenario) -> None:
    made = view("imitation", scenario, scenario.dressed(scenario.base, "victim"))[1]
    made = replace(made, needs=made.needs | Needs.OUTPUTS, _oracle=Oracle(scenario.experts["victim"]))
    student, module = ATTACKS.load("imitation:steps=40,batch=3,epsilon=1e-8")(made).module(), scenario.base.module()
    inputs, teacher = documents("left/train"), scenario.experts["victim"].module()
    kept = inputs["attention_mask"] == 1
    with torch.inference_mode():
        before, after = ((m(**inputs).logits - teacher(**inputs).logits)[kept].norm() for m in (module, student))
    assert after < 0.8 * before


def test_imitation_is_asked_for_at_every_token_and_not_at_padding(scenario: Scenario) -> None:
    batch = next(scenario.tasks["victim"].batches("train", 24, np.random.default_rng(0)))
    student, teacher = (scenario.experts[name].module() for name in ("left", "victim"))
    kept = batch[0]["attention_mask"] == 1
    with torch.no_grad():
        found = float(imitating(teacher, 2.0, 0.0)(student, batch))
        ours, theirs = ((m(**batch[0]).logits[kept].double() / 2).log_softmax(-1) for m in (student, teacher))
    assert found == pytest.approx(4 * float(F.kl_div(ours, theirs, reduction="batchmean", log_target=True)), rel=1e-4)


def test_a_student_comes_nearer_to_the_documents(scenario: Scenario) -> None:
    protected = locked(scenario)
    attack, made = view("distillation:steps=40,features=0.0,epsilon=1e-8", scenario, protected)
    student, teacher = attack(made).module(), protected.module()
    batch = next(scenario.tasks["victim"].batches("test", 24, np.random.default_rng(0)))
    with torch.no_grad():
        before, after = (float(imitating(teacher, 1.0, 0.0)(m, batch)) for m in (scenario.base.module(), student))
    assert after < 0.8 * before
