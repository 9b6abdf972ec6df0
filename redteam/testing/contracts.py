"""Contract classes for pytest: subclass one, give the fixture `plugin`, and every clause is a test."""

from __future__ import annotations

from typing import Any, ClassVar

from redteam.testing.suite import checks_for


class Contract:
    """Holds a plugin to the contract of its kind.

        class TestMine(AttackContract):
            @pytest.fixture
            def plugin(self) -> str:
                return "mine.py@mine"

    A clause that fails is a failed test with its reasons; one that does not apply is skipped with its reason.
    """

    kind: ClassVar[str]

    def holds(self, plugin: Any, clause: str) -> None:
        """Runs the checks of one clause.

        Args:
            plugin: As `checks_for` takes it.
            clause: The part of their names before the colon.
        """
        import pytest

        found = [check.run() for check in checks_for(plugin, kind=self.kind) if check.clause == clause]
        assert found, f"there is no clause {clause!r}"
        told = [f"{outcome.check}: {outcome.reason}" for outcome in found if outcome.status == "failed"]
        if told:
            pytest.fail("; ".join(told), pytrace=False)
        if all(outcome.status == "not applicable" for outcome in found):
            pytest.skip(found[0].reason)

    def test_runs(self, plugin: Any) -> None:
        """It returns on an ordinary view."""
        self.holds(plugin, "runs")

    def test_global_state(self, plugin: Any) -> None:
        """It leaves no global state changed."""
        self.holds(plugin, "global state")

    def test_deterministic(self, plugin: Any) -> None:
        """Two calls give the same bits."""
        self.holds(plugin, "deterministic")

    def test_elsewhere(self, plugin: Any) -> None:
        """It gives the same bits in another process."""
        self.holds(plugin, "elsewhere")


class ViewContract(Contract):
    """What attacks, defenses and mergers have in common."""

    def test_needs(self, plugin: Any) -> None:
        """It asks for nothing beyond what it declares, and takes no more labels than granted."""
        self.holds(plugin, "needs")

    def test_layout(self, plugin: Any) -> None:
        """What it returns has the names, shapes, dtypes and config of what it was given."""
        self.holds(plugin, "layout")

    def test_finite(self, plugin: Any) -> None:
        """Every value is finite."""
        self.holds(plugin, "finite")

    def test_inputs(self, plugin: Any) -> None:
        """It writes into nothing that it was given."""
        self.holds(plugin, "inputs")

    def test_bfloat16(self, plugin: Any) -> None:
        """It works on weights in bfloat16."""
        self.holds(plugin, "bfloat16")

    def test_errors(self, plugin: Any) -> None:
        """Where it fails it raises one sentence."""
        self.holds(plugin, "errors")


class AttackContract(ViewContract):
    """The contract of attacks; see `Contract`."""

    kind = "attack"

    def test_function(self, plugin: Any) -> None:
        """It keeps the function where it claims to."""
        self.holds(plugin, "function")

    def test_harmless(self, plugin: Any) -> None:
        """It spoils no unlocked model."""
        self.holds(plugin, "harmless")

    def test_plants(self, plugin: Any) -> None:
        """Every kind of lock that it claims to undo comes off."""
        self.holds(plugin, "plants")

    def test_ceiling(self, plugin: Any) -> None:
        """A holder of the key gets the victim back."""
        self.holds(plugin, "ceiling")


class DefenseContract(ViewContract):
    """The contract of defenses; see `Contract`."""

    kind = "defense"

    def test_re_keyable(self, plugin: Any) -> None:
        """Another key gives other weights, if it draws on a key at all."""
        self.holds(plugin, "re-keyable")

    def test_secret(self, plugin: Any) -> None:
        """Nothing of the key is published."""
        self.holds(plugin, "secret")

    def test_function(self, plugin: Any) -> None:
        """It keeps the function where it claims to."""
        self.holds(plugin, "function")

    def test_weakened(self, plugin: Any) -> None:
        """Its weakened variant can be run."""
        self.holds(plugin, "weakened")


class MergerContract(ViewContract):
    """The contract of mergers; see `Contract`."""

    kind = "merger"

    def test_order(self, plugin: Any) -> None:
        """The order of the experts changes nothing."""
        self.holds(plugin, "order")

    def test_nothing_learned(self, plugin: Any) -> None:
        """Experts that are the base merge into the base."""
        self.holds(plugin, "nothing learned")

    def test_one_expert(self, plugin: Any) -> None:
        """A single expert can be merged."""
        self.holds(plugin, "one expert")

    def test_tunable(self, plugin: Any) -> None:
        """The setting that is tuned has a range whose ends work."""
        self.holds(plugin, "tunable")

    def test_network(self, plugin: Any) -> None:
        """One that keeps every expert whole has a network for every task, the same each time."""
        self.holds(plugin, "network")


class ScenarioContract(Contract):
    """The contract of scenarios; see `Contract`."""

    kind = "scenario"

    def test_seed(self, plugin: Any) -> None:
        """It takes a seed."""
        self.holds(plugin, "seed")

    def test_parts(self, plugin: Any) -> None:
        """Experts and tasks have the same names, and the victim is one of them."""
        self.holds(plugin, "parts")

    def test_layout(self, plugin: Any) -> None:
        """Every expert holds the base's tensors, and has moved away from it."""
        self.holds(plugin, "layout")

    def test_networks(self, plugin: Any) -> None:
        """Base and experts build networks that take their inputs and give logits."""
        self.holds(plugin, "networks")

    def test_answers(self, plugin: Any) -> None:
        """Scoring gives one truth value a sample."""
        self.holds(plugin, "answers")

    def test_training(self, plugin: Any) -> None:
        """Every task has batches to train on and a loss."""
        self.holds(plugin, "training")

    def test_chance(self, plugin: Any) -> None:
        """Guessing is right some of the time."""
        self.holds(plugin, "chance")

    def test_skill(self, plugin: Any) -> None:
        """Every expert is surely better than guessing and than the base."""
        self.holds(plugin, "skill")

    def test_other_seed(self, plugin: Any) -> None:
        """Another seed retrains every expert."""
        self.holds(plugin, "other seed")

    def test_victims(self, plugin: Any) -> None:
        """Where any task may be the victim, models and data stay the same."""
        self.holds(plugin, "victims")
