"""What plugins get to see, and what they don't; locks that only their key takes off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, IllegalGauge, ThreatModelViolation
from redteam.evaluation.pipelines import apply, remove
from redteam.key import Key
from redteam.plugins.contracts import DefenseSpec, Needs
from redteam.plugins.reference import Reference
from redteam.plugins.registry import LoadedPlugin
from redteam.symmetry import GeneralLinear, Orthogonal, Permutation
from redteam.tasks import Classification
from redteam.threat import DATA, OWNER, THREAT_MODELS, ThreatModel, threat_model
from redteam.views import AttackerView, DefenderView, MergerView, unlocked

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
TINY = Checkpoint.of({"w": torch.ones(2, 2)}, {})
BASE = Checkpoint.of({"w": torch.zeros(2, 2)}, {})
LABELS = {split: torch.arange(10) % 2 for split in ("train", "validation", "test")}
INPUTS = {split: {"x": torch.arange(10.0)[:, None] + 10 * i} for i, split in enumerate(LABELS)}
TASK = Classification("own", 0.5, INPUTS, LABELS)
BATCH = ({"x": torch.ones(2, 1)}, torch.ones(2).long())

GRANTED: dict[str, tuple[Needs, Callable[[AttackerView], Any]]] = {
    "anchor": (Needs.ANCHOR, lambda view: view.anchor),
    "companions": (Needs.COMPANIONS, lambda view: view.companions),
    "own_batches": (Needs.COMPANIONS, lambda view: list(view.own_batches("own", 4))),
    "own_inputs": (Needs.COMPANIONS, lambda view: view.own_inputs("own", 4)),
    "own_loss": (Needs.COMPANIONS, lambda view: view.own_loss("own", Sum(), BATCH)),
    "key": (Needs.KEY, lambda view: view.key),
    "unlock": (Needs.CODE, lambda view: view.unlock(OTHER)),
    "releases": (Needs.RELEASES, lambda view: view.releases[1]),
    "siblings": (Needs.SIBLINGS, lambda view: view.siblings["own"]),
    "samples": (Needs.SAMPLES, lambda view: view.samples()),
    "inputs": (Needs.INPUTS, lambda view: view.inputs()),
    "loss": (Needs.SAMPLES, lambda view: view.loss(Sum(), BATCH)),
    "answers": (Needs.OUTPUTS, lambda view: view.answers(BATCH[0])),
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
        _releases=(BASE,),
        _siblings={"own": BASE},
        _task=TASK,
        _owner=KEY,
        _oracle=lambda inputs: inputs["x"],
    )


class Sum(torch.nn.Module):
    """Two logits."""

    def forward(self, x: torch.Tensor) -> Any:
        return SimpleNamespace(logits=torch.cat([x, -x], dim=1))


class TestAttacker:
    @pytest.mark.parametrize("threat", sorted(THREAT_MODELS))
    @pytest.mark.parametrize("asked", sorted(GRANTED))
    def test_gets_what_the_threat_model_grants_and_no_more(self, threat: str, asked: str) -> None:
        model = threat_model(threat)
        need, ask = GRANTED[asked]
        if need in model.grants:
            assert ask(view(model)) is not None
            return
        with pytest.raises(ThreatModelViolation) as refused:
            ask(view(model))
        told = str(refused.value)
        assert f"view.{asked} asks for" in told
        assert f"threat model '{model.name}' does not grant" in told
        assert f"needs=Needs.{need.name}" in told

    @pytest.mark.parametrize("asked", sorted(GRANTED))
    def test_without_any_grant_only_the_published_model(self, asked: str) -> None:
        bare = view(ThreatModel("nothing", Needs.NONE, "Nothing but the protected weights.", "from the weights alone"))
        assert bare.protected is TINY
        with pytest.raises(ThreatModelViolation):
            GRANTED[asked][1](bare)

    def test_the_key_is_the_difference_between_the_models_that_ship(self) -> None:
        weights, leaked = threat_model("weights-only"), threat_model("leaked-key")
        assert leaked.grants & ~weights.grants == Needs.KEY
        assert threat_model("two-releases").grants & ~weights.grants == Needs.RELEASES
        assert threat_model("same-key").grants & ~weights.grants == Needs.SIBLINGS
        assert threat_model("data-rich").grants & ~weights.grants == DATA == Needs.INPUTS | Needs.SAMPLES
        assert threat_model("few-shot:samples=3").grants == threat_model("data-rich").grants
        for name in THREAT_MODELS:
            assert threat_model(name).allows(DATA) == (name in ("few-shot", "data-rich"))

    def test_what_is_granted_is_not_given_to_whoever_does_not_declare_it(self) -> None:
        for asked, (need, ask) in GRANTED.items():
            declared = view(OWNER)
            declared.needs = ~need
            with pytest.raises(ThreatModelViolation, match=rf"view.{asked} asks for .* add Needs.{need.name}"):
                ask(declared)

    def test_fewer_samples_are_the_beginning_of_more_and_never_scored_on(self) -> None:
        everything = view(threat_model("data-rich"))
        inputs, labels = everything.samples()
        assert sorted(inputs["x"].flatten().tolist()) == INPUTS["train"]["x"].flatten().tolist()
        few = view(threat_model("few-shot:samples=3"))
        assert few.meter.labels == 0
        for count, expected in ((2, 2), (None, 3), (9, 3)):
            batch = few.samples(count)
            assert batch[0]["x"].tolist() == inputs["x"][:expected].tolist()
            assert batch[1].tolist() == labels[:expected].tolist()
        assert few.meter.labels == 3
        assert few.inputs(2)["x"].tolist() == inputs["x"][:2].tolist()

    def test_steps_are_counted_as_they_are_taken(self) -> None:
        taking = view(threat_model("weights-only"))
        for index in taking.steps(10):
            if index == 3:
                break
        assert taking.meter.steps == 4

    def test_what_cannot_matter_to_an_attack_does_not_tell_threat_models_apart(self) -> None:
        def matters(name: str, needs: Needs) -> Any:
            return threat_model(name).matters(needs)

        assert matters("weights-only", Needs.ANCHOR) == matters("data-rich", Needs.ANCHOR)
        assert matters("weights-only", Needs.ANCHOR) != matters("no-base", Needs.ANCHOR)
        assert matters("stale-base", Needs.ANCHOR) != matters("stale-base:drift=2.0", Needs.ANCHOR)
        assert matters("few-shot:samples=8", Needs.SAMPLES) != matters("few-shot:samples=9", Needs.SAMPLES)
        assert matters("same-key", Needs.SIBLINGS) != matters("same-key:shared=false", Needs.SIBLINGS)
        assert matters("same-key", Needs.COMPANIONS) == matters("weights-only", Needs.COMPANIONS)
        assert matters("weights-only", Needs.COMPANIONS) == matters("no-base", Needs.COMPANIONS)

    def test_by_hand_from_two_checkpoints(self) -> None:
        made = AttackerView.by_hand(TINY, anchor=BASE)
        assert (made.protected, made.anchor) == (TINY, BASE)
        with pytest.raises(BadInput, match=r"view.anchor was asked for"):
            AttackerView.by_hand(TINY).anchor  # noqa: B018

    def test_sees_own_validation_data_and_nothing_that_is_scored(self) -> None:
        batches = list(view(threat_model("weights-only")).own_batches("own", 4))
        seen = torch.cat([inputs["x"] for inputs, _ in batches]).flatten()
        assert sorted(seen.tolist()) == INPUTS["validation"]["x"].flatten().tolist()
        with pytest.raises(KeyError):
            list(view(threat_model("weights-only")).own_batches("victim", 4))

    def test_the_loss_on_an_own_task_is_that_tasks(self) -> None:
        made = view(threat_model("weights-only"))
        assert torch.equal(made.own_loss("own", Sum(), BATCH), TASK.loss(Sum(), BATCH))
        with pytest.raises(KeyError):
            made.own_loss("victim", Sum(), BATCH)

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


def near(one: Checkpoint, two: Checkpoint) -> bool:
    return distance(one, two) <= 1e-4


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


class TestSeeded:
    """A defense whose implementation fixes its seed: the key's holder takes it off, a guess only if it is that seed."""

    @staticmethod
    def fixed(view: DefenderView) -> Checkpoint:
        return view.seeded(3).lock(("qk", "vo"), GeneralLinear())

    @staticmethod
    def link(name: str, function: Callable[[DefenderView], Checkpoint]) -> LoadedPlugin[DefenseSpec]:
        spec = DefenseSpec(name=name, exact=True, keyed=True)
        return LoadedPlugin(name, function, spec, {}, "", "", Reference(name))

    def test_the_owner_needs_no_key_of_theirs_and_whoever_counts_has_the_seed(self, victim: Checkpoint) -> None:
        locked = self.fixed(DefenderView(victim, victim, KEY))
        assert near(locked, self.fixed(DefenderView(victim, victim, OTHER))), "one seed, whatever the key"
        assert near(unlocked(locked, self.fixed, victim, KEY), victim)
        for guess, found in ((Key.of_seed(3), True), (Key.of_seed(4), False), (OTHER, False)):
            assert near(unlocked(locked, self.fixed, victim, guess, guessed=True), victim) == found

    def test_in_a_chain_by_key_and_by_guess(self, victim: Checkpoint) -> None:
        def drawn(view: DefenderView) -> Checkpoint:
            return view.lock(("vo",), GeneralLinear())

        chain = [self.link("fixed", lambda view: self.fixed(view)), self.link("drawn", drawn)]
        twice = [self.link("fixed", lambda view: self.fixed(view)) for _ in range(2)]
        locked, views = apply(chain, victim, victim, KEY, check=lambda link, before, after: after)
        assert [len(view.locks) for view in views] == [2, 1], "what is drawn from a seed is told to the owner's view"
        assert near(remove(chain, locked, victim, KEY, owner=KEY), victim)
        assert not near(remove(chain, locked, victim, Key.of_seed(3), owner=KEY), victim), "a real key in the chain"
        assert not near(remove(chain, locked, victim, OTHER, owner=KEY), victim)

        locked, _ = apply(twice, victim, victim, KEY, check=lambda link, before, after: after)
        for key, found in ((KEY, True), (Key.of_seed(3), True), (Key.of_seed(0), False), (OTHER, False)):
            assert near(remove(twice, locked, victim, key, owner=KEY), victim) == found
