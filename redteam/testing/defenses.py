"""What is asked of a defense beyond what is asked of every plugin: the key, the function, the weakened variant."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import torch

from redteam.anatomy.catalog import ARCHITECTURES
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.tensors import NUMBERS
from redteam.errors import BadInput, IllegalGauge, RedteamError
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.key import Key
from redteam.plugins.contracts import DefenseSpec
from redteam.plugins.settings import bind
from redteam.tasks import Scenario
from redteam.testing.attacks import DOUBLE
from redteam.testing.common import Subject
from redteam.testing.outcome import Check, DoesNotApply, Fails
from redteam.testing.toys import in_dtype, toy_architectures, toy_scenario
from redteam.testing.trial import Trial, output_change
from redteam.testing.views import KEY, OTHER_KEY, defender_view, unheard_of

_SLICE = 8  # bytes of a key that never turn up by chance


class DefenseSubject(Subject[DefenseSpec]):
    """A defense, tried on the victim of a toy under two keys."""

    @cached_property
    def toy(self) -> str:
        """What it is tried on first: a ViT, or a Llama where the former lacks the symmetry that it needs."""
        vit = self.kept(("vit", torch.float32), lambda: self.call(toy_scenario("vit")))
        return "llama" if isinstance(vit.error, IllegalGauge) and "llama" in ARCHITECTURES else "vit"

    @property
    def before(self) -> Checkpoint:
        return _victim(toy_scenario(self.toy))

    def first(self) -> Trial:
        return self.call(toy_scenario(self.toy))

    def rounded(self, dtype: torch.dtype) -> tuple[Checkpoint, Trial]:
        scenario = in_dtype(toy_scenario(self.toy), dtype)
        return _victim(scenario), self.kept(("rounded", dtype), lambda: self.call(scenario))

    def astray(self) -> Iterator[tuple[str, Trial]]:
        scenario = toy_scenario(self.toy)
        yield "without training data", self.kept("no data", lambda: self.call(scenario, data=False))
        stranger = unheard_of(_victim(scenario))
        yield "on an unknown architecture", self.kept("unheard-of", lambda: self.call(scenario, victim=stranger))

    def own_checks(self) -> Iterator[Check]:
        yield Check("re-keyable", self._rekeyable)
        yield Check("secret", self._secret)
        for architecture in dict.fromkeys((*toy_architectures(), self.toy)):
            yield Check(f"function: {architecture}", partial(self._function, architecture))
        yield Check("weakened", self._weakened)

    def call(
        self,
        scenario: Scenario,
        *,
        key: Key = KEY,
        victim: Checkpoint | None = None,
        data: bool = True,
        opened: bool = False,
        **changed: Any,
    ) -> Trial:
        """One call of the defense, some of its settings changed.

        Args:
            scenario: A toy.
            key: The owner's.
            victim: In place of the toy's.
            data: Whether there are training data.
            opened: Whether to return what whoever holds the key runs.
            changed: Settings.
        """
        view, copies = defender_view(scenario, key, victim=victim, data=data)

        def call() -> Any:
            returned = self.plugin.function(view, **{**self.plugin.settings, **changed})
            if opened and isinstance(returned, Checkpoint):
                for lock in reversed(view.locks):
                    returned = lock.take_off(returned)
            return returned

        return Trial.of(call, copies)

    @property
    def other(self) -> Trial:
        """The ordinary call under another key."""
        return self.kept("other key", lambda: self.call(toy_scenario(self.toy), key=OTHER_KEY))

    def _rekeyable(self) -> str:
        here, there = self.main.digest, self.other.digest
        if self.spec.keyed and here == there:
            raise Fails(
                "two keys gave the same weights; draw from view.lock(…) or view.generator(…), or say keyed=False"
            )
        if not self.spec.keyed and here != there:
            raise Fails("two keys gave different weights although it declares keyed=False")
        return "other weights under another key" if self.spec.keyed else "the same weights under another key"

    def _secret(self) -> str:
        returned, other, before = self.main.checkpoint, self.other.checkpoint, self.before
        told = {NUMBERS} if self.spec.renumbers else set()  # whoever has the tokenizer has these
        extra = sorted(set(returned) - set(before) - told)
        if extra and not self.spec.changes_architecture:
            raise Fails(f"it publishes {extra[0]!r} beside the weights")
        if dict(returned.config) != dict(before.config) and not self.spec.changes_architecture:
            raise Fails("it publishes another config than the victim's")
        if dict(returned.config) != dict(other.config):
            raise Fails("the config that it publishes depends on the key")
        if {n: returned.shape(n) for n in returned} != {n: other.shape(n) for n in other}:
            raise Fails("names or shapes of what it publishes depend on the key")
        text = json.dumps(dict(returned.config), default=str)
        for name in ("", *returned):
            data = (
                returned[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if name else text.encode()
            )
            if any(part in data for part in _traces(KEY)):
                raise Fails(f"it publishes bytes of the key in {name or 'the config'}")
            tensor = returned[name] if name else torch.zeros(0)
            if name not in ("", *told) and not tensor.is_floating_point() and not torch.equal(tensor, other[name]):
                raise Fails(f"it publishes whole numbers in {name!r} that depend on the key")
        return "nothing of the key is beside the weights"

    def _function(self, architecture: str) -> str:
        if not self.spec.exact:
            raise DoesNotApply("it does not claim to keep the function (exact)")
        scenario, found = toy_scenario(architecture), {}
        for dtype, limit in ((torch.float64, DOUBLE), (torch.float32, THRESHOLDS.function)):
            here, word = in_dtype(scenario, dtype), str(dtype).removeprefix("torch.")
            name = ("opened", architecture, dtype) if self.spec.sealed else (architecture, dtype)
            trial = self.kept(name, partial(self.call, here, opened=self.spec.sealed))
            if isinstance(trial.error, (BadInput, IllegalGauge)) and architecture != self.toy:
                raise DoesNotApply(f"it does not take this architecture: {trial.error}")
            self.require_ran(trial, f"in {word} ")
            if self.spec.sealed:
                self._require_sealed(here)
            other = self.spec.changes_architecture or self.spec.renumbers
            returned = trial.checkpoint if other else trial.usable(_victim(here))
            found[word] = output_change(_victim(here), trial.sound(returned), here)
            if not found[word] <= limit:
                raise Fails(f"in {word} it changes the outputs by {found[word]:.2g}, at most {limit:g} keeps them")
        return "outputs change by " + ", ".join(f"{value:.1g} in {word}" for word, value in found.items())

    def _require_sealed(self, scenario: Scenario) -> None:
        """Raises `Fails` where what it releases runs alone."""
        change = output_change(_victim(scenario), self.call(scenario).checkpoint, scenario)
        if change <= THRESHOLDS.function:
            raise Fails("it declares sealed=True, and what it releases runs alone: its outputs stay what they were")

    def _weakened(self) -> str:
        if self.spec.weakened is None:
            raise DoesNotApply("it has no weakened variant")
        settings = {**self.plugin.settings, **self.spec.weakened}
        try:
            bound = bind(self.plugin.function, settings, name=self.plugin.spec.name)
        except RedteamError as error:
            raise Fails(f"its weakened settings are not legal: {error}") from None
        trial = self.kept("weakened", lambda: self.call(toy_scenario(self.toy), **bound))
        self.require_ran(trial, "with its weakened settings ")
        if trial.digest == self.before.digest():
            raise Fails("its weakened variant leaves the victim as it is; there is nothing to be broken")
        return "its weakened settings are legal and do something"


def _victim(scenario: Scenario) -> Checkpoint:
    return scenario.experts[scenario.victim]


def _traces(key: Key) -> list[bytes]:
    """What would be found where a key was written: its bytes, in parts, and as text."""
    raw = [key.secret[start : start + _SLICE] for start in range(0, 32, _SLICE)]
    number = str(int.from_bytes(key.secret, "big"))[:20]
    return [*raw, *(part.hex().encode() for part in raw), base64.b64encode(key.secret)[:20], number.encode()]
