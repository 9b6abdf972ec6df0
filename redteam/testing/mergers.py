"""What is asked of a merger beyond what is asked of every plugin: order, the empty merge, its tuned setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from redteam.checkpoint import Checkpoint, not_finite, shared_tensors
from redteam.errors import Inapplicable, RedteamError
from redteam.plugins.contracts import MergerSpec
from redteam.plugins.returned import check_whole
from redteam.plugins.settings import settings_of
from redteam.tasks import Scenario, batched
from redteam.testing.common import Subject
from redteam.testing.outcome import Check, DoesNotApply, Fails
from redteam.testing.toys import in_dtype, toy_scenario
from redteam.testing.trial import Trial, told
from redteam.testing.views import alone, merger_view, unheard_of

_EXPERTS = ("victim", "left", "right")
_TASK = "left"
"""Whose network is looked at where there is one for each task."""
ROUNDING = 1e-6
"""The largest relative distance of two merges in float32 that are the same but for the order of sums."""


class MergerSubject(Subject[MergerSpec]):
    """A merger, tried on the three experts of a toy, or on as many of them as it takes."""

    @property
    def experts(self) -> tuple[str, ...]:
        """The most of them that it doesn't call inapplicable."""
        for count in range(len(_EXPERTS), 1, -1):
            order = _EXPERTS[:count]
            trial = self.kept(("experts", count), partial(self.call, toy_scenario("vit"), order=order))
            if not isinstance(trial.error, Inapplicable):
                return order
        return _EXPERTS[:1]

    @property
    def before(self) -> Checkpoint:
        return toy_scenario("vit").base

    def first(self) -> Trial:
        return self.call(toy_scenario("vit"))

    def rounded(self, dtype: torch.dtype) -> tuple[Checkpoint, Trial]:
        scenario = in_dtype(toy_scenario("vit"), dtype)
        return scenario.base, self.kept(("rounded", dtype), lambda: self.call(scenario))

    def astray(self) -> Iterator[tuple[str, Trial]]:
        scenario = toy_scenario("vit")
        yield (
            "on an unknown architecture",
            self.kept("unheard-of", lambda: self.call(scenario, change=lambda _, expert: unheard_of(expert))),
        )
        yield "with an expert of another shape", self.kept("misshapen", lambda: self.call(scenario, change=_misshapen))

    def own_checks(self) -> Iterator[Check]:
        yield Check("order", self._order)
        yield Check("nothing learned", self._nothing_learned)
        yield Check("one expert", self._one_expert)
        yield Check("tunable", self._tunable)
        yield Check("network", self._network)

    def call(
        self,
        scenario: Scenario,
        *,
        order: Sequence[str] = (),
        change: Callable[[str, Checkpoint], Checkpoint] = lambda _, expert: expert,
        **changed: Any,
    ) -> Trial:
        """One merge, some settings changed."""
        view, copies = merger_view(scenario, order or self.experts, spec=self.spec, change=change)

        def merge() -> Any:
            merged = self.plugin.function(view, **{**self.plugin.settings, **changed})
            if self.spec.whole:
                return check_whole(self.plugin, scenario.base, merged, read=False).of(_TASK)
            if self._needs_base or not isinstance(merged, Checkpoint):
                return merged
            # It has never seen the base; what it leaves out no expert shares, and no task wears.
            return scenario.base.replace({name: merged[name] for name in shared_tensors(scenario.base, merged)})

        return Trial.of(merge, copies)

    @property
    def _needs_base(self) -> bool:
        return self.spec.needs_base

    def _order(self) -> str:
        trial = self.kept("reversed", lambda: self.call(toy_scenario("vit"), order=self.experts[::-1]))
        self.require_ran(trial, "with the experts in another order ")
        away = _distance(trial.usable(self.before), self.main.usable(self.before), self.before)
        if not away <= ROUNDING:
            raise Fails(f"in another order of the experts the merge differs by {away:.2g} of its norm")
        return "the order of the experts changes nothing"

    def _nothing_learned(self) -> str:
        base = self.before
        trial = self.kept(
            "nothing learned", lambda: self.call(toy_scenario("vit"), change=lambda _, expert: alone(expert, base))
        )
        self.require_ran(trial, "with experts that are the base ")
        away = _distance(trial.usable(base), base, base)
        if not away <= ROUNDING:
            raise Fails(f"experts that are all the base merge into something else, {away:.2g} of its norm away")
        return "experts that are the base merge into the base"

    def _one_expert(self) -> str:
        trial = self.kept("one", lambda: self.call(toy_scenario("vit"), order=("left",)))
        if isinstance(trial.error, Inapplicable):
            raise DoesNotApply(f"it takes no single expert: {told(trial.error)}")
        self.require_ran(trial, "with a single expert ")
        trial.usable(self.before)
        return "merges a single expert"

    def _tunable(self) -> str:
        if self.spec.tunable is None:
            raise DoesNotApply("it declares no setting to be tuned")
        settings = settings_of(self.plugin.function)
        if self.spec.tunable not in settings:
            raise Fails(f"it declares {self.spec.tunable!r} as tunable, which is none of its settings")
        bounds = settings[self.spec.tunable].range
        if bounds is None:
            raise Fails(f"its tunable setting {self.spec.tunable!r} has no Range to choose from")
        whole = settings[self.spec.tunable].annotation is int
        for value in (bounds.low, bounds.high):
            given: dict[str, Any] = {self.spec.tunable: int(value) if whole else value}
            trial = self.kept(("tuned", value), partial(self.call, toy_scenario("vit"), **given))
            self.require_ran(trial, f"with {self.spec.tunable}={value:g} ")
            if bad := not_finite(trial.checkpoint):
                raise Fails(f"with {self.spec.tunable}={value:g} it returned {bad!r} with values that are not finite")
        return f"both ends of {bounds} merge"

    def _network(self) -> str:
        if not self.spec.whole:
            raise DoesNotApply("its result is one checkpoint")
        scenario = toy_scenario("vit")
        self.require_ran(self.main)
        if self._outputs(scenario) != self._outputs(scenario):
            raise Fails("two calls gave networks with other outputs; draw from a generator of your own alone")
        return "every task has a network"

    def _outputs(self, scenario: Scenario) -> list[list[float]]:
        """What the network of each task makes of a few of its inputs.

        Raises:
            Fails: If one cannot be built or run, or gives a value that is not finite.
        """
        view, _ = merger_view(scenario, self.experts, spec=self.spec, change=lambda _, expert: expert)
        whole = check_whole(self.plugin, scenario.base, self.plugin(view))
        found = []
        for name, task in scenario.tasks.items():
            inputs = next(batched(task.inputs_of("test"), 4))
            try:
                with torch.inference_mode():
                    outputs = whole.network(scenario.dressed(whole.of(name), name))(**inputs).logits
            except (RedteamError, RuntimeError) as error:
                raise Fails(f"its network for the task {name!r} does not run: {told(error)}") from None
            if not outputs.isfinite().all():
                raise Fails(f"its network for the task {name!r} gives values that are not finite")
            found.append(outputs.flatten().tolist())
        return found


def _misshapen(name: str, expert: Checkpoint) -> Checkpoint:
    """A victim whose first MLP has one neuron less, as after a defense that changes shapes."""
    if name != "victim":
        return expert
    cut = {}
    for name, tensor in expert.items():
        if "layer.0.intermediate" in name:
            cut[name] = tensor[1:]
        elif "layer.0.output.dense.weight" in name:
            cut[name] = tensor[:, 1:]
    return expert.replace(cut)


def _distance(one: Checkpoint, other: Checkpoint, names: Checkpoint) -> float:
    """‖one − other‖ ÷ ‖other‖ over the tensors of `names`."""
    far = size = 0.0
    for name in names:
        far += float((one[name].double() - other[name].double()).square().sum())
        size += float(other[name].double().square().sum())
    return math.sqrt(far / size)
