"""Scenarios with one fault each; `FAULTS` says which clauses of the contract notice it, and no other may."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from redteam import Checkpoint, Classification, Scenario, scenario
from redteam.testing import toy_scenario

FAULTS: dict[str, set[str]] = {
    "sound-toy": set(),
    "without-seed": {"seed", "other seed"},
    "one-model": {"other seed"},
    "no-scenario": {"parts"},
    "names-apart": {"parts"},
    "alone": {"parts"},
    "unlearned": {"layout", "skill"},
    "cut-short": {"layout", "networks"},
    "twins": {"layout"},
    "no-logits": {"networks", "answers", "training"},
    "answers-in-numbers": {"answers"},
    "half-scored": {"answers"},
    "untrainable": {"training"},
    "percent": {"chance"},
    "guesses": {"skill"},
    "dice": {"deterministic"},
    "recast": set(),
    "miscast": {"victims"},
}


def _with(seed: int, **changed: Any) -> Scenario:
    return dataclasses.replace(toy_scenario(seed=seed), **changed)


def _scored(seed: int, kind: type[Classification], **changed: Any) -> Scenario:
    """The toy, its tasks of another class."""
    tasks = toy_scenario(seed=seed).tasks.values()
    given = ({"chance": one.chance, "inputs": one.inputs, "labels": one.labels} | changed for one in tasks)
    return _with(seed, tasks={one.name: kind(one.name, **fields) for one, fields in zip(tasks, given, strict=True)})


@scenario("sound-toy")
def sound_toy(*, seed: int = 0) -> Scenario:
    """The toy that plugins are tried on."""
    return toy_scenario(seed=seed)


@scenario("without-seed")
def without_seed() -> Scenario:
    """Is what it is."""
    return toy_scenario()


@scenario("one-model")
def one_model(*, seed: int = 0) -> Scenario:
    """Calls the same models by another seed."""
    return dataclasses.replace(toy_scenario(), seed=seed)


@scenario("no-scenario")
def no_scenario(*, seed: int = 0) -> Any:
    """Returns the experts alone."""
    return toy_scenario(seed=seed).experts


@scenario("names-apart")
def names_apart(*, seed: int = 0) -> Scenario:
    """Has a task without an expert."""
    tasks = toy_scenario(seed=seed).tasks
    return _with(seed, tasks={**tasks, "more": tasks["left"]})


@scenario("alone")
def alone(*, seed: int = 0) -> Scenario:
    """Has nobody to merge the victim with."""
    made = toy_scenario(seed=seed)
    return _with(seed, experts={"victim": made.experts["victim"]}, tasks={"victim": made.tasks["victim"]})


@scenario("unlearned")
def unlearned(*, seed: int = 0) -> Scenario:
    """Has an expert that is the base."""
    made = toy_scenario(seed=seed)
    return _with(seed, experts={**made.experts, "left": made.dressed(made.base, "left")})


@scenario("cut-short")
def cut_short(*, seed: int = 0) -> Scenario:
    """Has a companion whose body is of another shape."""
    made = toy_scenario(seed=seed)
    left = dict(made.experts["left"])
    left["vit.embeddings.cls_token"] = left["vit.embeddings.cls_token"][:, :, :16]
    return _with(seed, experts={**made.experts, "left": Checkpoint.of(left, made.base.config)})


@scenario("twins")
def twins(*, seed: int = 0) -> Scenario:
    """Has the same expert twice."""
    experts, tasks = dict(toy_scenario(seed=seed).experts), dict(toy_scenario(seed=seed).tasks)
    experts["right"] = experts["left"]
    tasks["right"] = dataclasses.replace(tasks["left"], name="right")
    return _with(seed, experts=experts, tasks=tasks)


class _Misnamed(Classification):
    def inputs_of(self, split: Any) -> Any:
        return {"pictures": self.inputs[split]["pixel_values"]}

    def predictions(self, module: Any, split: Any) -> Any:
        return module(**self.inputs_of(split)).logits.argmax(-1).numpy()

    def loss(self, module: Any, batch: Any) -> Any:
        return module(pictures=batch[0]["pixel_values"]).logits.mean()


@scenario("no-logits")
def no_logits(*, seed: int = 0) -> Scenario:
    """Hands its networks what they do not take."""
    return _scored(seed, _Misnamed)


class _Numbers(Classification):
    def scores(self, module: Any, split: Any = "test") -> Any:
        return super().scores(module, split).astype(int)


@scenario("answers-in-numbers")
def answers_in_numbers(*, seed: int = 0) -> Scenario:
    """Scores with whole numbers."""
    return _scored(seed, _Numbers)


class _Half(Classification):
    def scores(self, module: Any, split: Any = "test") -> Any:
        return super().scores(module, split)[::2]


@scenario("half-scored")
def half_scored(*, seed: int = 0) -> Scenario:
    """Scores every other sample."""
    return _scored(seed, _Half)


class _Untrainable(Classification):
    def loss(self, module: Any, batch: Any) -> Any:
        with torch.no_grad():
            return super().loss(module, batch)


@scenario("untrainable")
def untrainable(*, seed: int = 0) -> Scenario:
    """Has a loss without a gradient."""
    return _scored(seed, _Untrainable)


@scenario("percent")
def percent(*, seed: int = 0) -> Scenario:
    """Writes the accuracy of guessing in per cent."""
    return _scored(seed, Classification, chance=25.0)


class _Guesses(Classification):
    def predictions(self, module: Any, split: Any) -> Any:
        right = self.labels[split].numpy()
        return np.where(np.arange(len(right)) % 4 == 0, right, (right + 1) % 4)


@scenario("guesses")
def guesses(*, seed: int = 0) -> Scenario:
    """Has experts that are right as often as guessing."""
    return _scored(seed, _Guesses)


@scenario("dice")
def dice(*, seed: int = 0) -> Scenario:
    """Draws anew every time it is asked, and by the seed as well."""
    made = toy_scenario(seed=seed)
    nudge = np.random.default_rng().standard_normal()
    bias = next(name for name in made.base if name.endswith("layernorm.bias"))
    return _with(seed, base=made.base.replace({bias: made.base[bias] + float(nudge)}))


def _turns(*, seed: int = 0, victim: str = "victim") -> tuple[str, ...]:
    return ("victim", "left", "right") if victim == "each" else ()


@scenario("recast", victims=_turns)
def recast(*, seed: int = 0, victim: str = "victim") -> Scenario:
    """Has any task as the victim."""
    return _with(seed, victim=victim)


@scenario("miscast", victims=_turns)
def miscast(*, seed: int = 0, victim: str = "victim") -> Scenario:
    """Trains the experts anew for another victim."""
    return dataclasses.replace(toy_scenario(seed=seed + len(victim)), seed=seed, victim=victim)
