from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.anatomy import ARCHITECTURES, anatomy_of
from redteam.errors import BadInput, PluginFault, UnknownName
from redteam.evaluation import metrics
from redteam.plugins.files import module_from
from redteam.plugins.reference import Reference
from redteam.testing import (
    AttackContract,
    DefenseContract,
    MergerContract,
    ScenarioContract,
    checks_for,
    plugins,
    toy_architectures,
    toy_scenario,
)

FAULTY = Path(__file__).with_name("faulty")

pytest_plugins = ("pytester",)


def faulty(kind: str, name: str) -> Reference:
    return Reference(f"{FAULTY / kind}s.py@{name}")


class TestNames:
    def test_a_name_can_belong_to_two_kinds(self) -> None:
        assert {plugin.spec.kind for plugin in plugins("none")} == {"attack", "defense"}
        with pytest.raises(BadInput, match="attack and defense"):
            checks_for("none")
        assert checks_for("none", kind="defense")

    def test_settings_are_bound(self) -> None:
        (plugin,) = plugins("hungarian:sites=[mlp]")
        assert plugin.settings["sites"] == ("mlp",)

    def test_the_function_itself_will_do(self) -> None:
        function = module_from(FAULTY / "defenses.py").sound_lock
        assert all(check.run().status == "passed" for check in checks_for(function))

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("hungarain", "did you mean 'hungarian'"),
            ("html", "There is no attack, defense, merger or scenario called 'html'"),
            (f"{FAULTY / 'attacks.py'}@soun", "did you mean 'sound"),
            ("nowhere.py@x", "Cannot read the plugin file"),
            ("none+none", "chains 2"),
            ("hungarian:sights=[mlp]", "did you mean 'sites'"),
        ],
    )
    def test_what_cannot_be_loaded_is_one_sentence(self, text: str, sentence: str) -> None:
        with pytest.raises((BadInput, UnknownName, PluginFault), match=sentence):
            checks_for(text)

    def test_a_plain_function_has_no_contract(self) -> None:
        with pytest.raises(BadInput, match="expected a function under @attack or @defense or @merger or @scenario"):
            checks_for(len)

    def test_making_checks_runs_nothing(self) -> None:
        assert len(checks_for(faulty("attack", "raises"))) > 10


class TestToys:
    def test_they_are_of_architectures_that_are_known(self) -> None:
        assert set(toy_architectures()) <= set(ARCHITECTURES)

    @pytest.mark.parametrize("architecture", toy_architectures())
    def test_nothing_is_zero_or_one(self, architecture: str) -> None:
        base = toy_scenario(architecture).base
        assert anatomy_of(base).sites(("qk", "vo", "mlp"))
        for tensor in base.values():
            assert not bool(((tensor == 0) | (tensor == 1)).any())

    @pytest.mark.parametrize("architecture", toy_architectures())
    def test_experts_are_right_and_the_base_is_not(self, architecture: str) -> None:
        scenario = toy_scenario(architecture)
        task = scenario.tasks["victim"]
        assert task.scores(scenario.experts["victim"].module()).all()
        assert task.scores(scenario.dressed(scenario.base, "victim").module()).mean() < 0.9

    def test_the_same_seed_gives_the_same_bits(self) -> None:
        before = toy_scenario("vit", seed=3, drift=0.2).digest()
        toy_scenario.__globals__["_drawn"].cache_clear()
        assert toy_scenario("vit", seed=3, drift=0.2).digest() == before
        assert toy_scenario("vit", seed=4, drift=0.2).digest() != before

    def test_there_is_no_toy_of_an_unknown_architecture(self) -> None:
        with pytest.raises(UnknownName, match="did you mean 'vit'"):
            toy_scenario("vitt")

    def test_its_function_can_be_compared(self) -> None:
        scenario = toy_scenario("vit")
        victim = scenario.experts["victim"]
        assert metrics.change(victim, victim.to(torch.bfloat16), scenario) == pytest.approx(1e-2, rel=5)


class TestClasses:
    @pytest.mark.parametrize(
        ("contract", "kind", "name"),
        [
            (AttackContract, "attack", "sound"),
            (DefenseContract, "defense", "sound-lock"),
            (MergerContract, "merger", "sound-merge"),
            (ScenarioContract, "scenario", "sound-toy"),
        ],
    )
    def test_every_clause_is_a_test(self, contract: Any, kind: str, name: str) -> None:
        clauses = {check.clause.replace(" ", "_").replace("-", "_") for check in checks_for(faulty(kind, name))}
        assert {f"test_{clause}" for clause in clauses} == {each for each in dir(contract) if each.startswith("test_")}

    def test_each_clause_passes_fails_or_is_skipped_with_its_reason(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            f"""
            import pytest
            from redteam.plugins.reference import Reference
            from redteam.testing import DefenseContract

            class TestIt(DefenseContract):
                @pytest.fixture
                def plugin(self):
                    return Reference({str(FAULTY / "defenses.py")!r} + "@ignores-key")
            """
        )
        done = pytester.runpytest_inprocess("-rfs", "-p", "no:cacheprovider")
        done.assert_outcomes(passed=12, failed=1, skipped=1)
        done.stdout.fnmatch_lines(["*test_re_keyable*", "re-keyable: two keys gave the same weights*"])
        done.stdout.fnmatch_lines(["SKIPPED*it has no weakened variant"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="looks into /proc")
def test_the_other_process_ends_with_this_one() -> None:
    program = """
        import os, signal, sys
        from redteam.testing import elsewhere
        elsewhere.start()
        print(elsewhere._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(300):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it is still there")
