"""What plugins get to see, and what they don't; locks that only their key takes off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import IllegalGauge, ThreatModelViolation
from redteam.key import Key
from redteam.plugins.contracts import Needs
from redteam.symmetry import GeneralLinear, Orthogonal, Permutation
from redteam.tasks import Classification
from redteam.threat import THREAT_MODELS, ThreatModel, threat_model
from redteam.views import AttackerView, DefenderView, MergerView, unlocked

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
TINY = Checkpoint.of({"w": torch.ones(2, 2)}, {})
BASE = Checkpoint.of({"w": torch.zeros(2, 2)}, {})
LABELS = {split: torch.arange(10) % 2 for split in ("train", "validation", "test")}
INPUTS = {split: {"x": torch.arange(10.0)[:, None] + 10 * i} for i, split in enumerate(LABELS)}
TASK = Classification("own", 0.5, INPUTS, LABELS)

GRANTED: dict[str, tuple[Needs, Callable[[AttackerView], Any]]] = {
    "anchor": (Needs.ANCHOR, lambda view: view.anchor),
    "companions": (Needs.COMPANIONS, lambda view: view.companions),
    "own_batches": (Needs.COMPANIONS, lambda view: list(view.own_batches("own", 4))),
    "key": (Needs.KEY, lambda view: view.key),
    "unlock": (Needs.CODE, lambda view: view.unlock(OTHER)),
}
"""What can be asked of a view → what the threat model must grant for it."""


def view(threat: ThreatModel) -> AttackerView:
    return AttackerView(
        TINY,
        threat,
        KEY,
        _anchor=BASE,
        _companions={"own": BASE},
        _own={"own": TASK},
        _key=OTHER,
        _unlock=lambda checkpoint, key: BASE if key == OTHER else checkpoint,
    )


class TestAttacker:
    @pytest.mark.parametrize("threat", sorted(THREAT_MODELS))
    @pytest.mark.parametrize("asked", sorted(GRANTED))
    def test_gets_what_the_threat_model_grants_and_no_more(self, threat: str, asked: str) -> None:
        model = threat_model(threat)
        need, ask = GRANTED[asked]
        if model.allows(need):
            assert ask(view(model)) is not None
            return
        with pytest.raises(ThreatModelViolation) as refused:
            ask(view(model))
        told = str(refused.value)
        assert f"view.{asked} asks for" in told
        assert f"threat model '{threat}' does not grant" in told
        assert f"needs=Needs.{need.name}" in told

    @pytest.mark.parametrize("asked", sorted(GRANTED))
    def test_without_any_grant_only_the_published_model(self, asked: str) -> None:
        bare = view(ThreatModel("nothing", Needs.NONE, "The attacker has the protected weights alone."))
        assert bare.protected is TINY
        with pytest.raises(ThreatModelViolation):
            GRANTED[asked][1](bare)

    def test_the_key_is_the_difference_between_the_models_that_ship(self) -> None:
        weights, leaked = threat_model("weights-only"), threat_model("leaked-key")
        assert leaked.grants & ~weights.grants == Needs.KEY
        for data in (Needs.INPUTS, Needs.SAMPLES):
            assert not weights.allows(data)

    def test_sees_own_validation_data_and_nothing_that_is_scored(self) -> None:
        batches = list(view(threat_model("weights-only")).own_batches("own", 4))
        seen = torch.cat([inputs["x"] for inputs, _ in batches]).flatten()
        assert sorted(seen.tolist()) == INPUTS["validation"]["x"].flatten().tolist()
        with pytest.raises(KeyError):
            list(view(threat_model("weights-only")).own_batches("victim", 4))

    def test_streams_repeat_and_differ_by_tag(self) -> None:
        one, two = view(threat_model("weights-only")), view(threat_model("weights-only"))
        assert one.generator("a").bytes(8) == two.generator("a").bytes(8)
        assert one.generator("a").bytes(8) != one.generator("b").bytes(8)

    def test_shows_no_secret_when_printed(self) -> None:
        for shown in (view(threat_model("leaked-key")), DefenderView(TINY, BASE, OTHER), MergerView({}, BASE, OTHER)):
            assert repr(OTHER.secret) not in repr(shown)
            assert OTHER.secret.hex() not in repr(shown)


@pytest.fixture
def victim(vit: Any) -> Checkpoint:
    return vit.checkpoint.to(torch.float32)  # type: ignore[no-any-return]


def one(view: DefenderView) -> Checkpoint:
    return view.lock(("qk", "vo"), GeneralLinear())


def everywhere(view: DefenderView) -> Checkpoint:
    return view.lock(("mlp",), Permutation(), checkpoint=one(view))


def overlapping(view: DefenderView) -> Checkpoint:
    """Three locks on the same heads, no two of which commute."""
    first = view.lock(("qk",), GeneralLinear(scale=(0.1, 10.0)))
    second = view.lock(("qk", "vo"), Permutation(), checkpoint=first)
    return view.lock(("qk", "vo"), Orthogonal(), checkpoint=second)


def distance(one: Checkpoint, two: Checkpoint) -> float:
    """The largest relative change of a tensor."""
    return max(float((one[n] - two[n]).norm() / two[n].norm()) for n in two)


class TestDefender:
    @pytest.mark.parametrize("defend", [one, everywhere, overlapping])
    def test_its_key_takes_the_lock_off_and_no_other_does(
        self, victim: Checkpoint, defend: Callable[[DefenderView], Checkpoint]
    ) -> None:
        locked = defend(DefenderView(victim, victim, KEY))
        assert distance(locked, victim) > 0.5
        assert distance(unlocked(locked, defend, victim, KEY), victim) <= 1e-5
        assert distance(unlocked(locked, defend, victim, OTHER), victim) > 0.5

    @pytest.mark.parametrize("defend", [one, everywhere, overlapping])
    def test_the_function_stays(self, vit: Any, defend: Callable[[DefenderView], Checkpoint]) -> None:
        assert vit.change(defend(DefenderView(vit.checkpoint, vit.checkpoint, KEY))) <= 1e-10

    def test_the_order_of_undoing_matters(self, victim: Checkpoint) -> None:
        view = DefenderView(victim, victim, KEY)
        locked = overlapping(view)
        for lock in view.locks:  # first to last, which is wrong
            locked = lock.take_off(locked)
        assert distance(locked, victim) > 0.1

    def test_two_locks_on_one_site_are_drawn_apart(self, victim: Checkpoint) -> None:
        view = DefenderView(victim, victim, KEY)
        view.lock(("qk",), Orthogonal())
        view.lock(("qk",), Orthogonal())
        first, second = view.locks
        site = first.sites[0]
        assert not torch.allclose(first.gauge(site).matrix, second.gauge(site).matrix)

    def test_a_gauge_does_not_depend_on_the_order_of_sites(self, victim: Checkpoint) -> None:
        kinds = (("qk", "vo"), ("vo", "qk"), ("vo",))
        whole, turned, part = (DefenderView(victim, victim, KEY).lock(k, GeneralLinear()) for k in kinds)
        names = [name for site in anatomy_of(victim).sites(("vo",)) for name in site.names]
        for checkpoint in (turned, part):
            # Read backwards as well, since an overlay computes a site when it is asked for.
            assert all(torch.equal(checkpoint[name], whole[name]) for name in reversed(names))

    def test_every_site_has_a_gauge_of_its_own(self, victim: Checkpoint) -> None:
        view = DefenderView(victim, victim, KEY)
        view.lock(("qk", "vo"), Orthogonal())
        drawn = [matrix for lock in view.locks for site in lock.sites for matrix in lock.gauge(site).matrix]
        assert len(drawn) == 2 * 2 * 3  # layers, kinds, heads
        assert all(not torch.allclose(a, b) for i, a in enumerate(drawn) for b in drawn[:i])

    def test_an_illegal_group_is_named_with_the_legal_ones(self, victim: Checkpoint) -> None:
        with pytest.raises(IllegalGauge, match=r"general-linear group .* at mlp/0; legal there: permutation"):
            DefenderView(victim, victim, KEY).lock(("qk", "mlp"), GeneralLinear())

    def test_training_data_where_there_is_some(self) -> None:
        with pytest.raises(ThreatModelViolation, match="asks for training data and none was given"):
            list(DefenderView(TINY, BASE, KEY).batches(4))
        batches = list(DefenderView(TINY, BASE, KEY, TASK).batches(4))
        seen = torch.cat([inputs["x"] for inputs, _ in batches]).flatten()
        assert sorted(seen.tolist()) == INPUTS["train"]["x"].flatten().tolist()

    def test_streams_for_locks_and_for_other_uses_are_apart(self) -> None:
        view = DefenderView(TINY, BASE, KEY)
        assert view.generator("0/qk/0").bytes(8) != KEY.generator("0/qk/0").bytes(8)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Nothing global changes: generators, default dtype, grad mode."""
    before = torch.get_rng_state(), repr(np.random.get_state()), torch.get_default_dtype(), torch.is_grad_enabled()  # noqa: NPY002
    yield
    assert torch.equal(before[0], torch.get_rng_state())
    after = repr(np.random.get_state()), torch.get_default_dtype(), torch.is_grad_enabled()  # noqa: NPY002
    assert before[1:] == after
