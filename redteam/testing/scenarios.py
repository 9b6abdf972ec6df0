"""What is asked of a scenario: that its models and tasks fit one another, and that there is a skill to be stolen."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch

from redteam.checkpoint import not_finite, own_tensors, shared_tensors
from redteam.plugins.contracts import ScenarioSpec
from redteam.tasks import Scenario, Split, Task
from redteam.testing.common import Tried, deterministic, global_state, runs, same_elsewhere
from redteam.testing.outcome import Check, DoesNotApply, Fails
from redteam.testing.trial import Trial, told

OTHER_SEED = 1
"""A second seed that a scenario is made with."""

SURE = 2.0
"""By how many standard errors of its accuracy an expert has to be better than guessing, and than the base."""

_BATCH = 8
_SCORED: tuple[Split, ...] = ("validation", "test")


class ScenarioSubject(Tried[ScenarioSpec]):
    """A scenario, made twice under one seed and once under another."""

    def first(self) -> Trial:
        return Trial.of(self.plugin, {})

    def checks(self) -> Iterator[Check]:
        yield Check("runs", lambda: runs(self))
        yield Check("seed", self._seed)
        yield Check("parts", self._parts)
        yield Check("layout", self._layout)
        yield Check("networks", self._networks)
        yield Check("answers", self._answers)
        yield Check("training", self._training)
        yield Check("chance", self._chance)
        yield Check("skill", self._skill)
        yield Check("global state", lambda: global_state(self))
        yield Check("deterministic", lambda: deterministic(self))
        yield Check("other seed", self._other_seed)
        yield Check("victims", self._victims)
        yield Check("elsewhere", lambda: same_elsewhere(self))

    @property
    def scenario(self) -> Scenario:
        """What the ordinary call returned.

        Raises:
            DoesNotApply: If that is no scenario whose parts can be looked at; other checks say so.
        """
        made = self._made
        if not _names_agree(made):
            raise DoesNotApply("its experts and tasks have different names; the check 'parts' says which")
        return made

    @property
    def _made(self) -> Scenario:
        if self.main.error is not None:
            raise DoesNotApply(f"it raised {told(self.main.error)}")
        if not isinstance(self.main.returned, Scenario):
            raise DoesNotApply("it returned no scenario")
        return self.main.returned

    @cached_property
    def _right(self) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
        """Task → what its expert and the base have of the test items."""
        scenario, found = self.scenario, {}
        for name, task in scenario.tasks.items():
            models = {"expert": scenario.experts[name], "base": scenario.dressed(scenario.base, name)}
            try:
                found[name] = {which: np.asarray(task.held(each.module())) for which, each in models.items()}
            except Exception as error:
                raise DoesNotApply(f"the networks of {name!r} give no answers: {told(error)}") from None
        return found

    def _network(self, task: str) -> Any:
        try:
            return self.scenario.experts[task].module()
        except Exception as error:
            raise DoesNotApply(f"the expert {task!r} builds no network: {told(error)}") from None

    def _seed(self) -> str:
        parameter = inspect.signature(self.plugin.function).parameters.get("seed")
        if parameter is None or parameter.kind is not parameter.KEYWORD_ONLY:
            raise Fails("it has no setting 'seed'; every evaluation names one, as in def mine(*, seed: int = 0)")
        return "takes a seed"

    def _parts(self) -> str:
        if self.main.error is not None:
            raise DoesNotApply(f"it raised {told(self.main.error)}")
        if not isinstance(self.main.returned, Scenario):
            raise Fails(f"it returned a {type(self.main.returned).__name__}; expected a redteam.Scenario")
        made = self._made
        if not _names_agree(made):
            raise Fails(
                f"its experts are {sorted(made.experts)} and its tasks {sorted(made.tasks)}; use one set of names"
            )
        if made.victim not in made.experts:
            raise Fails(f"its victim {made.victim!r} is none of its experts {sorted(made.experts)}")
        if not made.companions:
            raise Fails("it has no expert beside the victim, and a merge needs at least two")
        for name, task in made.tasks.items():
            if task.name != name:
                raise Fails(f"the task {name!r} calls itself {task.name!r}")
        return f"{len(made.experts)} experts and their tasks, the victim {made.victim!r} among them"

    def _layout(self) -> str:
        scenario = self.scenario
        for name, expert in scenario.experts.items():
            shared = shared_tensors(expert, scenario.base)
            if not shared:
                raise Fails(f"the expert {name!r} shares no tensor with the base; there is nothing to merge")
            if others := set(shared) ^ set(shared_tensors(scenario.experts[scenario.victim], scenario.base)):
                raise Fails(f"{min(others)!r} is shared with the base by only one of {name!r} and the victim")
            if wrong := [each for each in shared if expert.dtype(each) != scenario.base.dtype(each)]:
                found, expected = expert.dtype(wrong[0]), scenario.base.dtype(wrong[0])
                raise Fails(f"{wrong[0]!r} is {found} in {name!r} and {expected} in the base")
            if bad := not_finite(expert):
                raise Fails(f"{bad!r} of {name!r} has values that are not finite")
            if all(torch.equal(expert[each], scenario.base[each]) for each in shared):
                raise Fails(f"the expert {name!r} is the base; it has learned nothing that a merge could take")
        for one, other in combinations(scenario.experts, 2):
            if scenario.experts[one].digest() == scenario.experts[other].digest():
                raise Fails(f"the experts {one!r} and {other!r} are one and the same")
        own = own_tensors(scenario.experts[scenario.victim], scenario.base)
        return f"every expert shares {len(shared)} tensors with the base; {len(own)} are the victim's own"

    def _networks(self) -> str:
        scenario = self.scenario
        for name, task in scenario.tasks.items():
            for which, checkpoint in (
                (name, scenario.experts[name]),
                ("the base", scenario.dressed(scenario.base, name)),
            ):
                inputs = {key: value[:_BATCH] for key, value in _inputs(task, "test").items()}
                try:
                    with torch.inference_mode():
                        outputs = checkpoint.module()(**inputs)
                except Exception as error:
                    raise Fails(f"the network of {which} does not take the inputs of {name!r}: {told(error)}") from None
                logits = getattr(outputs, "logits", None)
                if not isinstance(logits, torch.Tensor):
                    raise Fails(f"the network of {which} returns a {type(outputs).__name__} without .logits")
                if not bool(logits.isfinite().all()):
                    raise Fails(f"the network of {which} gives logits that are not finite on {name!r}")
        return "every network takes a batch of its task and gives .logits, as does the base under each head"

    def _answers(self) -> str:
        scenario, sizes = self.scenario, []
        for name, task in scenario.tasks.items():
            module = self._network(name)
            for split in _SCORED:
                count = len(next(iter(_inputs(task, split).values())))
                right, answers = _asked(name, task, module, split)
                if not _is_score(right) or right.shape != (count,):
                    raise Fails(
                        f"scores(…) of {name!r} on {split} gives {right.dtype} {list(right.shape)}; expected a "
                        f"truth value or a finite floating-point number for each of its {count} inputs"
                    )
                if not np.issubdtype(answers.dtype, np.integer) or answers.shape != (count,):
                    raise Fails(
                        f"predictions(…) of {name!r} on {split} gives {answers.dtype} {list(answers.shape)}; expected "
                        f"a whole number for each of its {count} inputs"
                    )
                if not np.array_equal(right, _asked(name, task, module, split)[0]):
                    raise Fails(f"scores(…) of {name!r} on {split} gives another answer the second time")
                sizes += [count] if split == "test" else []
        return f"one result a sample, {min(sizes)} test items to a task or more"

    def _training(self) -> str:
        scenario = self.scenario
        for name, task in scenario.tasks.items():
            module = self._network(name)
            try:
                batch = next(iter(task.batches("train", _BATCH, np.random.default_rng(0))))
                with torch.enable_grad():
                    loss = task.loss(module, batch)
            except Exception as error:
                raise Fails(f"the task {name!r} gives no batch with a loss: {told(error)}") from None
            if loss.ndim or not bool(loss.isfinite()) or not loss.requires_grad:
                raise Fails(f"the loss of {name!r} is no finite scalar with a gradient")
        return "every task has batches to train on and a loss"

    def _chance(self) -> str:
        chances = {name: task.chance for name, task in self.scenario.tasks.items()}
        for name, chance in chances.items():
            if wrong := self._no_chance(name):
                raise Fails(f"the chance of {name!r} is {chance:g}; expected {wrong}")
        return "guessing scores " + ", ".join(f"{value:.2g} on {name}" for name, value in chances.items())

    def _skill(self) -> str:
        scenario = self.scenario
        for name, task in scenario.tasks.items():
            if self._no_chance(name):
                raise DoesNotApply(f"the chance of {name!r} is {task.chance:g}; the check 'chance' says more")
            expert, base = self._right[name]["expert"], self._right[name]["base"]
            for what, other in (("guessing", np.full(len(expert), task.chance)), ("the base", base)):
                if not expert.mean() > other.mean() + SURE * _error(expert, other):
                    raise Fails(
                        f"the expert {name!r} scores {expert.mean():.3f} on {len(expert)} test items and {what} "
                        f"{other.mean():.3f}; that is no skill that could be stolen"
                    )
        victim = self._right[scenario.victim]
        return f"the victim scores {victim['expert'].mean():.3f}, the base in its place {victim['base'].mean():.3f}"

    def _no_chance(self, name: str) -> str:
        """What the score of guessing should be, where a task's is none; empty where it is one."""
        chance, scores = self.scenario.tasks[name].chance, self._right[name]["expert"]
        if scores.dtype == np.bool_:
            return "" if 0 < chance < 1 else "the accuracy of guessing, between 0 and 1"
        return "" if np.isfinite(chance) else "the mean score of whoever has learned nothing"

    def _other_seed(self) -> str:
        here = self.scenario
        trial = self.kept(
            "other seed",
            lambda: Trial.of(lambda: self.plugin.function(**{**self.plugin.settings, "seed": OTHER_SEED}), {}),
        )
        if trial.error is not None:
            raise Fails(f"with seed {OTHER_SEED} it raised {told(trial.error)}")
        there = trial.returned
        if not isinstance(there, Scenario) or set(there.experts) != set(here.experts):
            raise Fails(f"with seed {OTHER_SEED} it has other experts")
        same = [name for name in here.experts if here.experts[name].digest() == there.experts[name].digest()]
        if same:
            raise Fails(f"under another seed {same[0]!r} has the same weights; two seeds of one model count as one")
        return "another seed retrains every expert"

    def _victims(self) -> str:
        asked = self.plugin.spec.victims
        if asked is None:
            raise DoesNotApply("it has one victim")
        here = self.scenario
        settings = {**self.plugin.settings, "victim": here.companions[0]}
        trial = self.kept("other victim", lambda: Trial.of(lambda: self.plugin.function(**settings), {}))
        if trial.error is not None:
            raise Fails(f"with victim={settings['victim']} it raised {told(trial.error)}")
        there = trial.returned
        if not isinstance(there, Scenario) or there.victim != settings["victim"]:
            raise Fails(f"with victim={settings['victim']} the victim is {getattr(there, 'victim', 'none')!r}")
        if _contents(there) != _contents(here):
            raise Fails(
                f"with victim={settings['victim']} it has other models or data; expected the same, otherwise cast"
            )
        if left := tuple(asked(**settings)):
            raise Fails(f"with victim={settings['victim']} it still has {', '.join(left)} as victims in turn")
        return "any task may be the victim, of the same models and data"


def _contents(scenario: Scenario) -> dict[str, tuple[str, str]]:
    """Task → digests of its expert and its data."""
    return {name: (scenario.experts[name].digest(), task.digest()) for name, task in scenario.tasks.items()}


def _is_score(found: np.ndarray[Any, Any]) -> bool:
    return found.dtype == np.bool_ or bool(np.issubdtype(found.dtype, np.floating) and np.isfinite(found).all())


def _error(expert: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """The standard error of what the expert is ahead by: of two accuracies, or of paired numbers."""
    if expert.dtype == np.bool_:
        level = float(other.mean())
        return float(np.sqrt(level * (1 - level) / len(other)))
    return float((expert - other).std() / np.sqrt(len(other)))


def _names_agree(made: Scenario) -> bool:
    return set(made.experts) == set(made.tasks)


def _inputs(task: Task, split: Split) -> dict[str, torch.Tensor]:
    try:
        inputs = dict(task.inputs_of(split))
        sizes = {len(value) for value in inputs.values()}
    except Exception as error:
        raise Fails(f"the task {task.name!r} has no inputs for {split}: {told(error)}") from None
    if len(sizes) != 1 or not min(sizes):
        raise Fails(f"the inputs of {task.name!r} on {split} have {sorted(sizes)} samples; expected as many of each")
    return inputs


def _asked(name: str, task: Task, module: Any, split: Split) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    try:
        return np.asarray(task.scores(module, split)), np.asarray(task.predictions(module, split))
    except Exception as error:
        raise Fails(f"the task {name!r} cannot score its expert on {split}: {told(error)}") from None
